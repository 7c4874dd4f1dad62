"""Regular expressions without going back: the same answers as Python's, in linear time."""

from __future__ import annotations

import random
import re

import pytest

from genkit.errors import UsageError
from genkit.text.safety.automaton import Automaton

PATTERNS = [
    "a", "ab|ba", "a+b", "(a|b)+c", "a{2}", "a{2,3}b", "(ab){1,}c", "[a-c]x", "[^a]b", ".b", r"\bab\b", r"\Bb", "^ab",
    "ab$", r"\Aa", r"b\Z", "(?m)^b$", "(?s)a.b", "a??b", "a*?b", r"\w\s\d", "(a(b|c)?){2}x", "(?:a|ab)(?:c|bcd)d*", "Ä",
    r"[\dx]a", r"(?a)\bé", "k|\u017f",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_finds_what_re_finds(pattern: str) -> None:
    random.seed(0)
    automaton, expected = Automaton(pattern), re.compile(pattern, re.IGNORECASE)
    found = 0
    for _ in range(400):
        text = "".join(random.choices("abcxAB \n1äéKs", k=random.randint(0, 8)))
        assert automaton.reaches(text) == (expected.search(text) is not None), text
        found += automaton.reaches(text)
    assert 0 < found < 400


def test_a_match_must_end_behind_the_start() -> None:
    automaton = Automaton("ab+")
    assert automaton.reaches("xab", 2)
    assert not automaton.reaches("xab", 3)
    assert automaton.reaches("abb", 2)


def test_what_takes_python_exponential_time_takes_a_moment() -> None:
    text = "a" * 2000
    for pattern in ("(a+)+b", "(a|a)*b", "(a|aa)+$b", "(.*)(.*)(.*)(.*)=", "(a*)*c"):
        assert not Automaton(pattern).reaches(text)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression"),
        (r"(a)\1", "has a back-reference"),
        ("a(?=b)", "has look-around"),
        ("(?<!a)b", "has look-around"),
        ("(?-i:a)", "flags for a part"),
        ("a*", "matches the empty text"),
        ("^", "matches the empty text"),
        ("(a{100}){100}", "more than 5,000 states"),
        ("((){9999}){9999}a", "more than 5,000 states"),
        ("(" * 5000 + ")" * 5000, "is not a regular expression"),
    ],
)
def test_what_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Automaton(pattern)
