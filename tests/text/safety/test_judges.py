"""What the judges of a filter reject."""

from __future__ import annotations

from pathlib import Path

import pytest

from genkit.errors import InputError, UsageError
from genkit.text.safety.config import FilterConfig
from genkit.text.safety.folding import folded, joined, plain
from genkit.text.safety.judges import Patterns, Words, open_judges


@pytest.mark.parametrize(
    ("text", "rejected"),
    [
        ("a cat sat", True),
        ("A CAT!", True),
        ("ｃａｔ", True),  # full width
        ("c\u00ada\u200bt", True),  # a soft hyphen and a blank of no width
        ("𝐜𝐚𝐭", True),  # mathematical bold
        ("concatenate", False),
        ("cats", False),
        ("the_cat_", False),
        ("hot  \n DOG", True),
        ("hotdog", False),
        ("die STRASSE", True),
        ("strassen", False),
        ("café", True),
        ("cafe\u0301", True),
        ("cafe", False),
        ("write C++ code", True),
        ("write C code", False),
        ("की", False),  # another vowel than that of the word
        ("क!", True),
        ("", False),
    ],
)
def test_whole_words_in_any_spelling(text: str, rejected: bool) -> None:
    words = Words(["cat", "Hot dog", "Straße", "CAFÉ", "c++", "क"])
    assert words.rejects("", text) == rejected


def test_a_word_may_begin_in_the_prompt_but_must_end_in_the_text() -> None:
    words = Words(["hot dog"])
    assert words.rejects("a hot", " dog")
    assert words.rejects("a hot do", "g.")
    assert not words.rejects("a hot dog", " barks")
    assert not words.rejects("a hot do", "gma")
    assert words.rejects("a hot dog", " or a hot dog")
    patterns = Patterns(["hot d.g"])
    assert patterns.rejects("a hot", " DoG")
    assert not patterns.rejects("a hot dog", " barks")


def test_folding() -> None:
    assert plain("ﬁne\u200b Ａ") == "fine A"
    assert folded("ẞ  \t\n Ⅻ") == "ss xii"
    assert joined("Hello ", " World", fold=True) == ("hello world", 6)
    assert joined("cafe", "\u0301!", fold=False) == ("café!", 3)
    assert joined("x" * 5000, "y", fold=False) == ("x" * 1000 + "y", 1000)


def test_files_hold_a_word_a_line(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("\ufeffcat\n\n# tag\n", encoding="utf-8")
    (tmp_path / "p.txt").write_text("d.g\n")
    config = FilterConfig(filter=(f"@{tmp_path}/w.txt", "bird"), filter_pattern=(f"@{tmp_path}/p.txt",))
    with open_judges(config) as judges:
        assert [judge.name for judge in judges] == ["words", "patterns"]
        assert all(judges[0].rejects("", text) for text in ("cat", "# tag", "bird"))
        assert judges[1].rejects("", "dig")
        assert not any(judge.rejects("", "@w.txt tag") for judge in judges)


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name, message in (("none", "cannot read"), ("empty", "is empty"), ("latin", "byte 3 is not UTF-8")):
        with pytest.raises(InputError, match=message), open_judges(FilterConfig(filter=(f"@{tmp_path}/{name}.txt",))):
            pass
    for values, message in (
        ({"filter": (" ",)}, "would reject every text"),
        ({"filter_model": "x"}, "--filter-model needs --filter-label"),
        ({"filter_label": "x"}, "--filter-label needs --filter-model"),
        ({"filter_attempts": 0}, "out of range"),
    ):
        with pytest.raises(UsageError, match=message):
            FilterConfig(**values)
    with pytest.raises(UsageError, match="invisible"), open_judges(FilterConfig(filter=("\u200b",))):
        pass
    asked = FilterConfig(filter_model="story", filter_label="x")
    with pytest.raises(InputError, match="story is no classifier"), open_judges(asked):
        pass
