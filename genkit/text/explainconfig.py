"""Settings of `genkit explain` for text models, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from genkit.config import Config, option
from genkit.errors import UsageError

_TEXT, _ATTENTION, _ATTRIBUTION = "Text models", "Text models: attention", "Text models: attribution"
SUFFIXES = (".png", ".html")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Config):
    """What is shown of a text model at work on a text."""

    top: int = option(
        5, "Likeliest tokens to name at each place.", min=1, max=100, metavar="K", section=_TEXT
    )
    attention: str | None = option(
        None,
        "Draw who attends to whom: every head of every layer, or those that --layer and --head choose.",
        metavar="FILE.png|FILE.html",
        section=_ATTENTION,
    )
    layer: int | None = option(None, "This layer alone, from 0.", min=0, max=10_000, section=_ATTENTION)
    head: int | None = option(None, "This head alone, from 0.", min=0, max=10_000, section=_ATTENTION)
    attribution: str | None = option(
        None,
        "Draw how much each token speaks for the target, by integrated gradients.",
        metavar="FILE.png|FILE.html",
        section=_ATTRIBUTION,
    )
    target: str | None = option(
        None,
        "What is explained: a token, or a classifier's label. Default: the likeliest.",
        metavar="TOKEN|LABEL",
        section=_ATTRIBUTION,
    )
    position: int | None = option(
        None,
        "Explain the text's token at this place, from 0, not what follows the text.",
        min=0,
        max=1 << 24,
        section=_ATTRIBUTION,
    )
    steps: int = option(
        64, "Points on the way from no text to the text; more are more exact.", min=1, max=10_000, section=_ATTRIBUTION
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, path in (("--attention", self.attention), ("--attribution", self.attribution)):
            if path is not None and PurePath(path).suffix.lower() not in SUFFIXES:
                raise UsageError(f"{flag} {path}: neither .png nor .html", "name the file so")
        for name in ("layer", "head"):
            if getattr(self, name) is not None and self.attention is None:
                raise UsageError(f"--{name} chooses among attention maps; none is drawn", "add --attention FILE.png")
