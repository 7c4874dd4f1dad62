"""Errors become one line and an exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit import errors
from genkit.cli.boundary import as_genkit, guarded
from genkit.cli.terminal import Terminal, one_line

Run = Callable[..., Any]


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.GenkitError("m"), 1),
        (errors.UsageError("m"), 2),
        (errors.InputError("m"), 3),
        (errors.OutputError("m"), 4),
        (errors.ResourceError("m"), 5),
        (errors.TrainingStopped("m"), 6),
        (errors.PartialError("m"), 7),
        (errors.RunBusyError("m"), 8),
        (errors.Interrupted("m"), 130),
        (errors.Terminated("m"), 143),
        (KeyboardInterrupt(), 130),
        (errors.TerminateSignal(), 143),
        (MemoryError(), 5),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (ZeroDivisionError("division by zero"), 1),
        (RecursionError("too deep"), 1),
    ],
)
def test_every_error_is_one_line_and_its_code(
    error: BaseException, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error), Terminal()) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_hint_follows_the_message(capfd: pytest.CaptureFixture[str]) -> None:
    guarded(raising(errors.InputError("x.pt is a pickle", "use safetensors")), Terminal())
    assert capfd.readouterr().err == "error: x.pt is a pickle (use safetensors)\n"


def test_json_error_is_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(errors.OutputError("full", "free some space")), Terminal(json=True)) == 4
    assert json.loads(capfd.readouterr().err) == {
        "error": {"code": "OutputError", "exit_code": 4, "message": "full", "hint": "free some space"}
    }


def test_debug_adds_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    guarded(raising(ZeroDivisionError("division by zero")), Terminal(debug=True))
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: internal: ZeroDivisionError: division by zero")


def test_color_only_when_asked(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    guarded(raising(errors.UsageError("m")), Terminal(color="always"))
    assert "\x1b[31m" in capfd.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    guarded(raising(errors.UsageError("m")), Terminal())
    assert "\x1b[31m" in capfd.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    guarded(raising(errors.UsageError("m")), Terminal())
    assert capfd.readouterr().err == "error: m\n"


def test_messages_cannot_drive_the_terminal() -> None:
    assert one_line("a\nb\tc  d") == "a b c d"
    assert one_line("x\x1b[31my\x07") == r"x\x1b[31my\x07"
    assert one_line("naïve 猫") == "naïve 猫"


def test_permission_and_pipes_are_not_disk_full() -> None:
    assert as_genkit(OSError(errno.EACCES, "Permission denied")).exit_code == 1
    assert as_genkit(OSError(errno.EDQUOT, "Quota exceeded")).exit_code == 4


@pytest.mark.parametrize("args", [["txt"], ["--vresion"], ["text", "--temprature", "1"], ["text", "a", "b"]])
def test_usage_errors_are_one_line_with_a_remedy(genkit: Run, args: list[str]) -> None:
    done = genkit(*args)
    assert (done.code, done.out) == (2, b"")
    assert done.err.count("\n") == 1
    assert "(" in done.err


def test_suggestions(genkit: Run) -> None:
    assert genkit("txt").err == "error: no such command 'txt' (did you mean 'text'?)\n"
    assert "did you mean --temperature?" in genkit("text", "--temprature", "1").err
    assert "did you mean 'spectral'?" in genkit("train-gan", "--d-norm", "spektral").err
    assert "see genkit image --help" in genkit("image", "--zzz").err


def test_usage_errors_as_json(genkit: Run) -> None:
    for args in (["text", "--json", "--tpo-p", "1"], ["text", "--top-p", "7", "--json"], ["image", "--json", "x"]):
        error = json.loads(genkit(*args).err)["error"]
        assert (error["code"], error["exit_code"]) == ("UsageError", 2)
        assert error["hint"]
    # an option's value is not a flag
    assert genkit("text", "--", "--json", "b", "c").err.startswith("error: ")


def test_warnings_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        warnings.simplefilter("always")
        warnings.warn("slow\n path", stacklevel=1)

    assert guarded(run, Terminal()) == 0
    assert capfd.readouterr().err == "warning: slow path\n"
    assert guarded(run, Terminal(quiet=True)) == 0
    assert capfd.readouterr().err == ""


def test_no_command_is_short_help_on_stderr(run_genkit: Run) -> None:
    done = run_genkit()
    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("Usage: genkit")


def test_help_to_a_full_disk(run_genkit: Run) -> None:
    with open("/dev/full", "wb") as full:
        done = run_genkit("--help", stdout=full)
    assert done.code == 4
    assert done.err.startswith("error: cannot write")
    assert done.err.count("\n") == 1


def test_help_into_a_closed_pipe_is_silent(run_genkit: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = run_genkit("--help", stdout=closed)
    assert (done.code, done.err) == (141, "")


def program(body: str) -> str:
    """A process that runs `body` under the boundary."""
    return (
        "import sys, time\n"
        "from genkit.cli.boundary import guarded\n"
        "from genkit.cli.terminal import Terminal, write\n"
        f"def run():\n    {body}\n"
        "sys.exit(guarded(run, Terminal()))\n"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: int, code: int) -> None:
    body = "write('ready\\n'); [time.sleep(0.01) for _ in range(6000)]"  # one before a sleep is only seen after it
    with subprocess.Popen([sys.executable, "-c", program(body)], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_reader_that_leaves_ends_it_silently() -> None:
    body = "[write(f'line {i}\\n') for i in range(10**6)]"
    with subprocess.Popen([sys.executable, "-c", program(body)], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_full_disk_in_the_last_flush(tmp_path: Path) -> None:
    """Data that stays in the buffer until the end must fail in the boundary, not in the interpreter."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program("write('text', flush=False)")], stdout=full, stderr=-1, text=True
        )
    assert done.returncode == 4
    assert (
        done.stderr
        == "error: cannot write to standard output: No space left on device (free some space or write elsewhere)\n"
    )


def test_no_standard_output_at_all() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec '{sys.executable}' -c \"$0\" >&-", program("write('text')")], stderr=-1, text=True
    )
    assert done.returncode == 4
    assert done.stderr.startswith("error: standard output is closed")
