"""The ONNX engine draws what the torch engine draws, exactly the same in whatever company."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genkit.errors import InputError, ResourceError
from genkit.files import read_json
from genkit.image import graph
from genkit.image.engines import ImageRequest
from genkit.image.engines.onnx import OnnxImageEngine, _silent_stderr, import_onnxruntime, to_pixels
from genkit.image.engines.torch import TorchImageEngine
from genkit.image.modelconfig import read_model_config
from genkit.image.models.store import load_generator
from genkit.image.noise import latents
from genkit.runtime.device import Hardware, resolve
from genkit.runtime.manager import Runtime
from genkit.tensors import TensorFile
from genkit.training.weights import load_tensors, save_tensors

Save = Callable[..., Path]
ROOT = Path(__file__).parents[3]
KITTENS, NZ = ROOT / "weights/kittens", 128


def requests(seeds: range, nz: int) -> Iterator[ImageRequest]:
    return (ImageRequest(seed, latents(seed, nz)) for seed in seeds)


def by_onnx(folder: Path, seeds: range = range(5), nz: int = 8, **more: int) -> NDArray[np.uint8]:
    return np.stack([e.pixels for e in OnnxImageEngine(folder, **more).generate(requests(seeds, nz))])


def by_torch(folder: Path, seeds: range = range(5), nz: int = 8) -> NDArray[np.uint8]:
    with Runtime(resolve("cpu", engine="torch", task="image", hardware=Hardware())) as runtime:
        engine = TorchImageEngine(load_generator(folder), runtime)
        return np.stack([e.pixels for e in engine.generate(requests(seeds, nz))])


SHAPES = [{"size": 32}, {"size": 64, "channels": 1}, {"size": 128, "nz": 3, "ngf": 1}, {"nz": 33, "ngf": 5}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_agrees_with_torch(save_generator: Save, shape: dict[str, int]) -> None:
    """A level may round the other way, rarely."""
    folder, nz = save_generator(**shape), shape.get("nz", 8)
    ours, theirs = by_onnx(folder, nz=nz), by_torch(folder, nz=nz)
    assert ours.shape == theirs.shape == (5, *[shape.get("size", 32)] * 2, shape.get("channels", 3))
    assert theirs.std() > 30
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("channels", [3, 4])
def test_labels_choose_what_is_drawn(save_generator: Save, channels: int) -> None:
    folder = save_generator(arch="plus", channels=channels, classes=["a", "b", "c"])
    asked = [ImageRequest(seed, latents(seed, 8), label) for seed in (0, 1) for label in (2, 0, 1)]
    ours = [*OnnxImageEngine(folder).generate(asked)]
    with Runtime(resolve("cpu", engine="torch", task="image", hardware=Hardware())) as runtime:
        theirs = [*TorchImageEngine(load_generator(folder), runtime).generate(asked)]
    for events in (ours, theirs):
        assert [(e.seed, e.label) for e in events] == [(r.seed, r.label) for r in asked]
        assert (events[0].pixels != events[1].pixels).any()
    for a, b in zip(ours, theirs, strict=True):
        assert a.pixels.shape == (32, 32, channels)
        assert np.abs(a.pixels.astype(int) - b.pixels).max() <= 1


def test_it_draws_the_kittens_that_torch_draws() -> None:
    difference = np.abs(by_onnx(KITTENS, range(16), NZ).astype(int) - by_torch(KITTENS, range(16), NZ))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_events_are_in_order_and_hold_their_latents(save_generator: Save) -> None:
    events = list(OnnxImageEngine(save_generator()).generate(requests(range(7, 10), 8)))
    assert [(e.index, e.seed) for e in events] == [(0, 7), (1, 8), (2, 9)]
    assert all(np.array_equal(e.z, latents(e.seed, 8)) for e in events)
    assert all(e.pixels.dtype == np.uint8 and e.pixels.flags.c_contiguous for e in events)


@pytest.mark.parametrize("folder", [None, KITTENS], ids=["tiny", "kittens"])
def test_a_picture_is_the_same_in_any_company_and_on_any_number_of_threads(
    save_generator: Save, folder: Path | None
) -> None:
    nz = NZ if folder else 8
    folder = folder or save_generator()
    together = by_onnx(folder, range(20), nz, threads=1)
    for threads in (1, 2, 3):
        assert np.array_equal(by_onnx(folder, range(20), nz, threads=threads), together)
    assert np.array_equal(by_onnx(folder, range(19, -1, -1), nz)[::-1], together)
    assert np.array_equal(by_onnx(folder, range(13, 14), nz)[0], together[13])


def test_requests_are_taken_as_they_are_needed(save_generator: Save) -> None:
    taken = 0

    def endless() -> Iterator[ImageRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield ImageRequest(taken, latents(taken, 8))

    events = OnnxImageEngine(save_generator(), threads=3).generate(endless())
    next(events)
    assert taken == 6  # two a thread
    next(events)
    assert taken == 7
    events.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_an_absent_stale_or_damaged_graph_changes_nothing(save_generator: Save) -> None:
    folder = save_generator()
    path, expected = folder / graph.GRAPH, by_onnx(folder)
    assert not path.exists()
    graph.write(folder)
    whole = path.read_bytes()
    assert np.array_equal(by_onnx(folder), expected)
    config = read_model_config(read_json(folder / "config.json"))
    mark = graph.fingerprint(config, TensorFile(folder / "model.safetensors")).encode()
    path.write_bytes(whole[: len(whole) // 2] + mark)
    assert np.array_equal(by_onnx(folder), expected)
    path.write_bytes(b"")
    assert np.array_equal(by_onnx(folder), expected)
    # a crash between new weights and their graph: the old one has other offsets
    path.write_bytes(whole)
    save_tensors(folder / "model.safetensors", load_tensors(folder / "model.safetensors"), {"a": "longer header"})
    assert np.array_equal(by_onnx(folder), expected)
    assert path.read_bytes() == whole  # drawing writes nothing


def test_the_graph_on_disk_is_used(save_generator: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_generator()
    graph.write(folder)
    expected = by_onnx(folder)
    monkeypatch.setitem(sys.modules, "onnx", None)  # what would make one
    assert np.array_equal(by_onnx(folder), expected)
    (folder / graph.GRAPH).unlink()
    with pytest.raises(ImportError):
        by_onnx(folder)


def test_new_weights_under_an_old_graph_are_the_ones_drawn(save_generator: Save) -> None:
    folder, other = save_generator(), save_generator("other", seed=1)
    graph.write(folder)
    shutil.copy(other / "model.safetensors", folder)
    assert np.array_equal(by_onnx(folder), by_onnx(other))


def test_half_precision_weights_are_read(save_generator: Save) -> None:
    folder = save_generator()
    tensors = load_tensors(folder / "model.safetensors")
    halves = {name: t.bfloat16() if t.ndim > 1 else t.half() if t.ndim else t for name, t in tensors.items()}
    save_tensors(folder / "model.safetensors", halves)
    assert np.abs(by_onnx(folder).astype(int) - by_torch(folder)).max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["main.0.weight", "main.1.running_var"])
def test_weights_that_are_not_finite_are_refused(save_generator: Save, name: str, value: float) -> None:
    folder = save_generator()
    tensors = load_tensors(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"model\.safetensors: tensor .* holds numbers that are not finite"):
        OnnxImageEngine(folder)


def test_lack_of_memory_is_told_as_such(save_generator: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxImageEngine(save_generator())

    class Session:
        message = "Failed to allocate memory for requested buffer of size 99"

        def run(self, *_: object) -> None:
            raise RuntimeError(self.message)

    monkeypatch.setattr(engine, "_session", Session())
    with pytest.raises(MemoryError):
        next(engine.generate(requests(range(1), 8)))
    monkeypatch.setattr(Session, "message", "something else")
    with pytest.raises(RuntimeError, match="something else"):
        next(engine.generate(requests(range(1), 8)))


def test_levels() -> None:
    image = np.array([-1.0, 1.0, 0.0, -1 + 2 / 255, 5.0], np.float32).reshape(1, 1, 5)
    assert to_pixels(image)[0, :, 0].tolist() == [0, 255, 128, 1, 255]
    assert to_pixels(np.zeros((3, 4, 5), np.float32)).shape == (4, 5, 3)


def test_what_is_said_below_python_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with _silent_stderr():
        os.write(2, b"[W:onnxruntime:Default] GPU device discovery failed")
    os.write(2, b"heard")
    assert capfd.readouterr() == ("", "heard")
    before = len(os.listdir("/proc/self/fd"))
    with _silent_stderr():
        pass
    assert len(os.listdir("/proc/self/fd")) == before


PROGRAM = """
import os, sys
from pathlib import Path
from genkit.image.engines import ImageRequest
from genkit.image.engines.onnx import OnnxImageEngine
from genkit.image.noise import latents
os.close(2)
event = next(OnnxImageEngine(Path(sys.argv[1])).generate([ImageRequest(0, latents(0, 128))]))
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_it_imports_little_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """ONNX Runtime would keep a device id and events to send in the user's cache; also with standard error closed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_", "CI"))}
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(KITTENS)], env=kept | home, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not {"torch", "onnx", "PIL", "rich", "transformers", "safetensors"} & set(done.stdout.split())
    assert "onnxruntime" in done.stdout.split()
    assert [*tmp_path.rglob("*")] == []


def test_a_runtime_that_cannot_be_loaded_has_a_remedy(save_generator: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match=r"ONNX Runtime cannot be loaded: .*or use --engine torch"):
        OnnxImageEngine(save_generator())


def test_telemetry_is_forbidden_before_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
