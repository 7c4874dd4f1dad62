"""`genkit text --input`: what each line becomes, in which order, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genkit.runtime.device import resolve
from genkit.text.batches.tasks import line_seed

USUAL = resolve("cpu", task="text").engine
Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]

# genkit with an engine that needs no model: a row's text is a function of prompt and seed, and 1
# to 9 tokens long, or 60 where the prompt has more than 30; rows take turns, so that short ones overtake
PROGRAM = """
import os, random, resource, sys, time
from genkit.cli import entry
from genkit.pipeline.text import TextPipeline
from genkit.text.engines import TokenEvent

HOLD, LONGEST = int(os.environ.get("FAKE_HOLD", 0)), int(os.environ.get("FAKE_LONGEST", 9))

class Engine:
    context = 64

    def __init__(self, parallel):
        self.parallel, self.made = parallel, 0

    def generate(self, requests):
        requests, rows, most = enumerate(requests), [], 0
        while True:
            while len(rows) < self.parallel and (entry := next(requests, None)):
                index, request = entry
                draw = random.Random(f"{request.prompt} {request.seed}")
                left = 60 if len(request.prompt) > 30 else draw.randrange(LONGEST) + 1
                rows.append([index, request, draw, min(left, request.config.max_new_tokens)])
            if not rows:
                return
            for row in rows:
                self.made += 1
                if self.made == HOLD:
                    print("held", file=sys.stderr, flush=True)
                    while True:  # a signal just before a sleep is only seen after it
                        time.sleep(0.01)
                row[3] -= 1
                yield TokenEvent(row[0], row[2].randrange(3, 20) if row[3] else 0, None if row[3] else "eos")
            rows = [row for row in rows if row[3] and not row[1].finished]

    def close(self):
        pass

def engine(self, name, parallel):
    if not hasattr(self, "fake"):
        self.fake = Engine(parallel)
    return self.fake

