"""`genkit text`: where the prompt comes from, what is written, and what is refused."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genkit import library
from genkit.cli.samples import in_order
from genkit.cli.terminal import printable
from genkit.pipeline import TextEvent
from genkit.runtime.device import native_library, resolve

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]

SEED = 2
USUAL = resolve("cpu", task="text").engine
needs_native = pytest.mark.skipif(not native_library().exists(), reason="there was no C compiler")


@pytest.fixture
def write(genkit: Run, tiny_text: Path) -> Run:
    """Run `genkit text` on the tiny model. The sample of `SEED` goes on to the full length, on every engine."""

    def run(*args: str, input: bytes | io.BytesIO = b"") -> Any:
        return genkit(
            "text", "-m", str(tiny_text), *([] if "--seed" in args else ["--seed", str(SEED)]), *args, input=input
        )

    return run


def test_story_reads_whole_and_ends_with_a_newline(write: Run) -> None:
    done = write("The cat")
    assert (done.code, done.err) == (0, "")
    assert done.text.startswith("The cat")
    assert done.text.endswith("\n")
    assert write("The cat", "--no-echo").text == done.text.removeprefix("The cat")


def test_model_settings_count_unless_the_user_says_otherwise(write: Run) -> None:
    """The tiny model's generation_config.json has max_new_tokens 12."""
    whole, short = (json.loads(write("The", "--json", *more).out) for more in ([], ["--max-new-tokens", "5"]))
    assert (whole["settings"]["max_new_tokens"], short["settings"]["max_new_tokens"]) == (12, 5)
    assert whole["samples"][0]["text"].startswith(short["samples"][0]["text"])
    assert whole["samples"][0]["text"] != short["samples"][0]["text"]


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"top_k": None, "temperature": 1, "max_new_tokens": 5}, 0, ""),
        ({"top_k": "many"}, 3, "model/generation_config.json: --top-k 'many' has the wrong type"),
        ({"top_p": 7.0}, 3, "--top-p 7.0 is out of range"),
        ({"temperature": float("nan")}, 3, "--temperature nan is out of range"),
    ],
)
def test_settings_of_a_foreign_model(
    genkit: Run, tiny_text: Path, tmp_path: Path, settings: dict[str, Any], code: int, message: str
) -> None:
    shutil.copytree(tiny_text, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(json.dumps(settings))
    done = genkit("text", "-m", "model", "The", "-q")
    assert done.code == code
    assert message in done.err


def test_same_seed_same_text_and_samples_count_up(write: Run) -> None:
    both = write("The", "--seed", "5", "-n", "2").text.split("---\n")
    assert both[0] == write("The", "--seed", "5").text
    assert both[1] == write("The", "--seed", "6").text
    assert both[0] != both[1]


def test_random_seed_is_told(genkit: Run, tiny_text: Path) -> None:
    done = genkit("text", "-m", str(tiny_text), "The")
    seed = done.err.removeprefix("seed ").strip()
    assert genkit("text", "-m", str(tiny_text), "The", "--seed", seed).text == done.text
    assert genkit("text", "-m", str(tiny_text), "The", "-q").err == ""


def test_prompt_from_standard_input(write: Run) -> None:
    wanted = write("The cat").out
    assert write(input=b"The cat\n").out == wanted
    assert write(input=b"The cat").out == wanted
    assert write(input=b"The cat\r\n").out == wanted
    assert write("-", input=b"The cat\n").out == wanted
    assert write("The", "-", input=b"cat\n").out == write("The\ncat").out
    assert write("-", "cat", input=b"The\n").out == write("The\ncat").out


class Untouchable(io.BytesIO):
    def read(self, *_: Any) -> bytes:
        raise AssertionError("standard input was read")


def test_an_argument_leaves_standard_input_alone(write: Run) -> None:
    """A parent that keeps the pipe open must not make it wait."""
    assert write("The", input=Untouchable()).code == 0
    assert write(input=Untouchable()).code == 1


def test_empty_prompt_starts_from_nothing(write: Run) -> None:
    done = write("", "--json")
    assert done.code == 0
    assert json.loads(done.out)["prompt"] == ""


def test_json(write: Run) -> None:
    found = json.loads(write("The", "-n", "2", "--format", "json").out)
    assert found["prompt"] == "The"
    assert found["seed"] == SEED
    assert [(s["index"], s["seed"]) for s in found["samples"]] == [(0, SEED), (1, SEED + 1)]
    assert [s["finish"] for s in found["samples"]] == [
        "length" if s["tokens"] == found["settings"]["max_new_tokens"] else "eos" for s in found["samples"]
    ]
    assert len(found["model_sha256"]) == 64
    assert write("The", "-n", "2", "--json").out == write("The", "-n", "2", "--format", "json").out


def test_jsonl_is_a_line_a_sample(write: Run) -> None:
    lines = [json.loads(line) for line in write("The", "-n", "3", "--format", "jsonl").text.splitlines()]
    assert [line["seed"] for line in lines] == [SEED, SEED + 1, SEED + 2]
    texts = [s["text"] for s in json.loads(write("The", "-n", "3", "--json").out)["samples"]]
    assert [line["text"] for line in lines] == texts
    assert all(line["prompt"] == "The" for line in lines)


def test_stop_string_is_not_shown(write: Run) -> None:
    whole = json.loads(write("The", "--json").out)["samples"][0]["text"]
    stop = whole[4:6]
    cut = json.loads(write("The", "--json", "--stop", stop).out)["samples"][0]
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish"] == "stop"


def test_json_says_what_ran(write: Run) -> None:
    found = json.loads(write("The", "--json", "--engine", "llamacpp", "--precision", "fp32").out)
    assert (found["engine"], found["precision"]) == ("llamacpp", "fp32")
    moved = write("The", "--json", "--bad-word", "cat", "--num-beams", "2", "-n", "2", "-v")
    assert f"--num-beams and --bad-word: done by torch, which {USUAL} cannot" in moved.err.splitlines()
    found = json.loads(moved.out)
    assert (found["engine"], found["precision"], found["settings"]["temperature"]) == ("torch", "fp32", 0.0)
    assert [s["seed"] for s in found["samples"]] == [SEED, SEED]  # a search draws nothing


@needs_native
def test_the_native_engine_writes_what_torch_writes(write: Run) -> None:
    args = ("The", "-n", "3", "--temperature", "1", "--repetition-penalty", "1.2", "--logit-bias", "t=1.5", "--json")
    found, reference = (json.loads(write(*args, "--engine", engine).out) for engine in ("native", "torch"))
    assert (found["engine"], found["precision"]) == ("native", "fp32")
    assert [s["text"] for s in found["samples"]] == [s["text"] for s in reference["samples"]]
    done = write("The", "--max-new-tokens", "300", "--engine", "native", "--seed", "5")  # longer than the context
    assert done.out == write("The", "--max-new-tokens", "300", "--engine", "torch", "--seed", "5").out


@needs_native
def test_what_the_native_engine_cannot_do_is_refused(write: Run) -> None:
    for flags, problem in (
        (("--bad-word", "cat"), "--engine native cannot do --bad-word (use --engine torch)"),
        (("--regex", "a+"), "--engine native cannot do --regex (use --engine llamacpp)"),
        (("--precision", "int4"), "--precision int4 does not work with --engine native (use fp32 or int8)"),
    ):
        done = write("The", "--engine", "native", *flags)
        assert (done.text, done.err.strip()) == ("", f"error: {problem}")


def test_verbose_says_how_fast(write: Run) -> None:
    err = write("The", "-v").err
    assert re.search(rf"^{USUAL} loaded the model in \d+\.\d\d s$", err, re.MULTILINE)
    assert re.search(r"^12 tokens in \d+\.\d\d s, the first after \d+\.\d\d s: \d+ tokens/s$", err, re.MULTILINE)


@pytest.mark.parametrize("engine", ["llamacpp", "torch", pytest.param("native", marks=needs_native)])
def test_log_probabilities(write: Run, engine: str) -> None:
    """Of the model itself: they do not depend on how the token was drawn, and a greedy one is the likeliest."""
    args = ["The", "--logprobs", "3", "--temperature", "0", "--engine", engine, "--precision", "fp32"]
    sample = json.loads(write(*args, "--format", "jsonl", "--max-new-tokens", "5").out)
    assert len(sample["logprobs"]) == sample["tokens"] == 5
    assert "".join(entry["token"] for entry in sample["logprobs"]) == sample["text"]
    for entry in sample["logprobs"]:
        assert list(entry) == ["token", "id", "logprob", "top_logprobs"]
        assert [list(top) for top in entry["top_logprobs"]] == [["token", "id", "logprob"]] * 3
        assert entry["top_logprobs"][0] == {k: entry[k] for k in ("token", "id", "logprob")}
        chances = [math.exp(top["logprob"]) for top in entry["top_logprobs"]]
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) < 1
    alone = json.loads(write(*args, "--logprobs", "0", "--json", "--max-new-tokens", "5").out)["samples"][0]
    assert [e["logprob"] for e in alone["logprobs"]] == pytest.approx([e["logprob"] for e in sample["logprobs"]])
    assert {len(e["top_logprobs"]) for e in alone["logprobs"]} == {0}


