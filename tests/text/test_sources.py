"""`--data PATH:WEIGHT`."""

from __future__ import annotations

from pathlib import Path

import pytest

from genkit.errors import InputError, UsageError
from genkit.text.sources import MAX_WEIGHT, DataSource, parse_source, parse_sources


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "odd:3", "c:d"):
        Path(name).touch()
    Path("folder").mkdir()


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.txt", "a.txt", 1),
        ("a.txt:3", "a.txt", 3),
        ("a.txt:0.25", "a.txt", 0.25),
        ("folder/:1e-3", "folder/", 0.001),
        ("a.txt:1000", "a.txt", MAX_WEIGHT),
        ("odd:3", "odd:3", 1),  # it exists as it stands
        ("odd:3:2", "odd:3", 2),
        ("c:d", "c:d", 1),
    ],
)
def test_paths_and_weights(text: str, path: str, weight: float) -> None:
    assert parse_source(text) == DataSource(path, weight)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1001", "-0.0"])
def test_weights_out_of_range(weight: str) -> None:
    with pytest.raises(UsageError, match=f"a.txt:{weight}: the weight {weight} is out of range") as caught:
        parse_source(f"a.txt:{weight}")
    assert caught.value.hint == "use 0 < weight <= 1000"


@pytest.mark.parametrize("text", ["none.txt", "none.txt:3", "a.txt:", "a.txt:three", "", ":3"])
def test_what_is_not_there(text: str) -> None:
    with pytest.raises(InputError, match=f"--data {text}: no such file or folder"):
        parse_source(text)


def test_the_heaviest_comes_first() -> None:
    assert parse_sources(["a.txt", "folder:0.5", "b.txt:2", "odd:3"]) == [
        DataSource("b.txt", 2),
        DataSource("a.txt", 1),
        DataSource("odd:3", 1),
        DataSource("folder", 0.5),
    ]


def test_a_path_that_comes_again_adds_its_weight() -> None:
    assert parse_sources(["a.txt", "b.txt", "./a.txt:0.5"]) == [DataSource("a.txt", 1.5), DataSource("b.txt", 1)]