TextPipeline._engine = engine
code = entry(sys.argv[1:])
if "FAKE_MEMORY" in os.environ:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def fake(tmp_path: Path, tiny_text: Path) -> Iterator[Run]:
    """Start `genkit text -m MODEL ARGS` on the engine of PROGRAM, which stops for good at token `hold`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: str, hold: int = 0, **more: Any) -> subprocess.Popen[bytes]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("GENKIT_", "SLURM_", "SGE_", "PBS_"))}
        env |= {"PYTHONPATH": str(ROOT), "FAKE_HOLD": str(hold)} | more.pop("env", {})
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        command = [sys.executable, "-c", PROGRAM, "text", "-m", str(tiny_text), *args]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def batch(fake: Run) -> Run:
    """Run it to its end: exit code, the results as JSON, standard error."""

    def run(*args: str, input: bytes | None = None, **more: Any) -> tuple[int, list[dict[str, Any]], str]:
        stdin = {} if input is None else {"stdin": subprocess.PIPE}
        process = fake(*args, **stdin, **more)
        out, err = process.communicate(input)
        lines = [line for line in out.decode().split("\n") if line.startswith("{")]
        return process.returncode, [json.loads(line) for line in lines], err.decode()

    return run


def write_prompts(path: Path, count: int) -> None:
    path.write_text("".join(f"The cat {i}\n" for i in range(1, count + 1)))


def test_results_are_in_order_one_line_a_prompt(batch: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 50)
    code, found, err = batch("--input", "a.txt", "--seed", "3")
    assert (code, err) == (0, "")
    assert [line["id"] for line in found] == [*range(1, 51)]
    assert [line["prompt"] for line in found] == (tmp_path / "a.txt").read_text().splitlines()
    assert [line["seed"] for line in found] == [line_seed(3, i) for i in range(1, 51)]
    for line in found:
        assert list(line) == ["id", "prompt", "seed", "samples"]
        assert [list(sample) for sample in line["samples"]] == [["index", "seed", "text", "finish", "tokens"]]


def test_a_line_says_what_it_wants(batch: Run, tmp_path: Path) -> None:
    asked = [
        {"id": "first", "prompt": "9 The", "max_new_tokens": 3},
        "9 cat",
        {"prompt": "9 dog", "seed": 7, "n": 2},
        {"prompt": "", "id": 40, "top_k": None},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in asked[:2]) + "\r\n\n \n")
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("\n".join(json.dumps(line) for line in asked[2:]))  # no newline at the end
    code, found, err = batch("--input", "a.jsonl", "--seed", "1")
    assert (code, err) == (0, "")
    assert [line["id"] for line in found] == ["first", 2, 5, 40]
    assert [line["prompt"] for line in found] == ["9 The", "9 cat", "9 dog", ""]
    assert [line["seed"] for line in found] == [line_seed(1, 1), line_seed(1, 2), 7, line_seed(1, 6)]
    assert found[0]["samples"][0]["tokens"] <= 3
    assert [s["seed"] for s in found[2]["samples"]] == [7, 8]


def test_bad_lines_are_named_and_the_others_done(batch: Run, tmp_path: Path) -> None:
    lines = [
        b'{"prompt": "The", "id": "x"}',
        b'{"prompt": "The"',
        b'{"promt": "The"}',
        b'{"prompt": "The", "topk": 3}',
        b'{"prompt": "The", "top_p": 7}',
        b'{"prompt": "The", "top_k": "many"}',
        b'{"prompt": "The", "id": "x"}',
        b'{"prompt": "The", "temperature": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\xff"}',
        b"[1]",
        b'{"prompt": "%s", "id": "long"}' % (b"x" * 80),
        b'{"prompt": "The", "num_beams": 4, "temperature": 0.5}',
        b'{"prompt": "The", "num_beams": 2, "regex": "a+"}',
        b'{"prompt": "The", "seed": -1}',
        b'{"prompt": "The", "id": true}',
        b'{"prompt": "The", "prompt": "cat"}',
        b'{"prompt": "cat"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    code, found, err = batch("--input", "a.jsonl", "--seed", "1")
    assert code == 7
    wanted = {
        2: "not JSON",
        3: "unknown field \"promt\" (did you mean 'prompt'?)",
        4: "unknown field \"topk\" (did you mean 'top_k'?)",
        5: "--top-p 7 is out of range",
        6: "--top-k 'many' has the wrong type",
        7: 'id "x" has occurred before',
        8: "NaN is no number",
        9: "half a surrogate pair",
        10: "not UTF-8 (byte 13 is 0xff)",
        11: "a JSON list",
        12: "the prompt has 80 tokens and the model's context 64",
        13: "--num-beams 4 draws nothing, so --temperature would do nothing",
        14: "--num-beams and --regex exclude each other",
        15: "seed -1 is not a whole number",
        16: "id true is neither text nor a whole number",
        17: "a key stands there twice",
    }
    *told, last = err.splitlines()
    assert last == "error: 16 of 18 lines were refused (their results say why, the others are done)"
    assert len(told) == 16
    told.sort(key=lambda line: int(line.split("line ")[1].split(":")[0]))
    for (number, message), line in zip(wanted.items(), told, strict=True):
        assert line.startswith(f"a.jsonl, line {number}: ")
        assert message in line
    assert len(found) == 18
    assert [line["id"] for line in found] == ["x", *range(2, 12), "long", *range(13, 19)]
    assert [i for i, line in enumerate(found, 1) if "samples" in line] == [1, 18]
    assert found[11]["error"]["code"] == "InputError"
    assert set(found[11]["error"]) == {"code", "exit_code", "message", "hint"}


def test_errors_as_json(batch: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": 1}\n')
    code, _, err = batch("--input", "a.jsonl", "--json", "--seed", "1")
    assert code == 7
    line, last = [json.loads(line)["error"] for line in err.splitlines()]
    assert (line["input"], line["line"], line["message"]) == ("a.jsonl", 1, "prompt 1 is not text")
    assert (last["code"], last["exit_code"]) == ("PartialError", 7)


def test_nothing_in_nothing_out(batch: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    assert batch("--input", "a.txt", "--seed", "1") == (0, [], "")
    assert batch("--input", "-", "--seed", "1", input=b"") == (0, [], "")
    assert batch("--input", "a.txt", "--seed", "1", "--output", "o.jsonl")[0] == 0
    assert (tmp_path / "o.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("data", "prompts"),
    [
        (b'{"prompt": "The"}\n"cat"\n', ["The", "cat"]),
        (b'"The"\n{"prompt": "cat"}\n', ["The", "cat"]),
        (b'"The," said\ncat\n', ['"The," said', "cat"]),
        (b"\xef\xbb\xbfThe\r\n\r\ncat", ["The", "cat"]),
        (b"The\x00cat\n", ["The\x00cat"]),
    ],
)
def test_standard_input_is_what_its_first_line_is(batch: Run, data: bytes, prompts: list[str]) -> None:
    code, found, _ = batch("--input", "-", "--seed", "1", input=data)
    assert [line["prompt"] for line in found] == prompts
    assert code == 0


def test_the_format_can_be_said(batch: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('{"prompt": "The"}\n')
    code, _, err = batch("--input", "a.csv")
    assert (code, err) == (
        2,
        "error: --input a.csv: is .csv text or JSON lines? (say it: --input-format text, or jsonl)\n",
    )
    found = [batch("--input", "a.csv", "--input-format", form, "-q")[1][0] for form in ("text", "jsonl")]
    assert [line["prompt"] for line in found] == ['{"prompt": "The"}', "The"]


def test_a_pipe_gives_each_result_at_once(fake: Run) -> None:
    process = fake("--input", "-", "--seed", "1", stdin=subprocess.PIPE)
    for i in range(3):
        process.stdin.write(f"3 line {i}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["prompt"] == f"3 line {i}"
    process.stdin.write(b"no newline")
    process.stdin.close()
    assert json.loads(process.stdout.read())["id"] == 4
    assert process.wait() == 0


def test_a_bad_line_in_a_pipe_is_told_at_once(fake: Run) -> None:
    process = fake("--input", "-", "--input-format", "jsonl", "--seed", "1", stdin=subprocess.PIPE)
    process.stdin.write(b"what\n")
    process.stdin.flush()
    assert "error" in json.loads(process.stdout.readline())
    process.stdin.close()
    assert process.wait() == 7


def test_an_endless_source_and_a_reader_that_leaves(fake: Run) -> None:
    with subprocess.Popen(["yes", "2 The cat"], stdout=subprocess.PIPE) as endless:
        process = fake("--input", "-", "-q", stdin=endless.stdout)
        assert [json.loads(process.stdout.readline())["id"] for _ in range(3)] == [1, 2, 3]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
        endless.kill()


@pytest.mark.parametrize("many", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_lines(fake: Run, tmp_path: Path, many: int) -> None:
    """The first takes as long as 60 others, which wait for it: at most a few MB more than for 200."""
    peaks = []
    for count in (200, many):
        with open(tmp_path / "a", "w") as file:
            for i in range(count):
                line = "a" * 40 if i == 0 else f"The {i}"
                file.write(json.dumps({"prompt": line}) + "\n")
        args = ["--input", "a", "--seed", "1", "--max-new-tokens", "60", "--parallel", "64"]
        with open(tmp_path / "out", "wb") as out:
            process = fake(*args, env={"FAKE_MEMORY": "1", "FAKE_LONGEST": "1"}, stdout=out)
            err = process.communicate()[1].decode()
        assert process.returncode == 0
        assert (tmp_path / "out").read_bytes().count(b"\n") == count
        peaks.append(int(err.split("peak ")[1]))
    assert peaks[1] - peaks[0] <= 6


# Resuming.

JOB = ("--input", "a.txt", "--output", "o.jsonl", "--parallel", "4")


@pytest.fixture
def whole(batch: Run, tmp_path: Path) -> Callable[[int], bytes]:
    """What an uninterrupted run with seed 5 leaves."""

    def run(count: int) -> bytes:
        write_prompts(tmp_path / "a.txt", count)
        assert batch(*JOB, "--seed", "5")[0] == 0
        data = (tmp_path / "o.jsonl").read_bytes()
        (tmp_path / "o.jsonl").unlink()
        return data

    return run


def held(process: subprocess.Popen[bytes]) -> bytes:
    """Wait until it is held; what it said before."""
    assert process.stderr is not None
    said = b""
    while (line := process.stderr.readline()) != b"held\n":
        assert line, "it ended"
        said += line
    return said


def kill(process: subprocess.Popen[bytes]) -> None:
    held(process)
    process.kill()
    process.wait()


def test_output_is_what_standard_output_is(batch: Run, whole: Run, tmp_path: Path) -> None:
    data = whole(20)
    assert [json.loads(line) for line in data.splitlines()] == batch("--input", "a.txt", "--seed", "5")[1]
    assert not (tmp_path / "o.jsonl.part").exists()


def test_a_killed_batch_goes_on_to_the_same_bytes(fake: Run, whole: Run, tmp_path: Path) -> None:
    wanted = whole(60)
    part = tmp_path / "o.jsonl.part"
    counts = []
    for hold in (1, 60, 80, 80, 70):
        kill(fake(*JOB, *(["--seed", "5"] if hold == 1 else []), hold=hold))
        counts.append(part.read_bytes().count(b"\n"))
        assert not (tmp_path / "o.jsonl").exists()
    assert counts[0] == 1  # the header
    assert counts == sorted(counts)
    assert 20 < counts[-1] < 60
    done = part.read_bytes().count(b"\n") - 1
    process = fake(*JOB)
    out, err = process.communicate()
    assert (process.returncode, out) == (0, b"o.jsonl\n")
    assert err.decode() == f"o.jsonl.part: {done} lines are done\n"
    assert (tmp_path / "o.jsonl").read_bytes() == wanted
    assert [*tmp_path.glob("*.part")] == []


def test_done_lines_are_not_done_again(fake: Run, batch: Run, whole: Run, tmp_path: Path) -> None:
    """What is there is taken over as it is, be it of another engine's making."""
    wanted = whole(40)
    kill(fake(*JOB, "--seed", "5", hold=100))
    header, first, *rest = (tmp_path / "o.jsonl.part").read_bytes().splitlines(keepends=True)
    marked = first.replace(b'"finish": "length"', b'"finish": "mine"')
    (tmp_path / "o.jsonl.part").write_bytes(header + marked + b"".join(rest[:-1]) + rest[-1][:-5])
    assert batch(*JOB)[0] == 0
    found = (tmp_path / "o.jsonl").read_bytes()
    assert found == wanted.replace(b'"finish": "length"', b'"finish": "mine"', 1)


