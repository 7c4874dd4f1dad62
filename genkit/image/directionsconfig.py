"""Settings of `genkit explain` for image models, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import LARGEST_SEED, Config, option

_IMAGES = "Image models"


@dataclass(frozen=True, kw_only=True)
class DirectionsConfig(Config):
    """Which directions of the latent space are shown, and how."""

    directions: int = option(
        6, "Directions to show, from the one that changes most: a row each.", min=1, max=1000, metavar="N",
        section=_IMAGES,
    )  # fmt: skip
    strength: float = option(
        4.0, "How far the outer columns are from the middle one, which is the image of --seed.", above=0, max=100,
        metavar="S", section=_IMAGES,
    )  # fmt: skip
    columns: int = option(7, "Images in a row, an odd number.", min=3, max=99, metavar="N", section=_IMAGES)
    seed: int = option(0, "Whose latent is moved.", min=0, max=LARGEST_SEED, section=_IMAGES)
    classes: str | None = option(
        None, "Class of all images, by name or number. Default: that of the seed.", flag="--class", metavar="NAME",
        section=_IMAGES,
    )  # fmt: skip
