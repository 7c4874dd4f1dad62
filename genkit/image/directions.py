"""Directions of the latent space that change an image most, in closed form (SeFa: Shen and Zhou, arXiv 2007.06600).

The first layer of a generator is linear. A step n in the latent changes what it makes by
W n, and |W n|^2 = n^T W^T W n is largest along the eigenvectors of W^T W.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genkit.errors import UsageError
from genkit.files import read_json
from genkit.image.canvas import Sheet, on_white
from genkit.image.engines import ImageRequest
from genkit.image.graph import shapes
from genkit.image.modelconfig import DCGANConfig, read_model_config
from genkit.library import CONFIG, WEIGHTS
from genkit.tensors import TensorFile

_GAP, _LEFT, _TOP = 2, 44, 26  # between pictures, and the room for numbers
_LETTERS = 13


@dataclass(frozen=True)
class Directions:
    """Eigenvectors, the one that changes most first.

    Attributes:
        vectors: (N, nz), each of length 1; its largest component is positive.
        gains: (N,), by how much the first layer stretches each: singular values.
        shares: (N,), of the sum of all squared gains.
    """

    vectors: NDArray[np.float32]
    gains: NDArray[np.float64]
    shares: NDArray[np.float64]


def find_directions(folder: Path, n: int) -> Directions:
    """The `n` directions along which the first layer of the generator in `folder` changes most.

    A class is not part of the latent: its embedding stays as it is.

    Raises:
        InputError: missing or damaged files, or tensors that do not fit the config.
        UsageError: more directions than the latent has.
    """
    config = read_model_config(read_json(folder / CONFIG))
    if n > config.nz:
        raise UsageError(f"--directions {n}: the latent has {config.nz}", f"use {config.nz} or fewer")
    weights = TensorFile(folder / WEIGHTS)
    weights.check_fits(shapes(config))
    name = "main.0.weight" if isinstance(config, DCGANConfig) else "stem.weight"
    first = np.asarray(weights.floats(name), np.float64)[: config.nz].reshape(config.nz, -1)  # (nz, C 4 4)
    return directions_of(first, n)


def directions_of(first: NDArray[np.float64], n: int) -> Directions:
    """The `n` directions that a linear layer changes most.

    Args:
        first: (nz, features), its weight: a latent (nz,) becomes latent @ first.
    """
    values, vectors = np.linalg.eigh(first @ first.T)  # ascending; vectors in columns
    values, vectors = values[::-1].clip(min=0), vectors.T[::-1]
    largest = np.abs(vectors).argmax(1)
    signs = np.sign(vectors[np.arange(len(vectors)), largest])
    total = max(float(values.sum()), np.finfo(np.float64).tiny)
    return Directions((vectors * signs[:, None])[:n].astype(np.float32), np.sqrt(values[:n]), values[:n] / total)


def strengths(most: float, columns: int) -> NDArray[np.float32]:
    """How far each column is from the latent, from -most over 0 to most.

    Raises:
        UsageError: an even number of columns, which has no middle.
    """
    if columns % 2 == 0:
        raise UsageError(f"--columns {columns} has no middle for the image itself", f"use {columns + 1}")
    return np.linspace(-most, most, columns, dtype=np.float32)


def moved(start: ImageRequest, directions: Directions, steps: NDArray[np.float32]) -> Iterator[ImageRequest]:
    """The latent at each step along each direction, direction by direction."""
    for vector in directions.vectors:
        for step in steps:
            yield ImageRequest(start.seed, start.z + step * vector, start.label)


def strip(
    pictures: Sequence[NDArray[np.uint8]], directions: Directions, steps: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Pictures (H, W, C) as a row a direction, with its number, a column a step: (H', W', 1 or 3) on white."""
    height, width, channels = pictures[0].shape
    drawn = on_white(Sheet(len(pictures), (height, width, channels), len(steps), _GAP).fill(pictures))
    paper = Image.new("RGB", (_LEFT + drawn.shape[1], _TOP + drawn.shape[0]), "white")
    paper.paste(Image.fromarray(drawn.squeeze(2) if drawn.shape[2] == 1 else drawn).convert("RGB"), (_LEFT, _TOP))
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(_LETTERS)
    for column, step in enumerate(steps):
        x = _LEFT + _GAP + column * (width + _GAP) + width / 2
        if width >= 40 or column in (0, len(steps) // 2, len(steps) - 1):  # or numbers would run into one another
            pen.text((x, _TOP / 2), f"{step:+.3g}" if step else "0", fill="#222222", font=font, anchor="mm")
    for row, share in enumerate(directions.shares):
        y = _TOP + _GAP + row * (height + _GAP) + height / 2
        pen.text((_LEFT - 8, y - 7), str(row), fill="#222222", font=font, anchor="rm")
        pen.text((_LEFT - 8, y + 7), f"{share:.0%}", fill="#6b6b6b", font=ImageFont.load_default(11), anchor="rm")
    return np.asarray(paper)
