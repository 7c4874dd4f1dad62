"""Settings of `genkit eval` for image models, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import LARGEST_SEED, Config, option, parse_count

_IMAGES = "Image models"


@dataclass(frozen=True, kw_only=True)
class ImageEvalConfig(Config):
    """What images are drawn, and what they are compared with."""

    data: str
    n: int = option(
        1000,
        "Images to draw, and to compare with of the data; at most half of these.",
        parse=parse_count,
        min=4,
        max=50_000,
        short="-n",
        metavar="COUNT",
        section=_IMAGES,
    )
    seed: int = option(
        0,
        "Image i is drawn from seed + i; the choice among the data goes by it too.",
        min=0,
        max=LARGEST_SEED - 50_000,
        section=_IMAGES,
    )
    fit: str | None = option(
        None,
        "How an image of the data becomes square. Default: as the model's did, else crop.",
        choices=("crop", "pad", "stretch"),
        section=_IMAGES,
    )
    inception: str | None = option(
        None,
        "weights-inception-2015-12-05-6726825d.pth, for FID and KID. Default: it is looked for where "
        "--fetch-inception and torch.hub put it.",
        metavar="FILE",
        section=_IMAGES,
    )
