"""Settings of `--filter`, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import Config, option
from genkit.errors import UsageError

GIVEN_UP = "rejected"  # how a text finishes that was rejected as often as it was drawn

_FILTER = "Filter"


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Config):
    """Which texts are rejected and drawn anew."""

    filter: tuple[str, ...] = option(
        (),
        "Reject texts with this word or phrase, or with one of a file, a line each; whole words, capitals aside.",
        multiple=True,
        metavar="WORD|@FILE",
        section=_FILTER,
    )
    filter_pattern: tuple[str, ...] = option(
        (),
        "Reject texts in which this regular expression matches, or one of a file; capitals aside.",
        multiple=True,
        metavar="REGEX|@FILE",
        section=_FILTER,
    )
    filter_model: str | None = option(
        None, "Reject texts that this classifier gives --filter-label.", metavar="MODEL", section=_FILTER
    )
    filter_label: str | None = option(None, "The class of --filter-model to reject.", metavar="NAME", section=_FILTER)
    filter_threshold: float = option(
        0.5, "From which probability of --filter-label on.", above=0, max=1, section=_FILTER
    )
    filter_attempts: int = option(
        10, "Draws of a text, the first included, after which it is given up.", min=1, max=10_000, section=_FILTER
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, given in (("--filter", self.filter), ("--filter-pattern", self.filter_pattern)):
            if any(not text.strip() or text == "@" for text in given):
                raise UsageError(f"{flag} '' would reject every text", "give what to look for")
        if (self.filter_model is None) != (self.filter_label is None):
            lacking, there = ("model", "label") if self.filter_model is None else ("label", "model")
            raise UsageError(f"--filter-{there} needs --filter-{lacking}", f"add --filter-{lacking}")

    @property
    def asked(self) -> bool:
        """Whether anything is filtered."""
        return bool(self.filter or self.filter_pattern or self.filter_model)