SCHEMA = '{"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}'


def test_constraints_are_a_file_or_the_thing_itself(genkit: Run, tmp_path: Path) -> None:
    """The bundled model knows brackets and digits."""
    (tmp_path / "list.json").write_text(SCHEMA)
    (tmp_path / "list.gbnf").write_text('root ::= "[" [12] "," " "? [12] "]"')
    (tmp_path / "{odd").write_text(SCHEMA)
    given = [
        ("--json-schema", SCHEMA), ("--json-schema", "list.json"), ("--json-schema", "./{odd"),
        ("--grammar", (tmp_path / "list.gbnf").read_text()), ("--grammar", "list.gbnf"), ("--regex", r"\[[12],[12]\]"),
    ]  # fmt: skip
    for flag, value in given:
        done = genkit("text", "One, two:", "--seed", "1", "--no-echo", flag, value)
        assert (done.code, done.err) == (0, "")
        assert json.loads(done.out) in ([1, 1], [1, 2], [2, 1], [2, 2])


def test_a_constraint_has_the_output_to_itself_and_a_cut_is_told(write: Run) -> None:
    """A pipe shall get JSON; one that is not whole is no silent success."""
    rule = ["--regex", "[a-z]{20,}", "--max-new-tokens", "5"]
    done, echoed = write("The", *rule), write("The", *rule, "--echo")
    assert echoed.text == "The" + done.text
    assert done.err == "sample 0 was cut after 5 tokens, so --regex may not fit (raise --max-new-tokens)\n"
    assert write("The", *rule, "-q").err == ""
    assert "(leave --stop out)" in write("The", *rule, "--stop", done.text[1:3]).err
    assert write("The", "--regex", "[a-z]").err == ""


