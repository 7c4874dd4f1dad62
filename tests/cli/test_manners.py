"""Shell manners, each with real processes: pipes that close, odd bytes, terminals, missing descriptors."""

from __future__ import annotations

import itertools
import json
import os
import pty
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit.cli import COMMANDS
from genkit.runtime.device import native_library

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
# what the spelling model writes, over and over: four bytes of an emoji, two of an e with accent, NUL, CR, LF
CYCLE = "🐱é\0\r\n".encode()
GENKIT = f"{shlex.quote(sys.executable)} -m genkit"
ESCAPE = b"\x1b"


def environment(**more: str) -> dict[str, str]:
    changes = ("GENKIT_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(changes)}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"} | more


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a line of bash in which `genkit` is this one."""

    def run(line: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        program = f'genkit() {{ {GENKIT} "$@"; }}\n{line}'
        options = {"cwd": tmp_path, "env": environment(), "capture_output": True} | more
        return subprocess.run(["bash", "-uo", "pipefail", "-c", program], **options)

    return run


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of single bytes that writes `CYCLE`, whatever the prompt, the seed and the temperature."""
    import torch

    from genkit.files import write_json
    from genkit.text.config import GPTConfig
    from genkit.text.models.gpt import GPT
    from genkit.text.models.store import CONFIG, GENERATION, WEIGHTS, model_files
    from genkit.text.tokenizer import train_bpe
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "speller"
    folder.mkdir()
    tokenizer = train_bpe([], 257)
    size = tokenizer.vocab_size
    token = {bytes([b]): tokenizer.encode(chr(b))[0] for b in range(128)}
    emoji, accent = tokenizer.encode("🐱"), tokenizer.encode("é")
    cycle = [*emoji, *accent, token[b"\0"], token[b"\r"], token[b"\n"]]
    assert len(set(cycle)) == len(CYCLE)
    model = GPT(
        GPTConfig(
            vocab_size=size, block_size=256, n_layer=1, n_head=1, n_kv_head=1, n_embd=288, head_dim=32, n_inner=32,
            tie_embeddings=False, eos_id=tokenizer.eos_id,
        )
    )  # fmt: skip
    after = torch.full((size,), cycle[0])
    for here, there in itertools.pairwise(cycle):
        after[here] = there
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
        model.embed.weight.copy_(torch.eye(size, 288))
        assert model.lm_head is not None
        model.lm_head.weight[after, torch.arange(size)] = 10.0  # a margin that leaves nothing to chance
    shape, generation, tensors = model_files(model, {"max_new_tokens": 27})
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, shape)
    write_json(folder / GENERATION, generation)
    tokenizer.save(folder)
    return folder


# Text of any bytes.


needs_native = pytest.mark.skipif(not native_library().exists(), reason="there was no C compiler")


@pytest.mark.parametrize("engine", ["llamacpp", "torch", pytest.param("native", marks=needs_native)])
def test_split_code_points_and_control_characters_survive(shell: Run, speller: Path, engine: str) -> None:
    """27 tokens of a byte each; no character of more than one byte is ever a token."""
    for stream in ("--stream", "--no-stream"):
        done = shell(f"genkit text -m {speller} x --no-echo --seed 0 --engine {engine} {stream}")
        assert (done.returncode, done.stdout) == (0, CYCLE * 3), done.stderr
    done = shell(f"genkit text -m {speller} x --seed 0 --engine {engine} --output out && cat out")
    assert done.stdout == b"out\nx" + CYCLE * 3


@pytest.mark.parametrize(("tokens", "end"), [(1, ""), (3, ""), (4, "🐱"), (5, "🐱"), (6, "🐱é"), (8, "🐱é\0\r")])
def test_a_text_cut_inside_a_character_is_still_utf8(shell: Run, speller: Path, tokens: int, end: str) -> None:
    done = shell(f"genkit text -m {speller} x --no-echo --seed 0 --stream --max-new-tokens {tokens}")
    text = done.stdout.decode()
    assert text.rstrip("\ufffd\n") == end
    assert ("\ufffd" in text) == (tokens in (1, 3, 5))
    assert text.endswith("\n")


