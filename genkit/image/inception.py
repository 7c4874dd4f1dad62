"""The standard Inception v3 network, without which a distance is no FID and no KID.

Its weights are one file of 96 MB that everybody compares with. It is used where it is
there, and downloaded only when somebody asks for that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from genkit.cache import content_hash, folder
from genkit.errors import InputError
from genkit.files import atomic_write, output_errors
from genkit.image.features import REMEDY, rgb

NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_MAX = 200_000_000  # bytes that are downloaded of whatever it is
_TIMEOUT = 30  # seconds without an answer
_PIECE = 1 << 18
_DIMENSIONS, _BATCH = 2048, 32


class InceptionNet:
    """The pooled features of Inception v3 as FID and KID are defined on, by torch-fidelity.

    Args:
        path: the weights; torch-fidelity loads the pickle in it, so it has to be the one file.
        device: where it computes.

    Raises:
        InputError: another file, or torch-fidelity is not installed.
    """

    def __init__(self, path: Path, device: Any = "cpu") -> None:
        check(path)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        self._net, self._device = net.to(device), device

    def __call__(
        self, pixels: NDArray[np.uint8], on_progress: Callable[[int], None] = lambda done: None
    ) -> NDArray[np.float32]:
        """Features (N, 2048) of images (N, H, W, C) of 1, 3 or 4 channels.

        Args:
            on_progress: called with the number of images done.
        """
        import torch

        found = np.empty((len(pixels), _DIMENSIONS), np.float32)
        for first in range(0, len(pixels), _BATCH):
            images = torch.from_numpy(np.ascontiguousarray(rgb(pixels[first : first + _BATCH]).transpose(0, 3, 1, 2)))
            with torch.inference_mode():
                found[first : first + _BATCH] = self._net(images.to(self._device))[0].cpu().numpy()
            on_progress(min(first + _BATCH, len(pixels)))
        return found


def available() -> bool:
    """Whether torch-fidelity is installed; nothing of it is imported."""
    return find_spec("torch_fidelity") is not None


def kept() -> Path:
    """Where `fetch` puts the file."""
    return folder() / "metrics" / NAME


def find() -> Path | None:
    """The file in genkit's cache, or where torch.hub keeps what it downloads; None if it is in neither."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    hub = Path(os.environ.get("TORCH_HOME") or os.path.join(cache, "torch"), "hub", "checkpoints", NAME)
    return next((path for path in (kept(), hub) if path.is_file()), None)


def check(path: Path) -> None:
    """Raise InputError unless torch-fidelity is installed and a file is the one with the standard weights."""
    if not available():
        raise InputError("FID and KID are computed by torch-fidelity, which is not installed", REMEDY)
    if content_hash(path) != SHA256:
        raise InputError(
            f"{path} is not the standard Inception file, whose SHA-256 begins with {SHA256[:8]}",
            "genkit eval --fetch-inception downloads it",
        )


def fetch(on_progress: Callable[[float, int], None] = lambda fraction, done: None) -> Path:
    """Download the file into genkit's cache, if it is not there. Returns where it is.

    Args:
        on_progress: called with the share that is here, 0 if it is not known, and the bytes.

    Raises:
        InputError: it cannot be reached, or what comes is not that file.
        OutputError: the cache cannot be written.
    """
    path = kept()
    if path.is_file() and content_hash(path) == SHA256:
        return path
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for piece in _download(on_progress):
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != SHA256:
            raise InputError(f"what {URL} sends is not the standard Inception file", _remedy(path))
    return path


def _download(on_progress: Callable[[float, int], None]) -> Iterator[bytes]:
    """The bytes behind `URL`, `_MAX` of them at most.

    Raises:
        InputError: it cannot be reached, or breaks off.
    """
    done = 0
    try:
        with urlopen(URL, timeout=_TIMEOUT) as answer:
            total = int(answer.headers["Content-Length"] or 0)
            while done < _MAX and (piece := answer.read(_PIECE)):
                yield piece
                done += len(piece)
                on_progress(done / total if total else 0.0, done)
        if done < total:
            raise ConnectionError(f"it broke off after {done:,} of {total:,} bytes")
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the answer's socket
        reason = getattr(error, "reason", None) or error
        raise InputError(f"cannot download {URL}: {reason}", _remedy(kept())) from error


def _remedy(path: Path) -> str:
    return f"try again, or copy the file from elsewhere to {path}"