def test_a_precision_that_the_engine_of_a_knob_lacks_names_the_knob(write: Run) -> None:
    done = write("The", "--precision", "int8", "--no-repeat-ngram-size", "2")
    assert (done.code, done.out) == (5, b"")
    assert done.err.startswith("error: --no-repeat-ngram-size needs torch, and --precision int8 does not work on cpu")


def test_a_hub_model_is_looked_up_once(genkit: Run, tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(library, "_from_hub", lambda name: asked.append(name) or tiny_text)
    done = genkit("text", "-m", "hf:org/tiny", "The", "--max-new-tokens", "2", "--verbose", "--format", "json")
    assert (done.code, asked) == (0, ["hf:org/tiny"])
    assert json.loads(done.out)["model"] == "hf:org/tiny"


def test_a_gguf_file_is_a_model(genkit: Run, tmp_path: Path) -> None:
    from genkit.text.gguf.convert import write_gguf

    write_gguf(library.find("story"), tmp_path / "x.gguf", "fp16")
    args = ["Once upon a", "--seed", "1", "--max-new-tokens", "12", "--json", "--logprobs", "1"]
    same = ["--temperature", "0.8", "--repetition-penalty", "1", "--precision", "fp16"]  # a .gguf recommends nothing
    ours = json.loads(genkit("text", *args, *same).out)
    foreign = json.loads(genkit("text", "-m", "x.gguf", *args).out)
    assert foreign["samples"] == ours["samples"]
    assert (foreign["engine"], foreign["precision"], len(foreign["model_sha256"])) == ("llamacpp", None, 64)
    refused = genkit("text", "-m", "x.gguf", "The", "--num-beams", "2")
    assert (refused.code, refused.out) == (2, b"")
    assert "x.gguf runs on llama.cpp alone, which cannot do --num-beams" in refused.err


def test_streaming_changes_nothing_in_a_pipe(write: Run) -> None:
    assert write("The", "-n", "2", "--stream").out == write("The", "-n", "2", "--no-stream").out


def test_output_file(write: Run, tmp_path: Path) -> None:
    done = write("The", "--output", "a.txt")
    assert (done.code, done.text) == (0, "a.txt\n")
    assert (tmp_path / "a.txt").read_bytes() == write("The").out
    refused = write("The", "--output", "a.txt", "--no-clobber")
    assert refused.code == 4
    assert "a.txt exists" in refused.err
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_output_dash_is_standard_output(write: Run, tmp_path: Path) -> None:
    assert write("The", "--output", "-").out == write("The").out
    assert [*tmp_path.iterdir()] == []


def test_out_of_memory_is_a_matter_of_resources(write: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("genkit.text.engines.torch.TorchTextEngine.generate", exhausted)
    done = write("The", "--engine", "torch")
    assert (done.code, done.err) == (
        5, "error: out of memory (lower -n or --max-new-tokens, or use --device cpu)\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "input", "code", "message"),
    [
        (["x" * 100], b"", 3, "the prompt has 100 tokens and the model's context 64 (shorten it to 63"),
        ([], b"", 3, "standard input holds no prompt"),
        ([], b"\n", 3, "standard input holds no prompt"),
        ([], b"ab\xff", 3, "standard input is not UTF-8 (byte 2 is 0xff)"),
        (["a\udcff"], b"", 3, "the prompt is not valid UTF-8"),
        (["a", "b"], b"", 2, "2 prompts were given"),
        (["a", "-", "-"], b"", 2, "3 prompts were given"),
        (["a", "--top-p", "0"], b"", 2, "--top-p 0.0 is out of range (use 0 < x <= 1)"),
        (["a", "--temperature", "nan"], b"", 2, "--temperature nan is out of range"),
        (["a", "--stop", ""], b"", 2, "--stop '' would end every text at once"),
        (["a", "--bad-word", ""], b"", 2, "--bad-word '' would forbid all"),
        (["a", "--logit-bias", "a=1e39"], b"", 2, "--logit-bias 'a=1e39' is out of range (use -1000 <= BIAS <= 1000"),
        (["a", "--output", "new/"], b"", 4, "cannot write new/: Is a directory (this is a folder; give a file name)"),
        (["a", "--min-new-tokens", "13"], b"", 2, "--min-new-tokens 13 is more than --max-new-tokens 12"),
        (["a", "--min-new-tokens", "9", "--max-new-tokens", "5"], b"", 2, "--min-new-tokens 9 is more than"),
        (["a", "--json", "--format", "text"], b"", 2, "--json and --format text contradict each other"),
        (["a", "--stream", "--format", "jsonl"], b"", 2, "--stream does not go with --format jsonl"),
        (["a", "--format", "xml"], b"", 2, "Invalid value for '--format'"),
        (["a", "--num-beams", "2", "--top-k", "5"], b"", 2, "--num-beams 2 draws nothing, so --top-k would do nothing"),
        (["a", "--num-beams", "2", "-n", "3"], b"", 2, "--num-beams 2 cannot return 3 texts (raise it to 3)"),
        (["a", "--length-penalty", "2"], b"", 2, "--length-penalty is about a beam search (add --num-beams 4"),
        (["a", "--num-beams", "2", "--regex", "a"], b"", 2, "--num-beams and --regex exclude each other"),
        (
            ["a", "--engine", "torch", "--regex", "a"],
            b"",
            2,
            "--engine torch cannot do --regex (use --engine llamacpp)",
        ),
        (["a", "--logprobs", "2"], b"", 2, "--logprobs 2 does not show in text (add --format jsonl)"),
        (
            ["a", "--json-schema", "x.json"],
            b"",
            3,
            "--json-schema x.json: neither a schema nor a file that can be read: No",
        ),
        (["a", "--json-schema", "{oops"], b"", 2, "--json-schema"),
        (["a", "--json-schema", "/dev/null"], b"", 3, "--json-schema /dev/null: not a schema (a schema begins with {)"),
        (["a", "--grammar", "."], b"", 3, "--grammar .: neither a grammar nor a file that can be read: Is a directory"),
        (["a", "--grammar", "root ::= ("], b"", 2, "--grammar"),
        (["a", "--output", "none/a.txt"], b"", 4, "cannot write none/a.txt"),
        (["a", "--device", "cuda:99"], b"", 5, "--device cuda:99 is not on this machine"),
    ],
)
def test_refusals(write: Run, tmp_path: Path, args: list[str], input: bytes, code: int, message: str) -> None:
    done = write(*args, input=input)
    assert (done.code, done.out) == (code, b"")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert [*tmp_path.iterdir()] == []


def test_image_model_is_refused(genkit: Run, tiny_image: Path) -> None:
    done = genkit("text", "-m", str(tiny_image), "The")
    assert (done.code, done.err) == (3, f"error: {tiny_image} is an image model (use genkit image)\n")


def test_endless_standard_input_is_refused(run_genkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["/bin/sh", "-c", "yes"], stdout=subprocess.PIPE) as endless:
        done = subprocess.run(
            [sys.executable, "-m", "genkit", "text"], stdin=endless.stdout, capture_output=True, text=True, cwd=ROOT
        )
        endless.kill()
    assert done.returncode == 3
    assert done.stderr.startswith("error: the prompt on standard input is longer than 16 MiB")


def read_terminal(controller: int) -> tuple[list[bytes], threading.Thread]:
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(controller, 65536):
                pieces.append(piece)
        except OSError:  # Linux: the other end is closed
            pass

    thread = threading.Thread(target=read)
    thread.start()
    return pieces, thread


def on_terminal(*args: str) -> tuple[int, bytes, str]:
    """Run genkit with standard output on a terminal: exit code, what it shows, stderr."""
    controller, terminal = pty.openpty()
    pieces, thread = read_terminal(controller)
    done = subprocess.run(
        [sys.executable, "-m", "genkit", *args], stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(terminal)
    thread.join()
    os.close(controller)
    return done.returncode, b"".join(pieces), done.stderr.decode()


def test_nothing_on_a_terminal_is_short_help() -> None:
    code, shown, err = on_terminal("text")
    assert (code, shown) == (2, b"")
    assert err.startswith("Usage: genkit text")
    assert "genkit text --help" in err


def test_escape_sequences_are_stripped_on_a_terminal_only(tiny_text: Path, write: Run) -> None:
    prompt = "\x1b[31mThe\x07"
    code, shown, _ = on_terminal("text", "-m", str(tiny_text), "--seed", "1", prompt)
    assert code == 0
    assert shown.startswith((b"The", b"[31mThe"))
    assert b"\x1b" not in shown
    assert write(prompt).out.startswith(prompt.encode())


def test_printable_keeps_text() -> None:
    assert printable("a\tb\nc\x1b\x9b\x7f\r\x00é猫") == "a\tb\ncé猫"


def events(*pieces: tuple[int, str, str | None]) -> list[TextEvent]:
    return [TextEvent(0, index, text, finish, 0) for index, text, finish in pieces]


def test_samples_are_put_in_order() -> None:
    mixed = events((1, "b", None), (0, "a", None), (1, "B", "eos"), (2, "c", "stop"), (0, "A", "length"))
    assert "".join(e.text for e in in_order(mixed, 3)) == "aAbBc"


def test_first_sample_is_not_held_back() -> None:
    seen: list[str] = []

    def live() -> Any:
        for event in events((0, "a", None), (1, "b", None), (0, "A", None), (0, "!", "eos"), (1, "B", "eos")):
            seen.append(f"made {event.text}")
            yield event

    for event in in_order(live(), 2):
        seen.append(f"got {event.text}")
    assert seen == ["made a", "got a", "made b", "made A", "got A", "made !", "got !", "got b", "made B", "got B"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_sampling(start_genkit: Run, tiny_text: Path, number: int, code: int) -> None:
    long = ["-n", "4096", "--max-new-tokens", "60", "--format", "jsonl", "--seed", "1"]
    process = start_genkit("text", "-m", str(tiny_text), "The", *long)
    first = process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for line in [first, *out.splitlines()]:
        json.loads(line)


def test_reader_that_leaves(start_genkit: Run, tiny_text: Path) -> None:
    process = start_genkit("text", "-m", str(tiny_text), "The", "-n", "4096", "--format", "jsonl", "-q")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