def test_a_drawn_seed_is_kept(fake: Run, batch: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 40)
    process = fake(*JOB, hold=100)
    seed = held(process).decode().removeprefix("seed ").strip()
    process.kill()
    process.wait()
    assert batch(*JOB)[0] == 0
    resumed = (tmp_path / "o.jsonl").read_bytes()
    assert batch(*JOB, "--seed", seed)[0] == 0
    assert (tmp_path / "o.jsonl").read_bytes() == resumed


@pytest.mark.parametrize("torn", [b"", b'{"genki', b'{"genkit_batch": 1, "model": "ab'])
def test_a_torn_header_is_a_new_start(batch: Run, whole: Run, tmp_path: Path, torn: bytes) -> None:
    wanted = whole(5)
    (tmp_path / "o.jsonl.part").write_bytes(torn)
    assert batch(*JOB, "--seed", "5")[0] == 0
    assert (tmp_path / "o.jsonl").read_bytes() == wanted


@pytest.fixture
def half(fake: Run, tmp_path: Path) -> bytes:
    """A batch of 40 lines with seed 5 that was killed after a few; the bytes of its part."""
    write_prompts(tmp_path / "a.txt", 40)
    kill(fake(*JOB, "--seed", "5", hold=100))
    return (tmp_path / "o.jsonl.part").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--temperature", "0.5"], "temperature was 0.8 and is 0.5"),
        (["--seed", "6"], "seed was 5 and is 6"),
        (["-n", "2"], "n was 1 and is 2"),
        (["--engine", "torch"], f'engine was "{USUAL}" and is "torch"'),
        (["--input-format", "jsonl"], 'input_format was "text" and is "jsonl"'),
        (["--stop", "x"], 'stop was [] and is ["x"]'),
    ],
)
def test_another_job_is_not_mixed_in(batch: Run, half: bytes, tmp_path: Path, args: list[str], message: str) -> None:
    code, _, err = batch(*JOB, *args)
    assert code == 2
    assert err == (
        f"error: o.jsonl.part is of another job: {message} "
        "(give the settings it began with, or remove it to begin anew)\n"
    )
    assert (tmp_path / "o.jsonl.part").read_bytes() == half


