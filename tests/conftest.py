"""Fixtures that several tests share: tiny models, and ways to run the command line."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import onnxruntime themselves report to nobody either

ROOT = Path(__file__).parents[1]
CORPUS = "The cat sat on the mat. The dog ran to the cat. A bird sang in the tree.\n" * 40


@pytest.fixture(autouse=True, scope="session")
def signals() -> None:
    """Tests that run in the background would inherit a SIGINT that is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests make goes into a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("OMP_NUM_THREADS", raising=False)  # torch has read it; llama.cpp would wait in busy loops
        yield


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


def clean_env(**more: str) -> dict[str, str]:
    """The environment without what changes genkit's behaviour."""
    changes = ("GENKIT_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(changes) or k == "GENKIT_CACHE"}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture
def run_genkit(tmp_path: Path) -> Callable[..., Result]:
    """Run `genkit ARGS` as a process in `tmp_path`; standard input is empty unless given."""

    def run(*args: str, input: bytes = b"", env: dict[str, str] | None = None, **more: Any) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "genkit", *args],
            input=input,
            env=clean_env(**(env or {})),
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            cwd=more.pop("cwd", tmp_path),
            **more,
        )
        return Result(done.returncode, done.stdout or b"", done.stderr.decode())

    return run


@pytest.fixture
def start_genkit(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `genkit ARGS` in `tmp_path` and go on; both outputs are pipes of text."""
    with ExitStack() as stack:

        def start(*args: str, **more: Any) -> subprocess.Popen[str]:
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            command = [sys.executable, "-m", "genkit", *args]
            process = subprocess.Popen(command, text=True, cwd=tmp_path, env=clean_env(), **(pipes | more))
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def start_ranks(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Start a script as `count` ranks of a job in `tmp_path`, which spares torchrun's own imports."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *, count: int = 2) -> list[subprocess.Popen[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            command = [sys.executable, "-c", script]
            started.append(subprocess.Popen(command, env=os.environ | shared | own, cwd=tmp_path, text=True, **pipes))
        return started[-count:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def told_by_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """What each rank of a script printed; all must succeed."""

    def run(script: str, *, count: int = 2) -> list[str]:
        processes = start_ranks(script, count=count)
        told = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0] * count, told
        return [out for out, _ in told]

    return run


@pytest.fixture
def genkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Result]:
    """Run `genkit ARGS` inside this process, which spares the imports."""
    from genkit.cli import entry

    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - clean_env().keys():
        monkeypatch.delenv(name)

    def run(*args: str, input: bytes | io.BytesIO = b"") -> Result:
        stdin = io.BytesIO(input) if isinstance(input, bytes) else input
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
        capfdbinary.readouterr()
        code = entry(args)
        out, err = capfdbinary.readouterr()
        return Result(code, out, err.decode())

    return run


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: a character GPT with random weights and a context of 64."""
    import torch

    from genkit.files import write_json
    from genkit.text.config import GPTConfig
    from genkit.text.models.gpt import GPT
    from genkit.text.models.store import CONFIG, GENERATION, WEIGHTS, model_files
    from genkit.text.tokenizer import train_char
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "tiny-text"
    folder.mkdir()
    tokenizer = train_char([CORPUS])
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            vocab_size=tokenizer.vocab_size,
            block_size=64,
            n_layer=2,
            n_head=2,
            n_kv_head=1,
            n_embd=32,
            head_dim=16,
            n_inner=64,
            eos_id=tokenizer.eos_id,
        )
    )
    shape, generation, tensors = model_files(model, {"max_new_tokens": 12})
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, shape)
    write_json(folder / GENERATION, generation)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: a DCGAN for 32 pixels with random weights."""
    import torch

    from genkit.files import write_json
    from genkit.image.modelconfig import DCGANConfig
    from genkit.image.models.dcgan import Generator
    from genkit.image.models.store import CONFIG, WEIGHTS
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "tiny-image"
    folder.mkdir()
    torch.manual_seed(0)
    shape = DCGANConfig(size=32, nz=8, ngf=4, ndf=4)
    save_tensors(folder / WEIGHTS, Generator(shape).state_dict())
    write_json(folder / CONFIG, shape.to_dict())
    return folder


@pytest.fixture(scope="session")
def tiny_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: 32 pixels, transparency and three classes, with random weights."""
    import torch

    from genkit.files import write_json
    from genkit.image.modelconfig import PlusConfig
    from genkit.image.models.networks import generator_of
    from genkit.image.models.store import CONFIG, WEIGHTS
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "tiny-classes"
    folder.mkdir()
    torch.manual_seed(0)
    shape = PlusConfig(size=32, channels=4, nz=8, ngf=4, ndf=4, classes=("apple", "cherry", "pear"))
    generator = generator_of(shape)
    for parameter in generator.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    save_tensors(folder / WEIGHTS, generator.state_dict())
    write_json(folder / CONFIG, shape.to_dict())
    return folder
