"""Where llama.cpp's HTTP server listens, and what stands in for a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit.text.config import GenerationConfig
from genkit.text.engines import lacks, llamaserver

ASKED = ("text", "The", "-n", "2", "--max-new-tokens", "5", "--seed", "1", "-q")


def test_a_very_long_temporary_folder_will_do(tiny_text: Path, tmp_path: Path, run_genkit: Callable[..., Any]) -> None:
    long = tmp_path / ("x" * 120) / ("y" * 120)
    long.mkdir(parents=True)
    usual = run_genkit(*ASKED, "-m", str(tiny_text))
    moved = run_genkit(*ASKED, "-m", str(tiny_text), env={"TMPDIR": str(long)})
    assert (moved.code, moved.out, moved.err) == (0, usual.out, "")
    assert not list(long.iterdir())


def test_without_a_folder_it_listens_on_this_machine_behind_a_password(
    tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import http.client

    from genkit.text.gguf.convert import gguf_view

    monkeypatch.setattr(llamaserver, "_private_folder", lambda: None)
    server = llamaserver.start_server(gguf_view(tiny_text, "fp32"), parallel=1, threads=1, context=64, exact=True)
    place = server.listening_address.split("//")[-1]
    assert place.startswith("127.0.0.1:")
    connection = http.client.HTTPConnection(place)
    connection.request("POST", "/completion", '{"prompt": [1], "n_predict": 1}', {"Content-Type": "application/json"})
    assert connection.getresponse().status == 401
    connection.close()
    llamaserver.stop_server(server)


@pytest.mark.parametrize("gone", [OSError("full"), FileNotFoundError("No usable temporary directory found")])
def test_no_temporary_folder_is_no_error(gone: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> str:
        raise gone

    monkeypatch.setattr(llamaserver.tempfile, "mkdtemp", fail)
    assert llamaserver._private_folder() is None


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_it_runs_without_a_network(tiny_text: Path, tmp_path: Path) -> None:
    alone = ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    done = subprocess.run(
        [*alone, sys.executable, "-m", "genkit", *ASKED, "-m", tiny_text],
        capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
def test_torchs_idle_threads_go_before_llama_cpp_counts_them() -> None:
    code = """
import ctypes, os, time, torch
from genkit.text.engines.llamaserver import end_idle_threads

def threads():
    return len(os.listdir("/proc/self/task"))

def compute():
    return (torch.ones(600, 600) @ torch.ones(600, 600)).sum().item()

ctypes.CDLL("libgomp.so.1")  # the runtime that both use; where torch has another, there is nothing to end
torch.set_num_threads(4)
alone = threads()
compute()
assert threads() == alone + 3, (alone, threads())
end_idle_threads()
deadline = time.monotonic() + 60
while threads() > alone and time.monotonic() < deadline:
    time.sleep(0.01)
assert threads() == alone, (alone, threads())
assert compute() == 600.0**3  # with new ones
"""
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    if "libgomp.so.1: cannot open" in done.stderr:
        pytest.skip("torch has another OpenMP here")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("penalty", "bias", "flags"),
    [
        (1.1, (((3,), 2.0),), ("--logit-bias",)),
        (1.1, (((3,), float("-inf")), ((4,), -0.5)), ("--logit-bias",)),
        (1.1, (((3,), float("-inf")),), ()),
        (1.1, (), ()),
        (1.0, (((3,), 2.0),), ()),
        (1.0, (((3, 4), float("-inf")),), ("--logit-bias",)),
    ],
)
def test_a_bias_goes_before_no_penalty(penalty: float, bias: Any, flags: tuple[str, ...]) -> None:
    """llama.cpp penalises after the bias, genkit before it; what is forbidden stays so either way."""
    assert lacks("llamacpp", GenerationConfig(repetition_penalty=penalty), bias) == flags
