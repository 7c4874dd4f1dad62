"""The graphs of all layouts draw what the networks draw, for shapes at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from genkit.image import graph
from genkit.image.engines.onnx import import_onnxruntime
from genkit.image.modelconfig import ARCHES, SIZES, read_model_config
from genkit.image.models.networks import generator_of
from genkit.image.models.store import load_generator
from genkit.tensors import TensorFile

Save = Callable[..., Path]


def random_shapes(count: int) -> list[dict[str, Any]]:
    """Sizes, channels and classes in turn, the rest at random."""
    chance = random.Random(0)
    return [
        {
            "arch": "plus",
            "size": SIZES[i % 4],
            "channels": (1, 3, 4)[i % 3],
            "nz": chance.randint(1, 40),
            "ngf": chance.randint(1, 6),
            "classes": [f"class {k}" for k in range(chance.randint(2, 9) if i % 2 else 0)],
            "smoothing": (0, 2.5, 20)[i // 4 % 3],
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_are_those_of_the_network(arch: str, size: int, channels: int) -> None:
    for classes in ((), ("a", "b", "c"))[: 1 + (arch != "dcgan")]:
        config = read_model_config(
            {"arch": arch, "size": size, "channels": channels, "nz": 7, "ngf": 3, "classes": classes}
        )
        with torch.device("meta"):
            network = generator_of(config)
        assert graph.shapes(config) == {name: tuple(t.shape) for name, t in network.state_dict().items()}


@pytest.mark.parametrize(
    "shape", random_shapes(12), ids=lambda s: f"{s['size']}-{s['channels']}-{len(s['classes'])}-{s['smoothing']}"
)
def test_a_graph_draws_what_its_network_draws(save_generator: Save, shape: dict[str, Any]) -> None:
    folder = save_generator(**shape)
    network, classes = load_generator(folder), len(shape["classes"])
    z = torch.randn(5, shape["nz"], generator=torch.Generator().manual_seed(1))
    y = torch.arange(5) % classes if classes else None
    with torch.inference_mode():
        expected = network(z, y).numpy()
    made = graph.whole_graph(network.config, TensorFile(folder / "model.safetensors"))
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    session = import_onnxruntime().InferenceSession(made, providers=["CPUExecutionProvider"])
    feed = {"z": z.numpy()} | ({"y": y.numpy()} if y is not None else {})
    assert [entry.name for entry in session.get_inputs()] == [*feed]
    drawn = session.run(["image"], feed)[0]
    assert drawn.shape == (5, shape["channels"], shape["size"], shape["size"])
    assert expected.std() > 0.2  # pictures, not one shade
    assert np.ptp(expected, axis=0).max() > 0.1  # that differ
    # where an edge is about to be evened out or kept, smoothing makes much of the last bits
    np.testing.assert_allclose(drawn, expected, atol=5e-4 if shape["smoothing"] else 2e-5)


def test_every_label_has_its_picture(save_generator: Save) -> None:
    network = load_generator(save_generator(arch="plus", classes=["a", "b", "c"]))
    with torch.inference_mode():
        images = network(torch.zeros(3, 8), torch.arange(3))
    assert min(float((images[i] - images[j]).abs().max()) for i, j in ((0, 1), (1, 2), (0, 2))) > 0.01


def test_the_names_of_classes_travel_with_a_whole_graph(save_generator: Save) -> None:
    folder = save_generator(arch="plus", classes=["猫", "\udcff"])
    config, weights = load_generator(folder).config, TensorFile(folder / "model.safetensors")
    whole, pointing = (
        {entry.key: entry.value for entry in onnx.load_from_string(made(config, weights)).metadata_props}
        for made in (graph.whole_graph, graph.graph)
    )
    assert whole["classes"] == '["猫", "\\udcff"]'  # a folder's name need not be text
    assert [*pointing] == ["genkit"]
