"""The ONNX graph beside the weights: what it says, what it points to, and that others can draw from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from genkit.errors import InputError
from genkit.files import check_safetensors, write_json
from genkit.image import graph
from genkit.image.modelconfig import SIZES, DCGANConfig, read_model_config
from genkit.image.models.dcgan import Generator
from genkit.image.models.store import load_generator
from genkit.image.noise import seeded_latents
from genkit.tensors import TensorFile
from genkit.training.weights import load_tensors, save_tensors

BARE = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save("images.npy", session.run(["image"], {"z": numpy.load("z.npy")})[0])
assert not any(name.split(".")[0] in ("genkit", "torch") for name in sys.modules)
"""


@pytest.fixture
def model(tiny_image: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_image, tmp_path / "model"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_are_those_of_the_network(size: int, channels: int) -> None:
    config = DCGANConfig(size=size, channels=channels, nz=7, ngf=3)
    with torch.device("meta"):
        network = Generator(config)
    assert graph.shapes(config) == {name: tuple(t.shape) for name, t in network.state_dict().items()}


def test_every_initialiser_points_at_its_tensor(model: Path) -> None:
    graph.write(model)
    onnx.checker.check_model(str(model / graph.GRAPH), full_check=True)
    held = onnx.load(model / graph.GRAPH, load_external_data=False)
    data, tensors = (model / "model.safetensors").read_bytes(), load_tensors(model / "model.safetensors")
    pointers = [t for t in held.graph.initializer if t.external_data]
    assert {t.name for t in pointers} == {name for name, t in tensors.items() if t.ndim}
    for pointer in pointers:
        place = {p.key: p.value for p in pointer.external_data}
        assert place.pop("location") == "model.safetensors"
        begin, length = int(place["offset"]), int(place["length"])
        assert data[begin : begin + length] == tensors[pointer.name].numpy().tobytes()
    z, image = held.graph.input[0], held.graph.output[0]
    assert [d.dim_param or d.dim_value for d in z.type.tensor_type.shape.dim] == ["N", 8]
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["N", 3, 32, 32]
    assert (model / graph.GRAPH).stat().st_size < 5000


@pytest.mark.parametrize("self_contained", [False, True])
def test_a_script_without_genkit_draws_from_it(
    save_generator: Callable[..., Path], tmp_path: Path, self_contained: bool
) -> None:
    model = save_generator()
    path = tmp_path / "elsewhere.onnx" if self_contained else model / graph.GRAPH
    graph.write(model, path if self_contained else None, self_contained=self_contained)
    z = seeded_latents(range(5), 8)
    np.save(tmp_path / "z.npy", z)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", BARE, str(path)], cwd=tmp_path, env=environment, check=True)
    with torch.inference_mode():
        expected = load_generator(model)(torch.from_numpy(z)).numpy()
    drawn = np.load(tmp_path / "images.npy")
    assert drawn.shape == (5, 3, 32, 32)
    assert expected.std() > 0.2  # pictures, not one shade
    np.testing.assert_allclose(drawn, expected, atol=1e-5)


def shape(model: Path) -> DCGANConfig:
    return read_model_config(json.loads((model / "config.json").read_text()))


def test_the_bundled_graph_is_the_one_that_its_weights_give() -> None:
    folder = Path(__file__).parents[2] / "weights/kittens"
    header = TensorFile(folder / "model.safetensors")
    assert graph.stored(folder, shape(folder), header) == graph.graph(shape(folder), header)


def test_a_graph_belongs_to_a_header_and_a_config(model: Path) -> None:
    header = TensorFile(model / "model.safetensors")
    assert graph.stored(model, shape(model), header) is None
    graph.write(model)
    made = graph.stored(model, shape(model), header)
    assert made == graph.graph(shape(model), header) == (model / graph.GRAPH).read_bytes()
    assert graph.stored(model, replace(shape(model), ndf=999), header) == made  # of which a generator knows nothing
    tensors = load_tensors(model / "model.safetensors")
    save_tensors(model / "model.safetensors", {name: t + 1 for name, t in tensors.items()})
    assert graph.stored(model, shape(model), TensorFile(model / "model.safetensors")) == made  # the same places
    save_tensors(model / "model.safetensors", tensors, {"made": "later"})
    assert graph.stored(model, shape(model), TensorFile(model / "model.safetensors")) is None  # the offsets have moved


def test_a_graph_belongs_to_its_smoothing(save_generator: Callable[..., Path]) -> None:
    folder = save_generator(arch="plus", smoothing=5)
    graph.write(folder)
    header = TensorFile(folder / "model.safetensors")
    assert graph.stored(folder, shape(folder), header)
    assert graph.stored(folder, replace(shape(folder), smoothing=5.0), header)
    assert graph.stored(folder, replace(shape(folder), smoothing=0), header) is None
    assert graph.stored(folder, replace(shape(folder), smoothing=5.5), header) is None


def test_what_a_graph_cannot_point_into(model: Path, tmp_path: Path) -> None:
    tensors = load_tensors(model / "model.safetensors")
    save_tensors(model / "model.safetensors", tensors | {"main.0.weight": tensors["main.0.weight"].half()})
    with pytest.raises(InputError, match=r"tensor 'main.0.weight' is F16, and generator.onnx points to F32 only"):
        graph.write(model)
    graph.write(model, tmp_path / "whole.onnx", self_contained=True)
    onnx.checker.check_model(str(tmp_path / "whole.onnx"), full_check=True)
    assert not (model / graph.GRAPH).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nz": 9}, r"different: main.0.weight is \[8, 16, 4, 4\], not \[9, 16, 4, 4\]"),
        ({"size": 64}, r"missing: main.10.bias, main.10.num_batches_tracked, main.10.running_mean; different: main.0"),
        ({"size": 48}, "size=48 is not a dcgan"),
    ],
)
def test_weights_of_another_model(model: Path, change: dict[str, int], message: str) -> None:
    write_json(model / "config.json", json.loads((model / "config.json").read_text()) | change)
    with pytest.raises(InputError, match=message):
        graph.write(model)
    assert not (model / graph.GRAPH).exists()


def test_damaged_weights_leave_no_graph(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for self_contained in (False, True):
        with pytest.raises(InputError, match=r"model\.safetensors is not safetensors"):
            graph.write(model, self_contained=self_contained)
    assert not (model / graph.GRAPH).exists()
    with pytest.raises(InputError):
        check_safetensors(path)
