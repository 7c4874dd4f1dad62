"""Ranges of numbers as GBNF, read back as regular expressions."""

from __future__ import annotations

import itertools
import re

import pytest

from genkit.text.constraints.numerals import decimal, whole

BOUNDS = [-1001, -100, -99, -10, -7, -1, 0, 1, 5, 9, 10, 42, 99, 100, 250]


def matches(rule: str | None, text: str) -> bool:
    if rule is None:
        return False
    return bool(re.fullmatch(rule.replace('"."', r"\.").replace('"', "").replace(" ", ""), text))


@pytest.mark.parametrize(("low", "high"), list(itertools.product(BOUNDS, BOUNDS)))
def test_whole_numbers(low: int, high: int) -> None:
    rule = whole(low, high)
    assert (rule is None) == (low > high)
    for number in range(-1100, 300):
        assert matches(rule, str(number)) == (low <= number <= high)
    assert not matches(rule, "-0")
    assert not matches(rule, "007")


def test_one_bound() -> None:
    assert matches(whole(5, None), "999999999999999")
    assert not matches(whole(5, None), "4")
    assert matches(whole(None, 5), "-123456")
    assert not matches(whole(None, 5), "6")
    assert matches(whole(10**14, None), str(10**14))


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize(("low", "high"), list(itertools.product([-12, -1, 0, 1, 3, 10], repeat=2)))
def test_decimals(low: int, high: int, above: bool, below: bool) -> None:
    rule = decimal(low, high, above=above, below=below)
    found = 0
    for tenths in range(-140, 140):
        for text in (str(tenths / 10), f"{tenths / 10:.2f}", f"{tenths / 10:.6f}", f"{tenths // 10}"):
            if matches(rule, text):
                found += 1
                value = float(text)
                assert low < value if above else low <= value
                assert value < high if below else value <= high
    expected = low < high or (low == high and not above and not below)
    assert (rule is not None) == expected
    assert (found > 0) == expected
    if low < high and not above:
        assert matches(rule, str(low))
    if low < high and not below:
        assert matches(rule, str(high))
