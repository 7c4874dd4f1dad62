"""A model and what was made of it, side by side: size, speed, quality."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genkit import library

_TOKENS, _TIMES = 64, 4  # tokens of a text whose speed is measured, and how many texts


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        bytes: of the weights on the disk.
        tokens_per_second: one text after another, as `genkit text` writes it on this machine.
        precision: that this is done in, on `engine`.
        bits_per_byte: None where no text was given.
    """

    model: str
    parameters: int
    bytes: int
    tokens_per_second: float
    engine: str
    precision: str
    bits_per_byte: float | None

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Both of them."""

    before: Side
    after: Side

    def table(self) -> str:
        """Lines with a column each, and by how much the second differs."""
        old, new = self.before, self.after
        rows = [
            ("", "before", "after", ""),
            ("model", old.model, new.model, ""),
            ("parameters", f"{old.parameters:,}", f"{new.parameters:,}", _change(old.parameters, new.parameters)),
            ("weights", _megabytes(old.bytes), _megabytes(new.bytes), _change(old.bytes, new.bytes)),
            (
                "tokens/s",
                f"{old.tokens_per_second:,.0f}",
                f"{new.tokens_per_second:,.0f}",
                _change(old.tokens_per_second, new.tokens_per_second),
            ),
            ("computed by", f"{old.engine}, {old.precision}", f"{new.engine}, {new.precision}", ""),
        ]
        if old.bits_per_byte is not None and new.bits_per_byte is not None:
            change = _change(old.bits_per_byte, new.bits_per_byte)
            rows.append(("bits per byte", f"{old.bits_per_byte:.4f}", f"{new.bits_per_byte:.4f}", change))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "".join(line + "\n" for line in lines)


def compare(
    before: tuple[str, Path], after: tuple[str, Path], quality: tuple[float | None, float | None], device: str
) -> Comparison:
    """Measure both models.

    Args:
        before, after: name and folder.
        quality: bits per byte of each.
        device: as `resolve` takes it.
    """
    old, new = (_side(*named, bits, device) for named, bits in zip((before, after), quality, strict=True))
    return Comparison(old, new)


def _side(name: str, folder: Path, bits: float | None, device: str) -> Side:
    from genkit.pipeline import load

    with load(folder, device=device) as pipeline:
        speed = _speed(pipeline)
        placed = pipeline.placement
    size = sum(path.stat().st_size for path in library.weight_files(folder))
    return Side(name, library.parameters(folder) or 0, size, round(speed, 1), placed.engine, placed.precision, bits)


def _speed(pipeline: Any) -> float:
    """Tokens a second; the first text, which loads the model, does not count."""
    from genkit.text.config import GenerationConfig

    config = GenerationConfig(max_new_tokens=_TOKENS, temperature=1.0, top_p=1.0)
    tokens, started = 0, 0.0
    for seed in range(_TIMES + 1):
        if seed == 1:
            started = time.monotonic()
        written = sum(event.tokens for event in pipeline.stream("", config, seed=seed, live=False) if event.finish)
        tokens += written if seed else 0
    return tokens / max(time.monotonic() - started, 1e-9)


def _change(before: float, after: float) -> str:
    """`-48.3 %`"""
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