def test_a_changed_input_is_named(batch: Run, half: bytes, tmp_path: Path) -> None:
    lines = (tmp_path / "a.txt").read_text().splitlines(keepends=True)
    (tmp_path / "a.txt").write_text("".join([*lines[:2], "The dog\n", *lines[3:]]))
    code, _, err = batch(*JOB)
    assert code == 3
    assert err.startswith("error: a.txt, line 3: changed since it was done (put the old input back, or remove o.j")
    (tmp_path / "a.txt").write_text("".join(lines[:2]))
    code, _, err = batch(*JOB)
    assert code == 3
    assert err.startswith("error: a.txt has become shorter: 2 lines of it, and more are done (put")
    (tmp_path / "a.txt").write_text("".join(lines))
    assert batch(*JOB)[0] == 0


def test_more_lines_may_be_added(batch: Run, half: bytes, tmp_path: Path) -> None:
    with open(tmp_path / "a.txt", "a") as file:
        file.write("One more\n")
    assert batch(*JOB)[0] == 0
    assert (tmp_path / "o.jsonl").read_bytes().count(b"\n") == 41


def test_bad_lines_of_the_killed_command_count(fake: Run, batch: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("bad\n" + '"cat"\n' * 30)
    args = ("--input", "a.jsonl", "--output", "o.jsonl", "--seed", "1")
    kill(fake(*args, hold=100))
    code, _, err = batch(*args, "-q")
    assert code == 7
    assert "1 of 31 lines were refused" in err


def test_a_foreign_part_is_left_alone(batch: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 3)
    for foreign in (b"mine", b"mine\n", b'{"a": 1}\n'):
        (tmp_path / "o.jsonl.part").write_bytes(foreign)
        code, _, err = batch(*JOB)
        assert code == 2
        assert "o.jsonl.part is in the way: it is no unfinished batch" in err
        assert (tmp_path / "o.jsonl.part").read_bytes() == foreign


def test_two_at_once_are_refused(fake: Run, batch: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 40)
    held(first := fake(*JOB, "--seed", "5", hold=100))
    code, _, err = batch(*JOB, "--seed", "5")
    assert (code, err) == (8, "error: o.jsonl is being written (wait for it, or choose another --output)\n")
    assert first.poll() is None


@pytest.mark.parametrize(("number", "code", "word"), [
    (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"),
])  # fmt: skip
def test_interrupted(fake: Run, whole: Run, batch: Run, tmp_path: Path, number: int, code: int, word: str) -> None:
    wanted = whole(60)
    held(process := fake(*JOB, "--seed", "5", hold=100))
    process.send_signal(number)
    out, err = process.communicate()
    done = (tmp_path / "o.jsonl.part").read_bytes().count(b"\n") - 1
    assert (process.returncode, out) == (code, b"")
    assert err.decode() == (
        f"error: {word}; {done} lines are done and kept in o.jsonl.part (the same command goes on from there)\n"
    )
    assert batch(*JOB)[0] == 0
    assert (tmp_path / "o.jsonl").read_bytes() == wanted


def test_no_clobber_and_no_folder(batch: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 3)
    (tmp_path / "o.jsonl").write_text("mine")
    code, _, err = batch(*JOB, "--no-clobber")
    assert (code, err) == (4, "error: o.jsonl exists (choose another name, or drop --no-clobber)\n")
    assert batch("--input", "a.txt", "--output", "none/o.jsonl")[0] == 4
    assert (tmp_path / "o.jsonl").read_text() == "mine"


# Sharding.


def test_the_shards_together_are_the_whole(batch: Run, whole: Run, tmp_path: Path) -> None:
    wanted = whole(23).splitlines()
    shards = []
    for i in (1, 2, 3):
        assert batch(*JOB, "--seed", "5", "--shard", f"{i}/3")[0] == 0
        shards.append((tmp_path / f"o-0000{i}-of-00003.jsonl").read_bytes().splitlines())
    assert [wanted[i::3] for i in range(3)] == shards
    assert not (tmp_path / "o.jsonl").exists()


def test_shard_by_the_environment(batch: Run, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 8)
    args = ("--input", "a.txt", "--seed", "5", "--shard", "env")
    _, found, _ = batch(*args, env={"RANK": "1", "WORLD_SIZE": "4"})
    assert [line["id"] for line in found] == [2, 6]
    code, _, err = batch(*args)
    assert (code, err) == (2, "error: --shard env: no launcher says which part this is (write I/N, such as 1/4)\n")
    _, found, _ = batch(*args[:4], env={"RANK": "1", "WORLD_SIZE": "4"})
    assert len(found) == 8  # never without being asked


def test_ids_are_unique_over_the_shards(batch: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n')
    results = [batch("--input", "a.jsonl", "--seed", "5", "--shard", f"{i}/2") for i in (1, 2)]
    assert [code for code, _, _ in results] == [0, 7]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["The", "--input", "a.txt"], 2, "--input holds the prompts, and one was given besides"),
        (["--input", "a.txt", "--format", "text"], 2, "--format text does not go with --input"),
        (["--input", "a.txt", "--format", "json"], 2, "--format json does not go with --input"),
        (["--input", "a.txt", "--no-echo"], 2, "--echo does not go with --input"),
        (["--input", "a.txt", "--stream"], 2, "--stream does not go with --input"),
        (["The", "--shard", "1/2"], 2, "--shard is about the lines of --input"),
        (["The", "--input-format", "text"], 2, "--input-format is about the lines of --input"),
        (["--input", "a.txt", "--shard", "0/2"], 2, "--shard '0/2' is not a part of a whole"),
        (["--input", "a.txt", "--shard", "3/2"], 2, "--shard '3/2' is not a part of a whole"),
        (["--input", "a.txt", "--parallel", "0"], 2, "--parallel 0 is out of range"),
        (["--input", "a.txt", "--output", "a.txt"], 2, "--output a.txt is the input"),
        (["--input", "none.txt"], 3, "cannot read none.txt: No such file or directory"),
        (["--input", "."], 3, "cannot read .: Is a directory"),
        (["--input", "a.txt", "--output", "new/"], 4, "cannot write new/: Is a directory"),
        (["--input", "a.txt", "--num-beams", "3", "--top-k", "5"], 2, "--num-beams 3 draws nothing, so --top-k"),
        (["--input", "a.txt", "--num-beams", "3", "--regex", "a"], 2, "--num-beams and --regex exclude each other"),
    ],
)
def test_refusals(batch: Run, tmp_path: Path, args: list[str], code: int, message: str) -> None:
    write_prompts(tmp_path / "a.txt", 2)
    found, _, err = batch(*args)
    assert (found, err.count("\n")) == (code, 1)
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# The real engine.


def test_a_line_is_what_its_prompt_gives_alone(run_genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.txt", 6)
    common = ("-m", str(tiny_text), "--parallel", "1", "--engine", "llamacpp")
    done = run_genkit("text", *common, "--input", "a.txt", "--seed", "3", "-n", "2")
    for line in [json.loads(line) for line in done.text.splitlines()][::3]:
        alone = run_genkit("text", *common, line["prompt"], "--seed", str(line["seed"]), "-n", "2", "--json")
        assert json.loads(alone.out)["samples"] == line["samples"]
