"""`genkit text` and its neighbours with models that `transformers` runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genkit.files import read_json, write_json

Run = Callable[..., Any]
Make = Callable[[str], Path]


def samples(done: Any) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return [json.loads(line) for line in done.text.splitlines()]


def document(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.mark.parametrize("kind", ["gpt_neox", "t5", "bart", "marian"])
def test_every_architecture_writes(kind: str, genkit: Run, hub_checkpoint: Make) -> None:
    flags = ["The cat sat.", "-n", "2", "--max-new-tokens", "6", "--format", "jsonl"]
    drawn = genkit("text", "-m", str(hub_checkpoint(kind)), *flags, "--temperature", "1", "--seed", "3")
    first, second = samples(drawn)
    assert drawn.err == ""  # nothing of transformers' own
    assert first["text"] != second["text"]
    assert 1 <= first["tokens"] <= 6
    beams = samples(genkit("text", "-m", str(hub_checkpoint(kind)), *flags, "--num-beams", "3", "--seed", "3"))
    assert len(beams) == 2


def test_all_settings_go_together(genkit: Run, hub_checkpoint: Make) -> None:
    model = str(hub_checkpoint("t5"))
    greedy = samples(
        genkit("text", "-m", model, "The dog", "--max-new-tokens", "8", "--logprobs", "2", "--format", "jsonl")
    )
    assert len(greedy[0]["logprobs"]) == greedy[0]["tokens"]
    word = greedy[0]["text"].strip()[:3]
    flags = ["--bad-word", word, "--logit-bias", " cat=2", "--no-repeat-ngram-size", "2", "--min-new-tokens", "2"]
    drawn = samples(genkit("text", "-m", model, "The dog", *flags, "--max-new-tokens", "8", "--format", "jsonl"))
    assert word not in drawn[0]["text"]


def test_a_batch_gives_what_each_line_gives_alone(genkit: Run, hub_checkpoint: Make, tmp_path: Path) -> None:
    model = str(hub_checkpoint("bart"))
    lines = [{"prompt": "The cat", "seed": 5, "temperature": 1.0}, {"prompt": "A bird sang", "num_beams": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = genkit("text", "-m", model, "--input", "in.jsonl", "--max-new-tokens", "6")
    batch = [line for line in samples(done) if "samples" in line]
    flags = ["--seed", "5", "--temperature", "1", "--max-new-tokens", "6"]
    alone = document(genkit("text", "-m", model, "The cat", *flags, "--json"))
    assert len(batch) == 2
    assert batch[0]["samples"][0]["text"] == alone["samples"][0]["text"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_in_few_bits(precision: str, genkit: Run, hub_checkpoint: Make) -> None:
    flags = ["The cat", "--precision", precision, "--temperature", "0", "--max-new-tokens", "5", "--json"]
    told = document(genkit("text", "-m", str(hub_checkpoint("gpt_neox")), *flags))
    assert told["precision"] == precision
    assert told["engine"] == "torch"


def test_weights_in_several_files(genkit: Run, hub_checkpoint: Make, tmp_path: Path) -> None:
    from genkit.text.models.hub import load_hub

    whole = hub_checkpoint("gpt_neox")
    load_hub(whole, "causal").save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, tmp_path / "parts" / name)
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    flags = ["The cat", "--temperature", "0", "--max-new-tokens", "5"]
    assert genkit("text", "-m", "parts", *flags).out == genkit("text", "-m", str(whole), *flags).out


def test_a_variant_of_our_architectures_goes_through_transformers(
    genkit: Run, hub_checkpoint: Make, tmp_path: Path
) -> None:
    shutil.copytree(hub_checkpoint("llama"), tmp_path / "scaled")
    config = read_json(tmp_path / "scaled" / "config.json")
    scaling = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    write_json(tmp_path / "scaled" / "config.json", config | {"rope_parameters": scaling})
    told = document(genkit("text", "-m", "scaled", "The cat", "--max-new-tokens", "4", "--seed", "1", "--json"))
    assert told["engine"] == "torch"
    done = genkit("eval", "scaled", "--data", __file__, "--max-tokens", "200", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["loss"] > 0


def test_what_the_model_recommends_and_the_user_overrules(genkit: Run, hub_checkpoint: Make, tmp_path: Path) -> None:
    shutil.copytree(hub_checkpoint("bart"), tmp_path / "news")
    held = read_json(tmp_path / "news" / "generation_config.json")
    settings = {"num_beams": 4, "no_repeat_ngram_size": 3, "max_length": 7, "min_length": 4, "early_stopping": True}
    write_json(tmp_path / "news" / "generation_config.json", held | settings)
    told = document(genkit("text", "-m", "news", "The cat", "--seed", "1", "--json"))
    assert {name: told["settings"][name] for name in ("num_beams", "max_new_tokens", "min_new_tokens")} == {
        "num_beams": 4, "max_new_tokens": 6, "min_new_tokens": 3,
    }  # fmt: skip
    own = ["--num-beams", "1", "--max-new-tokens", "3", "--min-new-tokens", "0"]
    told = document(genkit("text", "-m", "news", "The cat", *own, "--json"))
    assert told["settings"]["num_beams"] == 1
    assert told["samples"][0]["tokens"] <= 3


@pytest.mark.parametrize(
    ("kind", "command", "code", "said"),
    [
        ("t5", ["text", "--regex", "a+", "-m", "{}", "x"], 2, "--regex runs on llama.cpp alone"),
        ("t5", ["text", "--engine", "llamacpp", "-m", "{}", "x"], 2, "use --engine torch"),
        ("gpt_neox", ["text", "-m", "{}", "cat " * 100], 3, "the model's context 64"),
        ("bert", ["text", "-m", "{}", "x"], 3, "use genkit fill"),
        ("t5", ["fill", "-m", "{}", "x [MASK]"], 3, "genkit text"),
        ("bert", ["eval", "{}", "--data", __file__], 3, "use genkit fill"),
        ("gpt_neox", ["export", "{}", "--to", "gguf", "--out", "x.gguf"], 3, "is a causal model"),
    ],
)
def test_refusals(kind: str, command: list[str], code: int, said: str, genkit: Run, hub_checkpoint: Make) -> None:
    done = genkit(*(word.replace("{}", str(hub_checkpoint(kind))) for word in command))
    assert done.code == code, done.err
    assert said in done.err


def test_a_missing_tokenizer_is_refused(genkit: Run, hub_checkpoint: Make, tmp_path: Path) -> None:
    shutil.copytree(hub_checkpoint("gpt_neox"), tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer.json"))
    done = genkit("text", "-m", "mute", "x")
    assert (done.code, done.text) == (3, "")
    assert "mute has no tokenizer" in done.err


def test_a_text_that_goes_on_begins_with_its_prompt_and_a_translation_does_not(
    genkit: Run, hub_checkpoint: Make
) -> None:
    flags = ["--temperature", "0", "--max-new-tokens", "3", "-q"]
    for kind, begins in (("gpt_neox", True), ("t5", False)):
        done = genkit("text", "-m", str(hub_checkpoint(kind)), "The cat", *flags)
        assert done.code == 0, done.err
        assert done.out.startswith(b"The cat") == begins
    done = genkit("text", "-m", str(hub_checkpoint("t5")), "The cat", "--echo", *flags)
    assert done.out.startswith(b"The cat")


def test_pickles_are_refused(genkit: Run, hub_checkpoint: Make, tmp_path: Path) -> None:
    shutil.copytree(hub_checkpoint("gpt_neox"), tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").rename(tmp_path / "old" / "pytorch_model.bin")
    done = genkit("text", "-m", "old", "x")
    assert done.code == 3
    assert "pickle" in done.err
    assert "safetensors" in done.err


def test_info_says_the_family(genkit: Run, hub_checkpoint: Make) -> None:
    facts = json.loads(genkit("info", str(hub_checkpoint("t5")), "--json").out)
    assert facts["family"] == "seq2seq"
    assert facts["here"]["engine"] == "torch"


def test_eval_of_a_causal_model(genkit: Run, hub_checkpoint: Make, tmp_path: Path) -> None:
    """The loss that transformers computes of the text between end-of-text tokens."""
    import torch

    from genkit.text.models.hub import load_hub, load_tokenizer

    (tmp_path / "text.txt").write_text("The cat sat on the mat.\n")
    folder = hub_checkpoint("gpt_neox")
    done = genkit("eval", str(folder), "--data", "text.txt", "--json")
    assert done.code == 0, done.err
    ids = load_tokenizer(folder)("The cat sat on the mat.\n")["input_ids"]
    rows = torch.tensor([[0, *ids[:-1], 0]])
    with torch.no_grad():
        wanted = load_hub(folder, "causal")(input_ids=rows, labels=rows).loss.item()
    assert json.loads(done.out)["loss"] == pytest.approx(wanted, rel=1e-5)
