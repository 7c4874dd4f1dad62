"""Attributions add up to what the text does to a score, and point at what it rests on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genkit.errors import InputError, ResourceError, UsageError
from genkit.text.explain.attribution import attribute
from genkit.text.explain.look import Target, find_target, look
from genkit.text.explain.subject import OwnSubject, pieces_of

pytest.importorskip("captum")
CPU = torch.device("cpu")
TEXT = "The cat sat on the mat"


@pytest.fixture(scope="module")
def own(tiny_text: Path) -> OwnSubject:
    subject = OwnSubject(tiny_text, CPU)
    generator = torch.Generator().manual_seed(3)
    for parameter in subject.model.parameters():  # the projections of a new model are zero
        if parameter.ndim > 1:
            parameter.normal_(0, 0.1, generator=generator)
    return subject


class Linear:
    """A subject whose scores are a sum over tokens: each speaks for itself."""

    kind, mask, nothing, labels = "classifier", None, 0, ("no", "yes")

    def __init__(self) -> None:
        self.embedding = nn.Embedding.from_pretrained(torch.tensor([[0.0], [1.0], [-2.0], [5.0]]))

    def scores(self, ids: Tensor) -> Tensor:
        total = self.embedding(ids).sum((1, 2))
        return torch.stack([-total, total], dim=1)


def test_a_linear_score_gives_each_token_its_own() -> None:
    target = Target([1, 2, 3, 3], range(4), None, 1, "yes", None)
    found = attribute(Linear(), target, 4, CPU)  # type: ignore[arg-type]
    assert found.values == pytest.approx([1, -2, 5, 5])
    assert found.difference == pytest.approx(9)
    assert found.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("target", "position"), [(None, None), ("z", None), (None, 7), ("d", 7)])
def test_attributions_are_complete(own: OwnSubject, target: str | None, position: int | None) -> None:
    aim = find_target(own, look(own, TEXT, 5, CPU), target, position)
    found = attribute(own, aim, 300, CPU)
    assert len(found.values) == (len(TEXT) if position is None else position)
    assert abs(found.difference) > 0.01
    assert abs(sum(found.values) - found.difference) < 1e-3
    assert found.error == pytest.approx(sum(found.values) - found.difference, abs=1e-9)


def test_what_comes_later_speaks_for_nothing(own: OwnSubject) -> None:
    seen = look(own, TEXT, 5, CPU)
    aim = find_target(own, seen, None, 7)
    assert aim.ids == seen.tokens.ids[:8]
    assert (aim.place, aim.id, aim.name) == (7, seen.tokens.ids[8], TEXT[7])


def test_the_likeliest_token_is_the_target(own: OwnSubject) -> None:
    seen = look(own, TEXT, 5, CPU)
    assert seen.next is not None
    assert find_target(own, seen, None, None).id == seen.next.top[0].id


def test_a_look_is_what_the_model_says(own: OwnSubject) -> None:
    seen = look(own, TEXT, 3, CPU)
    ids = own.tokenizer.encode(TEXT)
    logs = own.model(torch.tensor([[own.tokenizer.eos_id, *ids]])).log_softmax(-1)[0]
    assert (
        [place.logprob for place in seen.places]
        == pytest.approx(  # type: ignore[attr-defined]
            logs[:-1].gather(1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-5
        )
    )
    assert seen.next is not None
    assert seen.next.top[0].probability == pytest.approx(math.exp(logs[-1].max()), abs=1e-6)
    assert "".join(seen.tokens.pieces[at] for at in seen.tokens.own) == TEXT


def test_mistakes_are_named(own: OwnSubject) -> None:
    seen = look(own, TEXT, 3, CPU)
    with pytest.raises(UsageError, match="the text has 22 tokens"):
        find_target(own, seen, None, 22)
    with pytest.raises(InputError, match="has no token"):
        find_target(own, seen, "", None)
    with pytest.raises(InputError, match="is empty"):
        look(own, "", 3, CPU)
    with pytest.raises(InputError, match="80 tokens"):
        look(own, "a" * 80, 3, CPU)


def test_without_captum(own: OwnSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(ResourceError, match=r"captum") as caught:
        attribute(own, find_target(own, look(own, TEXT, 3, CPU), None, None), 4, CPU)
    assert caught.value.hint == "pip install 'genkit-cli[explain]'"


def test_pieces_join_to_the_text() -> None:
    assert pieces_of("a bé", [(0, 1), (2, 3), (3, 4), (3, 4)]) == ["a", " b", "é", "\ufffd"]
