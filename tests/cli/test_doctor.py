"""`genkit doctor`: what it finds, and that each problem has a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from genkit.cli import doctor
from genkit.runtime.device import CudaDevice, Hardware

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the self-tests, which start two processes."""
    monkeypatch.setattr(doctor, "TESTS", {})


def test_a_machine_on_which_all_works(genkit: Run) -> None:
    done = genkit("doctor", "--json")
    found = json.loads(done.out)
    assert (done.code, done.err, found["ok"]) == (0, "", True)
    assert found["tests"]["text"]["ok"]
    assert found["tests"]["image"]["ok"]
    assert found["tests"]["text"]["ms"] > 10  # a whole process, not nothing
    assert found["engines"]["onnx"] == version("onnxruntime")
    assert found["engines"]["torch"] == version("torch")
    assert found["free_bytes"] > 0
    assert "cpu" in found["devices"]


@pytest.mark.usefixtures("no_tests")
def test_the_report(genkit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/a").write_bytes(bytes(2_500_000))
    lines = genkit("doctor").text.splitlines()
    assert f"cache.path: {tmp_path / 'cache'}" in lines
    assert "cache.bytes: 2.5 MB" in lines
    assert f"engines.torch: {version('torch')}" in lines
    assert all(": " in line for line in lines)


@pytest.mark.usefixtures("no_tests")
def test_what_is_missing_is_named_with_its_remedy(genkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"onnx": "no-such-package"})
    monkeypatch.setattr(doctor, "EXTRAS", {"zstd": "no-such-package"})
    monkeypatch.setattr(doctor, "LITTLE_ROOM", 1 << 60)
    done = genkit("doctor")
    assert done.code == 0  # nothing that the default commands need
    assert "engines.onnx: not installed" in done.text
    assert "extras.zstd: not installed (pip install 'genkit-cli[zstd]')" in done.text
    assert "note: the onnx engine is not installed (pip install no-such-package)" in done.text
    assert "(free some space; training needs more)" in done.text
    problems = json.loads(genkit("doctor", "--json").out)["problems"]
    assert all(problem["remedy"] and not problem["fatal"] for problem in problems)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("text", "-m", "nowhere", "x"), "genkit text fails: no model 'nowhere'"),
        (("models", "--color", "never", "--json", "x"), "genkit text fails: {"),
        (("completion", "bash"), None),
    ],
)
def test_a_failing_command_is_fatal(
    genkit: Run, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], said: str | None
) -> None:
    monkeypatch.setattr(doctor, "TESTS", {"text": args})
    done = genkit("doctor", "--json")
    found = json.loads(done.out)
    assert found["ok"] == (said is None)
    assert done.code == (0 if said is None else 5)
    if said is not None:
        (problem,) = (problem for problem in found["problems"] if problem["fatal"])
        assert problem["what"].startswith(said)
        assert json.loads(done.err)["error"]["code"] == "ResourceError"
        text = genkit("doctor")
        assert text.code == 5
        assert text.err.count("\n") == 1
        assert f"problem: {said}" in text.text


def test_a_process_that_is_killed(genkit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one is whose wheel was built for another CPU."""
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -ILL $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    done = genkit("doctor")
    assert done.code == 5
    assert "problem: genkit text fails: it ended with -4" in done.text


def test_a_process_that_hangs(genkit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(doctor, "PATIENCE", 0.1)
    done = genkit("doctor")
    assert done.code == 5
    assert "genkit text does not run" in done.text


def test_the_settings_of_the_user_are_left_out_of_the_tests(
    genkit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "TESTS", {"models": ("models",)})
    monkeypatch.setenv("GENKIT_TEXT_MODEL", "nowhere")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # with "." in it the folder is meant to be looked into
    (tmp_path / "genkit").mkdir()
    (tmp_path / "click.py").write_text("raise SystemExit('the folder of the user was imported')")
    assert genkit("doctor").code == 0


@pytest.mark.usefixtures("no_tests")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(genkit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "locked/cache"))
    done = genkit("doctor")
    assert done.code == 0
    assert "cannot be written (set GENKIT_CACHE to a folder that can)" in done.text


@pytest.mark.usefixtures("no_tests")
def test_gpus(genkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Hardware(cuda=(CudaDevice("NVIDIA H100", (9, 0), 80_000_000_000),), cpus=4, cuda_problem="")
    monkeypatch.setattr(doctor, "detect", lambda: there)
    found = json.loads(genkit("doctor", "--json").out)
    assert found["devices"]["cuda:0"].split(", ")[0] == "bf16"
    assert found["sampling"]["text"] == "torch on cuda:0 in bf16"
    assert (found["no_cuda"], found["problems"], found["threads"]) == (None, [], 4)
    monkeypatch.setattr(doctor, "detect", lambda: Hardware(cuda_problem="the NVIDIA driver does not work (version)"))
    assert "note: no CUDA: the NVIDIA driver does not work (version) (" in genkit("doctor").text


def test_every_extra_is_known() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name: packages for name, packages in extras.items() if name not in ("test", "dev")}
    assert doctor.EXTRAS.keys() == named.keys()
    for name, package in doctor.EXTRAS.items():
        assert any(requirement.startswith(package) for requirement in named[name])


def test_it_imports_neither_torch_nor_an_engine() -> None:
    program = (
        "import sys; from genkit.cli import doctor, entry; doctor.TESTS = {}; entry(['doctor']); "
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"torch", "numpy", "onnxruntime", "xllamacpp"} & set(done.stdout.splitlines()[-1].split())
