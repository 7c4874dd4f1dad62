"""Whole and decimal numbers between two bounds, as GBNF."""

from __future__ import annotations

from collections.abc import Iterator

DIGITS = 15  # that a double holds exactly
DECIMALS = 6


def whole(low: int | None, high: int | None) -> str | None:
    """The integers from `low` to `high`; without a bound up to `DIGITS` digits. None: there are none."""
    most = max(10**DIGITS - 1, 10 * abs(low or 0), 10 * abs(high or 0))
    return _either(_whole(-most if low is None else low, most if high is None else high))


def decimal(low: int | None, high: int | None, *, above: bool, below: bool) -> str | None:
    """The numbers from `low` to `high` with up to `DECIMALS` decimals, few enough that none rounds to a bound.

    Args:
        above, below: without the bound itself.
    """
    most = 10 ** (DIGITS - DECIMALS) - 1
    low, high = (-most if low is None else low), (most if high is None else high)
    choices = []
    if high > 0:
        choices += _magnitudes(max(low, 0), high, above and low >= 0, below)
    if low < 0:
        choices += [f'"-" ({rule})' for rule in _magnitudes(max(-high, 0), -low, below or high >= 0, above)]
    if not below and (low < high == 0 or (low == high and not above)):
        choices.append(_literal(high))
    return _either(choices)


def _magnitudes(low: int, high: int, above: bool, below: bool) -> list[str]:
    """The numbers from `low` to `high`, neither negative, low < high; each bound as asked."""
    choices = []
    if low < high:
        fraction, nonzero = f'("." [0-9]{{1,{DECIMALS}}})?', f'"." [0-9]{{0,{DECIMALS - 1}}} [1-9]'
        first = low + above
        if first < high:
            choices.append(f"({_either(_whole(first, high - 1))}) {fraction}")
        if above:
            choices.append(f"{_literal(low)} {nonzero}")
        if not below:
            choices.append(_literal(high))
    return choices


def _whole(low: int, high: int) -> list[str]:
    choices = []
    if low < 0:
        choices += [f'"-" {rule}' for rule in _naturals(max(1, -high), -low)]
    return choices + _naturals(max(low, 0), high)


def _naturals(low: int, high: int) -> list[str]:
    """A rule for each sequence of ranges of digits."""
    found: list[str] = []
    for length in range(len(str(low)), len(str(high)) + 1 if high >= low else 0):
        first = 10 ** (length - 1) if length > 1 else 0
        found += _split(str(max(low, first)), str(min(high, 10**length - 1)))
    return found


def _split(low: str, high: str) -> Iterator[str]:
    """The numbers of one length: those with the first leading digit, those between, those with the last."""
    a, b, rest = low[0], high[0], len(low) - 1
    if not rest:
        yield f"[{a}-{b}]"
    elif a == b:
        yield from (f'"{a}" {tail}' for tail in _split(low[1:], high[1:]))
    else:
        first, last = low[1:] != "0" * rest, high[1:] != "9" * rest
        if first:
            yield from (f'"{a}" {tail}' for tail in _split(low[1:], "9" * rest))
        if int(a) + first <= int(b) - last:
            yield f"[{int(a) + first}-{int(b) - last}] [0-9]{{{rest}}}"
        if last:
            yield from (f'"{b}" {tail}' for tail in _split("0" * rest, high[1:]))


def _literal(number: int) -> str:
    return f'"{number}"'


def _either(choices: list[str]) -> str | None:
    return "(" + " | ".join(choices) + ")" if choices else None
