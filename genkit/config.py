"""How a frozen dataclass field becomes a flag, a file key and a checked value.

A config class lists its fields with `option(...)`; the default, the range, the
choices and the help text are written there and nowhere else. The command line,
`--config` files and `genkit.json` all read this one description.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from genkit.errors import UsageError

LARGEST_SEED = (1 << 63) - 1


@dataclasses.dataclass(frozen=True)
class Option:
    """What a user may know about one field.

    Attributes:
        help: one sentence for `--help`.
        min, max: inclusive bounds; `above` and `below` are exclusive ones.
        choices: the only accepted values.
        parse: text to value, for kinds that Click has no type for.
        flag: the long flag if it is not the field's name; `short` beside it.
        off: the flag that turns a boolean off, if not `--no-...`.
        multiple: the flag may be given several times; the value is a tuple.
        section: heading in `--help`.
        metavar: placeholder in `--help`.
    """

    help: str
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None
    flag: str | None = None
    short: str | None = None
    off: str | None = None
    multiple: bool = False
    section: str = "Options"
    metavar: str | None = None


def option(default: Any, help: str, **description: Any) -> Any:
    """A dataclass field that knows its own flag. Keywords are those of `Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **description)})


def options(cls: type) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """The fields of a config class that a user may set, in order."""
    for field in dataclasses.fields(cls):
        if (found := field.metadata.get("option")) is not None:
            yield field, found


def flag_name(field: dataclasses.Field[Any]) -> str:
    """`max_new_tokens` -> `--max-new-tokens`."""
    described: Option | None = field.metadata.get("option")
    if described is not None and described.flag:
        return described.flag
    return "--" + field.name.replace("_", "-")


def value_type(cls: type, field: dataclasses.Field[Any]) -> type:
    """The plain type behind `int | None` or `tuple[str, ...]`."""
    annotation = _annotations(cls)[field.name]
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in annotation.__args__ if a is not type(None))
    if typing.get_origin(annotation) is tuple:
        annotation = typing.get_args(annotation)[0]
    return annotation  # type: ignore[no-any-return]


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def check_type(cls: type, field: dataclasses.Field[Any], value: Any) -> None:
    """Raise UsageError when `value` is not of the field's type; a whole number is a float too."""
    annotation, kind = _annotations(cls)[field.name], value_type(cls, field)
    if value is None and isinstance(annotation, types.UnionType):
        return
    several = typing.get_origin(annotation) is tuple
    if several and not isinstance(value, tuple):
        raise UsageError(f"{flag_name(field)} {value!r} has the wrong type", f"give a list of {_KINDS[kind]}")
    for one in value if several else (value,):
        fits = isinstance(one, int | float) if kind is float else isinstance(one, kind)
        if not fits or (isinstance(one, bool) and kind is not bool):
            raise UsageError(f"{flag_name(field)} {one!r} has the wrong type", f"give {_KINDS[kind]}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every config: checks its own types and ranges, and converts to and from a dict."""

    def __post_init__(self) -> None:
        for field, described in options(type(self)):
            value = getattr(self, field.name)
            check_type(type(self), field, value)
            if value is None:
                continue
            for one in value if described.multiple else (value,):
                check_value(flag_name(field), one, described)

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain JSON values that `from_dict` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping.

        Raises:
            UsageError: a key is not a field of this class, or a value is out of range or
                of another type.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise UsageError(f"unknown setting {key!r}", suggest(key, names))
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


def check_value(name: str, value: Any, described: Option) -> None:
    """Raise UsageError when `value` breaks the option's rule."""
    if described.choices is not None and value not in described.choices:
        raise UsageError(
            f"{name} {value!r} is not one of {', '.join(described.choices)}",
            suggest(str(value), described.choices),
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    d = described
    ok = (
        math.isfinite(value)
        and (d.min is None or value >= d.min)
        and (d.max is None or value <= d.max)
        and (d.above is None or value > d.above)
        and (d.below is None or value < d.below)
    )
    if not ok:
        raise UsageError(f"{name} {value} is out of range", f"use {range_text(described)}")


def range_text(described: Option) -> str:
    """`0 < x <= 1`, as it stands in `--help` and in error messages."""
    d = described
    low = f"{d.min} <= " if d.min is not None else f"{d.above} < " if d.above is not None else ""
    high = f" <= {d.max}" if d.max is not None else f" < {d.below}" if d.below is not None else ""
    return f"{low}x{high}" if low or high else "a finite number"


def suggest(word: str, known: typing.Iterable[str]) -> str | None:
    """`did you mean 'x'?`, or the list of what there is when nothing is near."""
    known = list(known)
    import difflib  # only for mistakes

    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there is {', '.join(sorted(known))}" if 0 < len(known) <= 12 else None


_DURATION = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?|([\d.]+)")
_COUNT = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def parse_duration(text: str) -> float:
    """Seconds in `90`, `45s`, `10m`, `2h`, `1h30m`.

    Raises:
        ValueError: not a duration, or not positive.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    try:
        hours, minutes, seconds, bare = (float(g or 0) for g in match.groups()) if match else (0.0,) * 4
    except ValueError:  # 1.2.3m
        hours = minutes = seconds = bare = 0.0
    if not (total := hours * 3600 + minutes * 60 + seconds + bare):
        raise ValueError(f"{text!r} is not a duration; write 90s, 10m, 2h or 1h30m")
    return total


def parse_count(text: str) -> int:
    """The integer in `5000`, `200k`, `1.5M`, `2B`.

    Raises:
        ValueError: not a count.
    """
    from decimal import Decimal  # a millisecond that sampling does not need

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgb]?)", text.strip().lower())
    count = Decimal(match[1]) * _COUNT[match[2]] if match else Decimal("0.5")
    if count % 1:
        raise ValueError(f"{text!r} is not a count; write 5000, 200k or 1.5M")
    return int(count)