def test_what_is_streamed_is_whole_characters(speller: Path, tmp_path: Path) -> None:
    """Read as it is written: no read ends inside a character, and the first comes before the last is made."""
    command = [sys.executable, "-m", "genkit", "text", "-m", str(speller), "x", "--stream", "--seed", "0", "--n", "20"]
    parts = []
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=environment(), cwd=tmp_path) as process:
        assert process.stdout is not None
        while part := os.read(process.stdout.fileno(), 1 << 16):
            parts.append(part)
    assert process.returncode == 0
    assert len(parts) > 20
    for part in parts:
        part.decode()
    assert b"".join(parts) == b"---\n".join([b"x" + CYCLE * 3] * 20)


@pytest.mark.parametrize(
    "prompt",
    [b"a\0b", b"one\r\ntwo\r\nthree", "👩‍👩‍👧‍👦 cafe\u0301 ❤️ \u202e".encode(), b"\xef\xbb\xbfmark", b" \t two  spaces ",
     b"\x1b[31mred\x07", b"\n\nbegins", "\U0010ffff\u0000\u2028".encode()],
)  # fmt: skip
def test_prompts_come_back_byte_for_byte(shell: Run, speller: Path, tmp_path: Path, prompt: bytes) -> None:
    (tmp_path / "prompt").write_bytes(prompt + b"\n")
    for flags in ("", "--stream", "--format jsonl"):
        done = shell(f"genkit text -m {speller} --seed 0 {flags} < prompt")
        assert done.returncode == 0, done.stderr
        if "jsonl" in flags:
            found = json.loads(done.stdout)
            assert (found["prompt"].encode(), found["text"].encode()) == (prompt, CYCLE * 3)
        else:
            assert done.stdout == prompt + CYCLE * 3


def test_a_terminal_gets_no_control_characters(speller: Path, tmp_path: Path) -> None:
    code, seen, _ = on_terminal(["text", "-m", str(speller), "x\x1b[31m\x07", "--seed", "0"], tmp_path, stdout=True)
    assert code == 0
    assert seen.replace(b"\r\n", b"\n") == b"x[31m" + "🐱é\n".encode() * 3


# Readers that leave.


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_head_ends_every_writer_silently(shell: Run, speller: Path, tmp_path: Path, unbuffered: str) -> None:
    (tmp_path / "prompts.txt").write_text("x\n" * 2000)
    for i in range(200):
        run = tmp_path / "runs" / f"{i:03d}-{'long' * 50}"
        run.mkdir(parents=True)
        (run / "config.json").write_text("{}")
    shared = f"-m {speller} --max-new-tokens 200 --seed 0"
    for command in (
        f"text x {shared} -n 500 --stream",
        f"text x {shared} -n 500 --format jsonl",
        f"text {shared} --input prompts.txt -q",
        "image --n 64 --seed 0 --out -",
        "models",
        "models --json",
    ):
        line = f"genkit {command} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
        done = shell(line, env=environment(PYTHONUNBUFFERED=unbuffered))
        assert (done.stdout, done.stderr) == (b"141\n", b""), command


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_by_its_path_gets_the_result_alone(
    shell: Run, speller: Path, tiny_image: Path, name: str
) -> None:
    for command in (f"text -m {speller} x --output", f"image -m {tiny_image} --format png --out"):
        done, plain = (shell(f"genkit {command} {out} --seed 0 | cat") for out in (name, "-"))
        assert (done.stdout, done.stderr) == (plain.stdout, b"")
        assert done.stdout


@pytest.mark.parametrize("command", ["info story", "doctor", "completion bash", "--help", "--version"])
def test_a_reader_that_was_never_there(shell: Run, command: str) -> None:
    done = shell(f"exec 3> >(:); wait $!; genkit {command} >&3; echo $? >&2")
    assert done.stderr == b"141\n"


# Standard input that nobody closes.


