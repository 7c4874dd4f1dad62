"""Settings of `genkit audit`, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import Config, option
from genkit.errors import UsageError

_PROMPTS, _SAMPLING = "Prompts", "Sampled continuations"


@dataclass(frozen=True, kw_only=True)
class AuditConfig(Config):
    """Which groups are compared, and by what."""

    prompts: tuple[str, ...] = option(
        (),
        "Records with a template, groups and continuations; jsonl or json.",
        multiple=True,
        metavar="FILE",
        section=_PROMPTS,
    )
    seed: int = option(0, "Of the sampled continuations and of the intervals.", min=0, max=1 << 53, section=_PROMPTS)
    classifier: str | None = option(
        None, "Also sample continuations and ask this classifier about them.", metavar="MODEL", section=_SAMPLING
    )
    label: str | None = option(
        None, "The class whose probability is compared, such as positive.", metavar="NAME", section=_SAMPLING
    )
    samples: int = option(16, "Continuations of each prompt.", min=1, max=4096, section=_SAMPLING)
    max_new_tokens: int = option(40, "Longest continuation, in tokens.", min=1, section=_SAMPLING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.classifier is None) != (self.label is None):
            lacking, there = ("classifier", "label") if self.classifier is None else ("label", "classifier")
            raise UsageError(f"--{there} needs --{lacking}", f"add --{lacking}")
