"""Models of `transformers` and classifiers, looked into: what is found is what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genkit.errors import InputError, UsageError
from genkit.files import write_bytes, write_json
from genkit.text.classify.model import gpt_classifier
from genkit.text.explain.attribution import attribute
from genkit.text.explain.look import find_target, look
from genkit.text.explain.open import open_subject
from genkit.text.explain.subject import Subject
from genkit.training.weights import save_tensors

pytest.importorskip("transformers")
Checkpoint = Callable[[str], Path]
CPU = torch.device("cpu")
TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def judge(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three classes on our own GPT."""
    torch.manual_seed(1)
    model = gpt_classifier(tiny_text, ("bad", "fine", "good"))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    folder = tmp_path_factory.mktemp("judge")
    files = model.files()
    save_tensors(folder / "model.safetensors", files.tensors, {"format": "pt"})
    for name, value in files.json.items():
        write_json(folder / name, value)
    for name, data in files.raw.items():
        write_bytes(folder / name, data)
    return folder


def complete(subject: Subject, text: str) -> None:
    """The values sum to what the text does to the score, and stand for its own tokens."""
    pytest.importorskip("captum")
    aim = find_target(subject, look(subject, text, 3, CPU), None, None)
    found = attribute(subject, aim, 200, CPU)
    assert len(found.values) == len(aim.own)
    assert abs(found.error) < 1e-3 * max(1.0, abs(found.difference))


def test_a_causal_model(hub_checkpoint: Checkpoint) -> None:
    subject = open_subject(hub_checkpoint("gpt_neox"), CPU)
    seen = look(subject, TEXT, 3, CPU)
    assert "".join(seen.tokens.pieces[at] for at in seen.tokens.own) == TEXT
    with torch.no_grad():
        logs = subject.model(torch.tensor([seen.tokens.ids])).logits[0].log_softmax(-1)  # type: ignore[attr-defined]
    expected = [logs[at - 1, seen.tokens.ids[at]].item() for at in seen.tokens.own]
    assert [place.logprob for place in seen.places] == pytest.approx(expected, abs=1e-5)  # type: ignore[attr-defined]
    complete(subject, TEXT)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt_neox"])
def test_attention_weights_come_from_the_eager_kernel(hub_checkpoint: Checkpoint, kind: str) -> None:
    subject = open_subject(hub_checkpoint(kind), CPU)
    ids = torch.tensor([subject.tokens(TEXT).ids])
    usual = subject.model.config._attn_implementation  # type: ignore[attr-defined]
    before = subject.scores(ids)
    maps = subject.attention(ids)
    T = ids.shape[1]
    assert maps.shape[2:] == (T, T)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:3]))
    assert bool(maps.triu(1).any()) == (kind != "gpt_neox")
    assert subject.model.config._attn_implementation == usual  # type: ignore[attr-defined]
    torch.testing.assert_close(subject.scores(ids), before)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_masked_model(hub_checkpoint: Checkpoint, kind: str) -> None:
    subject = open_subject(hub_checkpoint(kind), CPU)
    seen = look(subject, "the cat [MASK] on the mat", 3, CPU)
    own = [seen.tokens.ids[at] for at in seen.tokens.own]
    assert own.count(subject.mask) == 1
    gap = own.index(subject.mask or 0)
    assert not hasattr(seen.places[gap], "logprob")
    for number, at in enumerate(seen.tokens.own):
        ids = torch.tensor([seen.tokens.ids])
        ids[0, at] = subject.mask or 0
        logs = subject.scores(ids)[0, at].log_softmax(-1)
        assert seen.places[number].top[0].probability == pytest.approx(logs.max().exp().item(), abs=1e-5)
        if number != gap:
            assert seen.places[number].logprob == pytest.approx(logs[own[number]].item(), abs=1e-5)  # type: ignore[attr-defined]
    aim = find_target(subject, seen, None, None)
    assert aim.position == gap
    assert aim.id == seen.places[gap].top[0].id
    complete(subject, "the cat [MASK] on the mat")
    with pytest.raises(UsageError, match="nothing is to be filled in"):
        find_target(subject, look(subject, TEXT, 3, CPU), None, None)


def test_a_classifier_on_our_own_model(judge: Path) -> None:
    subject = open_subject(judge, CPU)
    seen = look(subject, "The cat", 3, CPU)
    model = gpt_classifier(judge).eval()
    expected = model(model.padded(model.encode(["The cat"]))).softmax(-1)[0]
    assert {c.id: c.probability for c in seen.labels} == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-6)
    assert [seen.tokens.pieces[at] for at in seen.tokens.own] == list("The cat")
    aim = find_target(subject, seen, "good", None)
    assert (aim.id, aim.name, aim.place) == (2, "good", None)
    complete(subject, "The cat")
    with pytest.raises(UsageError, match="'god' is no label") as caught:
        find_target(subject, seen, "god", None)
    assert caught.value.hint == "did you mean 'good'?"
    with pytest.raises(UsageError, match="a classifier judges the whole text"):
        find_target(subject, seen, None, 1)


def test_encoder_decoders_are_refused(hub_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="is a sequence-to-sequence model, which is not explained"):
        open_subject(hub_checkpoint("t5"), CPU)


def test_a_text_that_is_too_long(hub_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="the model's context"):
        look(open_subject(hub_checkpoint("bert"), CPU), "cat " * 5000, 3, CPU)