def test_an_open_standard_input_is_not_waited_for(speller: Path, tiny_image: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        for args in (
            ["text", "-m", str(speller), "x", "--seed", "0"],
            ["image", "-m", str(tiny_image), "--n", "1", "--out", "a.png", "--seed", "0"],
            ["models"],
            ["info", str(speller)],
            ["export", str(tiny_image), "--to", "onnx", "--out", "a.onnx"],
            ["completion", "zsh"],
            ["doctor"],
            ["text", "--help"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "genkit", *args],
                stdin=reader, capture_output=True, env=environment(), cwd=tmp_path, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, (args, done.stderr)
    finally:
        os.close(reader)
        os.close(writer)


def test_standard_input_is_left_for_the_next_command(shell: Run, speller: Path) -> None:
    """As in `while read`: a command that is given a prompt takes no line away from the loop."""
    loop = f"while read -r word; do genkit text -m {speller} $word --no-echo --max-new-tokens 4 -q; done"
    assert shell(f"printf 'a\\nb\\nc\\n' | {loop}").stdout == "🐱\n".encode() * 3


# Colour, and what a terminal changes.


def on_terminal(
    args: list[str], folder: Path, *, stdout: bool = False, env: dict[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    """Exit code, what a terminal showed, and what a pipe got: one is standard output, the other standard error."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "genkit", *args],
        stdin=subprocess.DEVNULL,
        stdout=follower if stdout else subprocess.PIPE,
        stderr=subprocess.PIPE if stdout else follower,
        env=environment(**(env or {})),
        cwd=folder,
    )
    os.close(follower)
    shown: list[bytes] = []

    def watch() -> None:
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            shown.append(data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    piped = process.stderr if stdout else process.stdout
    assert piped is not None
    data = piped.read()
    piped.close()
    process.wait()
    watcher.join()
    os.close(leader)
    return process.returncode, b"".join(shown), data


ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {}, {"NO_COLOR": "1"}, {"NO_COLOR": ""}, {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"},
    {"TERM": "dumb"}, {"CLICOLOR_FORCE": "1"}, {"CLICOLOR_FORCE": "0"},
)  # fmt: skip


def colored(flag: str, env: dict[str, str], terminal: bool) -> bool:
    if flag != "auto":
        return flag == "always"
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR") or env.get("CLICOLOR_FORCE") == "1":
        return True
    return terminal and env.get("TERM") != "dumb"


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=lambda env: " ".join(f"{k}={v}" for k, v in env.items()) or "plain")
def test_colour_of_errors(env: dict[str, str], tmp_path: Path) -> None:
    for flag, terminal in itertools.product(("auto", "always", "never"), (False, True)):
        args = ["info", "nowhere", "--color", flag]
        if terminal:
            code, err, out = on_terminal(args, tmp_path, env=env)
        else:
            done = subprocess.run(
                [sys.executable, "-m", "genkit", *args], capture_output=True, env=environment(**env), cwd=tmp_path
            )
            code, err, out = done.returncode, done.stderr, done.stdout
        assert (code, out) == (3, b"")
        assert (ESCAPE in err) == colored(flag, env, terminal), (flag, terminal, err)
        assert b"no model 'nowhere'" in err


@pytest.mark.parametrize(
    "env", [{"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str
)
def test_no_stray_byte_on_standard_output(speller: Path, tiny_image: Path, tmp_path: Path, env: dict[str, str]) -> None:
    """Standard output is the same whether anybody watches standard error in colour or not."""
    for args in (
        ["text", "-m", str(speller), "x", "--seed", "0", "-v"],
        ["text", "-m", str(speller), "x", "--seed", "0", "--stream", "--color", "always"],
        ["text", "-m", str(speller), "x", "--seed", "0", "--json"],
        ["image", "-m", str(tiny_image), "--n", "2", "--seed", "0", "--out", "-", "-v"],
        ["models"],
        ["info", str(speller)],
        ["--help"],
        ["text", "--help"],
    ):
        plain = subprocess.run(
            [sys.executable, "-m", "genkit", *args], capture_output=True, env=environment(), cwd=tmp_path
        )
        code, _, out = on_terminal(args, tmp_path, env=env)
        assert (code, plain.returncode) == (0, 0)
        assert out == plain.stdout
        if args[0] != "image":
            assert ESCAPE not in out


def test_a_table_on_a_terminal_has_colour_only_where_it_is_wanted(tmp_path: Path) -> None:
    for env, wanted in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        code, shown, err = on_terminal(["models"], tmp_path, stdout=True, env=env)
        assert (code, err) == (0, b"")
        assert b"kittens" in shown
        if not wanted:
            assert ESCAPE not in shown


# Descriptors that are missing, and disks that are full.


@pytest.fixture
def commands(speller: Path, tiny_image: Path) -> dict[str, tuple[str, bytes | None]]:
    """Name -> command, and what it writes to standard output if that is known."""
    return {
        "text": (f"text -m {speller} x --seed 0 --max-new-tokens 9", b"x" + CYCLE),
        "file": (f"text -m {speller} x --seed 0 --max-new-tokens 9 --output out.txt", b"out.txt\n"),
        "image": (f"image -m {tiny_image} --n 2 --seed 0 --out a.png", b"a.png\n"),
        "pixels": (f"image -m {tiny_image} --n 2 --seed 0 --out -", None),
        "models": ("models", None),
        "info": (f"info {speller}", None),
        "eval": (f"eval {speller} --data {speller}/config.json --text-field model_type", None),
        "export": (f"export {speller} --to gguf --out a.gguf", b"a.gguf\n"),
        "completion": ("completion fish", None),
    }


def test_without_standard_input(shell: Run, commands: dict[str, tuple[str, bytes | None]]) -> None:
    for command, expected in commands.values():
        done = shell(f"genkit {command} <&-")
        assert done.returncode == 0, (command, done.stderr)
        assert expected is None or done.stdout == expected
    done = shell("genkit text <&-")
    assert (done.returncode, done.stdout) == (2, b"")


def test_without_standard_error(
    shell: Run, commands: dict[str, tuple[str, bytes | None]], speller: Path, tmp_path: Path
) -> None:
    """A file that is opened then gets the number 2: nothing may write there what was meant for people."""
    for command, expected in commands.values():
        done = shell(f"genkit {command} -v 2>&-")
        assert (done.returncode, done.stderr) == (0, b""), command
        assert expected is None or done.stdout == expected
    assert (tmp_path / "out.txt").read_bytes() == b"x" + CYCLE
    same = shell(f"genkit export {speller} --to gguf --out b.gguf && cmp a.gguf b.gguf")
    assert same.returncode == 0
    done = shell("genkit info nowhere 2>&-")
    assert (done.returncode, done.stdout) == (3, b"")


def test_without_standard_output(shell: Run, commands: dict[str, tuple[str, bytes | None]]) -> None:
    for command, _ in commands.values():
        done = shell(f"genkit {command} >&-")
        assert done.returncode == 4, (command, done.stderr)
        assert done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"error: standard output is closed"), command


def test_without_any(shell: Run, commands: dict[str, tuple[str, bytes | None]]) -> None:
    for command, _ in commands.values():
        assert shell(f"genkit {command} <&- >&- 2>&-").returncode == 4, command
    assert shell("genkit info nowhere <&- >&- 2>&-").returncode == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(shell: Run, commands: dict[str, tuple[str, bytes | None]], speller: Path) -> None:
    for command, _ in commands.values():
        done = shell(f"genkit {command} >/dev/full")
        assert done.returncode == 4, (command, done.stderr)
        assert done.stderr.count(b"\n") == 1
        assert b"No space left on device" in done.stderr
        done = shell(f"genkit {command} 2>/dev/full")
        assert done.returncode == 0, command
    for flags in ("--stream", "--output /dev/full", "--format jsonl", "--json"):
        done = shell(f"genkit text -m {speller} x --seed 0 {flags} >/dev/full")
        assert (done.returncode, done.stderr.count(b"\n")) == (4, 1), flags


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_fills_up_on_the_way(shell: Run, unbuffered: str, tmp_path: Path) -> None:
    """A write then ends early without an error; the next one fails."""
    line = "ulimit -f 8; genkit image --n 16 --seed 0 --out - > out.png"
    done = shell(line, env=environment(PYTHONUNBUFFERED=unbuffered))
    assert (done.returncode, done.stderr.count(b"\n")) == (4, 1), done.stderr
    assert b"cannot write to standard output: File too large" in done.stderr
    assert (tmp_path / "out.png").stat().st_size == 8192


def test_every_command_refuses_in_one_line(shell: Run) -> None:
    for command in COMMANDS:
        done = shell(f"genkit {command} --bogus-flag")
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1
        assert done.stderr.startswith(b"error: no such option --bogus-flag")
