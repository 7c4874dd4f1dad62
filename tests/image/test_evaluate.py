"""Images against images, through a model that draws what the test wants."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genkit.errors import InputError
from genkit.files import write_json
from genkit.image import evaluate, features, inception
from genkit.image.engines import ImageEvent
from genkit.image.evalconfig import ImageEvalConfig
from genkit.image.evaluate import ImageEvaluation, evaluate_images
from genkit.image.modelconfig import DCGANConfig, PlusConfig
from genkit.pipeline import ImagePipeline
from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime

PIXELS = ("swd", "diversity", "nearest")
SIZE = 32


def squares(n: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = np.full((n, SIZE, SIZE, channels), 40, np.uint8)
    for image, (top, left) in zip(drawn, rng.integers(0, SIZE // 2, (n, 2)), strict=True):
        image[top : top + 16, left : left + 16] = rng.integers(100, 256, channels)
    return drawn


def save(folder: Path, images: np.ndarray) -> str:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(folder / f"{i:03}.png")
    return str(folder)


class Drawer:
    """Draws image i of some for seed i, and remembers what it was asked for."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.labels: list[str | int] | None = None

    def __call__(self, seeds: Iterable[int], *, labels: Iterable[str | int] | None = None) -> Iterator[ImageEvent]:
        self.labels = None if labels is None else list(labels)
        for index, seed in enumerate(seeds):
            yield ImageEvent(index, seed, self.images[seed], np.zeros(1, np.float32))


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Inception file, and no network for features unless a test wants one."""
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(features, "available", lambda: False)


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., ImageEvaluation]:
    """Evaluate a drawer on images, or on the folder that they are in."""

    def run(draw: Drawer, data: np.ndarray | str, *, shape: Any = None, **more: Any) -> ImageEvaluation:
        data = data if isinstance(data, str) else save(tmp_path / "data", data)
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        write_json(folder / "config.json", (shape or DCGANConfig(size=SIZE)).to_dict())
        report = more.pop("on_progress", lambda fraction, text: None)
        runtime = Runtime(Placement("cpu", "fp32", "onnx", ""))
        return evaluate_images(ImageEvalConfig(data=data, **more), folder, draw, runtime, report)

    return run


def test_a_perfect_model_is_at_the_floor_and_a_bad_one_is_not(
    compare: Callable[..., ImageEvaluation], tmp_path: Path
) -> None:
    data = squares(200)
    good = compare(Drawer(squares(100, seed=1)), data)
    assert tuple(good.metrics) == PIXELS
    assert (good.samples, good.images, good.labels, good.bad) == (100, 200, None, ())
    for measured in good.metrics.values():
        assert measured.model == pytest.approx(measured.data, rel=0.5)
    noise = np.random.default_rng(0).integers(0, 256, (100, SIZE, SIZE, 3), dtype=np.uint8)
    bad = compare(Drawer(noise), str(tmp_path / "data"))
    assert bad.metrics["swd"].model > 5 * bad.metrics["swd"].data
    assert bad.metrics["nearest"].model > 3 * bad.metrics["nearest"].data
    assert [measured.data for measured in bad.metrics.values()] == [m.data for m in good.metrics.values()]


def test_copies_and_collapse_show(compare: Callable[..., ImageEvaluation], tmp_path: Path) -> None:
    data = squares(60)
    copies = compare(Drawer(data), data, n=10)
    assert copies.metrics["nearest"].model == 0 < copies.metrics["nearest"].data
    one = compare(Drawer(np.repeat(squares(1, seed=9), 30, 0)), str(tmp_path / "data"))
    assert one.metrics["diversity"].model < 1e-6 < one.metrics["diversity"].data
    assert one.metrics["swd"].model > 3 * one.metrics["swd"].data


def test_no_image_is_its_own_neighbour(compare: Callable[..., ImageEvaluation]) -> None:
    """Two of each: the nearest other one is the copy."""
    data = np.repeat(squares(20), 2, 0)
    assert compare(Drawer(data), data).metrics["nearest"].data == 0


def test_half_of_the_data_is_compared_with_at_most(compare: Callable[..., ImageEvaluation], tmp_path: Path) -> None:
    heard: list[tuple[float, str]] = []
    found = compare(Drawer(squares(40)), squares(21), on_progress=lambda *said: heard.append(said))
    assert (found.samples, found.images) == (10, 21)
    assert heard[0] == (0, "reading 1 of 21")
    assert heard[-1] == (1, "drawing 10 of 10")
    with pytest.raises(InputError, match=r"7 images in .* are too few to compare with"):
        compare(Drawer(squares(9)), save(tmp_path / "few", squares(7)))


def test_the_seed_chooses_samples_and_data(compare: Callable[..., ImageEvaluation], tmp_path: Path) -> None:
    draw = Drawer(squares(40, seed=1))
    first = compare(draw, squares(80), n=8)
    again, other = (compare(draw, str(tmp_path / "data"), n=8, seed=seed) for seed in (0, 5))
    assert first == again
    assert first.metrics["swd"].data != other.metrics["swd"].data
    assert first.metrics["diversity"].model != other.metrics["diversity"].model


def test_samples_have_the_classes_of_what_they_are_compared_with(
    compare: Callable[..., ImageEvaluation], tmp_path: Path
) -> None:
    save(tmp_path / "data/cat", squares(30))
    save(tmp_path / "data/dog", squares(10, seed=1))
    shape = PlusConfig(size=SIZE, classes=("bird", "cat", "dog"))
    draw = Drawer(squares(40, seed=2))
    found = compare(draw, str(tmp_path / "data"), shape=shape)
    assert found.labels == "data"
    assert draw.labels is not None
    assert len(draw.labels) == 20
    assert set(draw.labels) == {"cat", "dog"}
    assert Counter(draw.labels)["cat"] > 10
    found = compare(draw, str(tmp_path / "data"), shape=PlusConfig(size=SIZE, classes=("bird", "cat")))
    assert (found.labels, draw.labels) == ("turn", None)
    found = compare(draw, str(tmp_path / "data"))
    assert (found.labels, draw.labels) == (None, None)


def test_classes_stay_with_their_images(tmp_path: Path) -> None:
    """Also where so many are given that training would hold some out."""
    for label, name in enumerate(("cat", "dog")):
        save(tmp_path / "data" / name, 100 * label + squares(210, label, 1) // 4)  # cats are below 64, dogs above 100
    config = ImageEvalConfig(data=str(tmp_path / "data"), n=50)
    shape = PlusConfig(size=SIZE, channels=1, classes=("cat", "dog"))
    data, _ = evaluate._real(config, shape, "crop", tmp_path / "place", lambda fraction, text: None)
    assert data.labels is not None
    assert [("cat", "dog")[bright] for bright in data.images[:, 0, 0, 0] // 100] == list(data.labels)
    assert Counter(data.labels) == {"cat": 210, "dog": 210}
    assert len({*data.chosen} | {*data.others}) == 100


def test_a_model_with_classes_draws_them(save_generator: Callable[..., Path], tmp_path: Path) -> None:
    for seed, name in enumerate(("cat", "dog")):
        save(tmp_path / "data" / name, squares(8, seed))
    with ImagePipeline(save_generator(arch="plus", classes=["cat", "dog"]), device="cpu") as pipeline:
        config = ImageEvalConfig(data=str(tmp_path / "data"))
        found = evaluate_images(config, pipeline.path, pipeline.draw, Runtime(pipeline.placement))
    assert (found.samples, found.labels) == (8, "data")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_data_is_read_as_the_model_draws(compare: Callable[..., ImageEvaluation], channels: int) -> None:
    shape = DCGANConfig(size=SIZE, channels=channels)
    found = compare(Drawer(squares(8, channels=channels)), squares(16), shape=shape)
    assert found.channels == channels
    assert found.metrics["swd"].model >= 0


def test_the_data_becomes_square_as_the_models_did(compare: Callable[..., ImageEvaluation], tmp_path: Path) -> None:
    wide = np.concatenate([squares(16), squares(16, seed=1)], 2)
    folder, draw = save(tmp_path / "wide", wide), Drawer(squares(8))
    assert compare(draw, folder).fit == "crop"
    write_json(tmp_path / "model/genkit.json", {"config": {"fit": "pad"}})
    assert compare(draw, folder).fit == "pad"
    assert compare(draw, folder, fit="stretch").fit == "stretch"
    write_json(tmp_path / "model/genkit.json", {"config": {"fit": ["pad"]}})
    assert compare(draw, folder).fit == "crop"


def test_files_that_cannot_be_read_are_named(compare: Callable[..., ImageEvaluation], tmp_path: Path) -> None:
    folder = save(tmp_path / "data", squares(16))
    (tmp_path / "data/bad.png").write_bytes(b"\x89PNG nothing")
    found = compare(Drawer(squares(8)), folder)
    assert found.images == 16
    assert [name for name, _ in found.bad] == ["bad.png"]


class Means:
    """Features: the mean colour, and the mean of each quarter."""

    def __init__(self, *args: Any) -> None:
        pass

    def __call__(self, pixels: np.ndarray, on_progress: Callable[[int], None]) -> np.ndarray:
        on_progress(len(pixels))
        return pixels.reshape(len(pixels), 2, 16, 2, 16, -1).mean((2, 4)).reshape(len(pixels), -1) / 255


def test_distances_go_by_the_name_of_their_features(
    compare: Callable[..., ImageEvaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "available", lambda: True)
    monkeypatch.setattr(features, "FeatureNet", Means)
    data, fake, heard = squares(120), squares(60, seed=1) // 2, list[tuple[float, str]]()
    found = compare(Drawer(fake), data, on_progress=lambda *said: heard.append(said))
    own = tuple(f"{name}_efflite0" for name in ("fd", "kd", "precision", "recall"))
    assert tuple(found.metrics) == (*own, *PIXELS)
    for name in own[:2]:
        assert found.metrics[name].model > 5 * abs(found.metrics[name].data)
    for name in own[2:]:
        assert found.metrics[name].model < 0.2 < 0.8 < found.metrics[name].data
    assert heard[-1] == (1, "efflite0 features of other data, 60 of 60")
    assert [share for share, _ in heard] == sorted(share for share, _ in heard)
    path = tmp_path / "inception.pth"
    path.write_bytes(b"x")
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"x").hexdigest())
    monkeypatch.setattr(inception, "InceptionNet", Means)
    found = compare(Drawer(fake), str(tmp_path / "data"), inception=str(path))
    standard = ("fid", "kid", "precision_inception", "recall_inception")
    assert tuple(found.metrics) == (*own, *standard, *PIXELS)
    assert found.metrics["fid"] == found.metrics["fd_efflite0"]  # of the same features here


def test_another_inception_file_is_refused_at_once(compare: Callable[..., ImageEvaluation], tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(InputError, match=r"other.pth is not the standard Inception file"):
        compare(Drawer(squares(8)), "nowhere", inception=str(tmp_path / "other.pth"))
    inception.kept().parent.mkdir(parents=True)
    inception.kept().write_bytes(b"damaged")
    with pytest.raises(InputError, match="is not the standard Inception file"):
        compare(Drawer(squares(8)), "nowhere")


def test_nothing_is_left_of_the_decoded_data(
    compare: Callable[..., ImageEvaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen: list[int] = []

    def stop(*args: Any) -> None:
        seen.append(len(list((tmp_path / "temporary").iterdir())))
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_by_pixels", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(Drawer(squares(8)), squares(16))
    assert seen == [1]
    assert list((tmp_path / "temporary").iterdir()) == []
