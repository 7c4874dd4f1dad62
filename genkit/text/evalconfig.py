"""Settings of `genkit eval`, each with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import Config, option, parse_count
from genkit.errors import UsageError

_DATA, _TEXT, _WINDOW, _LABELS = "Data", "Text models", "Text models: window", "Classifiers"


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """What held-out text is measured, and through what window."""

    data: tuple[str, ...] = option(
        (),
        "File or folder: txt, md, jsonl, csv, parquet, also .gz .bz2 .xz .zst; image models: folder or zip of images.",
        multiple=True,
        metavar="PATH",
        section=_DATA,
    )
    text_field: str = option("text", "Field that holds the text in jsonl, csv and parquet.", section=_TEXT)
    label_field: str = option("label", "Field that holds the label.", section=_LABELS)
    pair_field: str | None = option(None, "Field of the second text of a pair.", section=_LABELS)
    encoding_errors: str = option(
        "strict", "What to do with bytes that are not UTF-8.", choices=("strict", "replace"), section=_TEXT
    )
    max_tokens: int | None = option(
        None,
        "Score the beginning alone, up to this many tokens, e.g. 100k. Default: all.",
        parse=parse_count,
        min=1,
        metavar="COUNT",
        section=_TEXT,
    )
    block_size: int | None = option(
        None, "Tokens that a window shows the model. Default: the model's context.", min=1, max=1 << 24, section=_WINDOW
    )
    stride: int | None = option(
        None,
        "Tokens from one window to the next, which are those it scores. Default: half a window. "
        "A whole window: no overlap, as training validates.",
        min=1,
        max=1 << 24,
        section=_WINDOW,
    )
    batch_size: int | None = option(
        None, "Windows at a time. Default: as many as have 16,384 tokens.", min=1, max=1 << 20, section=_WINDOW
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is not None:
            self.step(self.block_size)

    def step(self, window: int) -> int:
        """The stride in tokens, given the window.

        Raises:
            UsageError: it would leave tokens out between two windows.
        """
        stride = self.stride or max(1, window // 2)
        if stride > window:
            raise UsageError(
                f"--stride {stride} is more than the window of {window} tokens", f"use --stride {window} or less"
            )
        return stride
