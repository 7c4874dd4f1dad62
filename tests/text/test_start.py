"""Fine-tuning: what `--init-from` takes, what is trained of it, and what a run leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genkit import library
from genkit.errors import InputError, UsageError
from genkit.export import card, export
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.models.gpt import GPT
from genkit.text.models.store import load_model, model_files
from genkit.text.plan import plan
from genkit.text.start import starting_point
from genkit.text.tokenizer import train_bpe
from genkit.text.train import train_text
from genkit.text.trainconfig import TextTrainConfig, parse_freeze
from genkit.training.log import Progress, TrainReport
from genkit.training.weights import load_tensors, save_tensors

LINE = "the bird sang to the cat\n" * 40

CORPUS = "The cat sat on the mat. The dog ran to the cat. A bird sang in the tree.\n" * 20


class Killed(Exception):
    pass


class Recorder:
    """A logger that remembers, and may die at a step."""

    def __init__(self, die_at: int | None = None) -> None:
        self.die_at = die_at
        self.losses: list[float] = []
        self.said: list[str] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        self.losses.append(progress.values["loss"])
        if progress.step == self.die_at:
            raise Killed

    def message(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        pass


@pytest.fixture
def config(tmp_path: Path, tiny_text: Path) -> TextTrainConfig:
    (tmp_path / "line.txt").write_text(LINE)
    return TextTrainConfig(
        data=(str(tmp_path / "line.txt"),), out=str(tmp_path / "run"), init_from=str(tiny_text), steps=12,
        block_size=16, batch_size=4, lr=1e-2, optimizer="adamw", dropout=0.0, cooldown=0.4, eval_tokens=64,
        eval_interval=6, sample_interval=99, save_interval=5,
    )  # fmt: skip


def run(config: TextTrainConfig, logger: Recorder | None = None, **how: Any) -> TrainReport:
    with Runtime(resolve("cpu", "fp32", task="train-text"), seed=config.seed) as runtime:
        return train_text(config, runtime, logger or Recorder(), **how)


def lora(config: TextTrainConfig, **changes: Any) -> TextTrainConfig:
    return config.replace(lora=4, **changes)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder / "model.safetensors")


# --- adapters ----------------------------------------------------------------------------------------


def test_adapters_learn_a_line_and_leave_the_base_alone(config: TextTrainConfig, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(CORPUS)
    rarely = {"eval_interval": 999, "save_interval": 999}
    base = tmp_path / "base"
    run(config.replace(data=(str(tmp_path / "corpus.txt"),), out=str(base), steps=60, **rarely))
    before = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    recorder = Recorder()
    run(lora(config, init_from=str(base), steps=60, lr=2e-2, **rarely), recorder)
    assert recorder.losses[0] > 1
    assert recorder.losses[-1] < 0.4
    assert hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() == before
    assert any(line.endswith(": 0.02 M parameters, 4,096 trained") for line in recorder.said)


def test_the_root_is_the_adapter_merged_with_its_base(config: TextTrainConfig, tiny_text: Path, tmp_path: Path) -> None:
    run(lora(config))
    folder = tmp_path / "run"
    export(folder / "adapter", tmp_path / "whole", "hf")
    merged, root, base = weights(tmp_path / "whole"), weights(folder), weights(tiny_text)
    assert merged.keys() == root.keys() == base.keys()
    for name, tensor in root.items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-6, rtol=0)
        is_adapted = name.endswith("proj.weight")
        assert torch.equal(tensor, base[name]) != is_adapted, name
    assert (tmp_path / "whole/tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    ids = torch.arange(2, 12).unsqueeze(0)
    torch.testing.assert_close(load_model(folder)(ids), load_model(tmp_path / "whole")(ids), atol=1e-5, rtol=0)


def test_the_best_model_and_its_adapter_are_kept_together(config: TextTrainConfig, tmp_path: Path) -> None:
    # a second half with a learning rate that spoils what the first one learnt
    report = run(lora(config, steps=60, lr=3e-2, eval_interval=20, schedule="constant", save_interval=60))
    folder = tmp_path / "run"
    best = folder / "best"
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (best / name).read_bytes()
    assert json.loads((folder / "genkit.json").read_text())["metrics"]["val_loss"] == report.metrics["val_loss"]
    export(folder / "adapter", tmp_path / "whole", "hf")
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(weights(tmp_path / "whole")[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [{}, {"lora_dropout": 0.2}, {"accumulate": 2}, {"optimizer": "muon"}])
def test_an_interrupted_run_of_adapters_ends_bit_for_bit_like_a_straight_one(
    config: TextTrainConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = lora(config, eval_interval=99, **change)
    run(config)
    again = config.replace(out=str(tmp_path / "again"))
    for attempt, at in enumerate((3, 7, 11)):
        with pytest.raises(Killed):
            run(again, Recorder(at), resume=attempt > 0)
    run(again, resume=True)
    names = ["model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
    names += [f"checkpoints/step-000012/{stem}.safetensors" for stem in ("adapter", "optimizer", "random")]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_checkpoints_hold_the_adapters_alone(config: TextTrainConfig, tmp_path: Path) -> None:
    run(lora(config, lora_target="q_proj", lora_alpha=4.0))
    newest = tmp_path / "run/checkpoints/step-000012"
    assert {p.name for p in newest.iterdir()} == {
        "adapter.safetensors", "optimizer.safetensors", "random.safetensors", "state.json",
    }  # fmt: skip
    held = load_tensors(newest / "adapter.safetensors")
    assert {name: tuple(t.shape) for name, t in held.items()} == {
        f"blocks-{i}-attn-q.{x}": (4, 32) if x == "A" else (32, 4) for i in (0, 1) for x in "AB"
    }
    described = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert (described["r"], described["lora_alpha"], described["target_modules"]) == (4, 4, ["q_proj"])


def test_a_base_that_has_changed_is_refused(config: TextTrainConfig, tiny_text: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_text, tmp_path / "base")
    config = lora(config, init_from=str(base))
    run(config)
    tensors = weights(base)
    tensors["model.norm.weight"][0] += 1
    save_tensors(base / "model.safetensors", tensors)
    with pytest.raises(InputError, match="base is not what it was when this run began"):
        run(config.replace(steps=14), resume=True)
    with pytest.raises(InputError, match=r"has changed since .* was trained on it .*--base MODEL"):
        export(tmp_path / "run/adapter", tmp_path / "whole", "hf")
    export(tmp_path / "run/adapter", tmp_path / "whole", "hf", base=str(tiny_text))
    assert torch.allclose(weights(tmp_path / "whole")["model.norm.weight"], weights(tiny_text)["model.norm.weight"])


# --- freezing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "same"),
    [("embed", ("model.embed_tokens.",)), ("1", ("model.layers.0.",)), ("embed,1", ("model.embed", "model.layers.0."))],
)
def test_what_is_frozen_stays_and_the_rest_learns(
    config: TextTrainConfig, tiny_text: Path, tmp_path: Path, freeze: str, same: tuple[str, ...]
) -> None:
    recorder = Recorder()
    run(config.replace(freeze=freeze, weight_decay=0.5), recorder)
    after, before = weights(tmp_path / "run"), weights(tiny_text)
    assert {name for name in before if torch.equal(after[name], before[name])} == {
        name for name in before if name.startswith(same)
    }
    assert any(line.endswith(" trained") for line in recorder.said)


def test_freezing_more_than_there_is_is_refused(config: TextTrainConfig) -> None:
    with pytest.raises(UsageError, match="--freeze 3: the model has 2 blocks"):
        starting_point(config.replace(freeze="3"))
    with pytest.raises(UsageError, match="--freeze embed,2 leaves only a norm to train"):
        starting_point(config.replace(freeze="embed,2"))
    starting_point(config.replace(freeze="2"))  # the embedding is left


@pytest.mark.parametrize(
    ("text", "meaning"), [(None, (False, 0)), ("embed", (True, 0)), ("3", (False, 3)), ("3, embed", (True, 3))]
)
def test_what_freeze_means(text: str | None, meaning: tuple[bool, int]) -> None:
    assert parse_freeze(text) == meaning


@pytest.mark.parametrize("text", ["", "0", "-1", "all", "embed,embed", "1,2", "1.5", "²"])
def test_what_freeze_does_not_mean(text: str) -> None:
    with pytest.raises(UsageError, match="is not embed, a number of blocks, or both"):
        parse_freeze(text)


# --- where it starts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
def test_models_of_transformers_are_taken(
    config: TextTrainConfig, tiny_text: Path, tmp_path: Path, arch: str, tie: bool, precision: str
) -> None:
    """In several files, as large ones come, and in the precisions that they come in."""
    from transformers import AutoConfig, AutoModelForCausalLM

    vocab = json.loads((tiny_text / "config.json").read_text())["vocab_size"]
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    if arch != "gpt2":
        sizes = {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "intermediate_size": 24, "max_position_embeddings": 32, "head_dim": 8,
        }  # fmt: skip
    torch.manual_seed(0)
    shape = AutoConfig.for_model(
        arch, vocab_size=vocab + 3, tie_word_embeddings=tie, bos_token_id=0, eos_token_id=0, **sizes
    )
    theirs = AutoModelForCausalLM.from_config(shape).to(getattr(torch, precision))
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder, max_shard_size="4KB")
    assert (folder / library.INDEX).is_file()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_text / name, folder)
    start = starting_point(config.replace(init_from=str(folder)))
    ids = torch.arange(20).unsqueeze(0)
    assert start.model is not None
    with torch.no_grad():
        expected = theirs.float().eval()(ids).logits
        torch.testing.assert_close(start.model.eval()(ids), expected, atol=1e-4, rtol=0)
    for how in ({}, {"lora": 2}):
        run(config.replace(init_from=str(folder), steps=2, **how), force=True)
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
        with torch.no_grad():
            torch.testing.assert_close(whole(ids).logits, load_model(tmp_path / "run")(ids), atol=1e-4, rtol=0)


def test_a_hub_name_is_looked_up(
    config: TextTrainConfig, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(repo: str, *, revision: str | None, **_: Any) -> str:
        asked.append((repo, revision))
        return str(tiny_text)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    run(lora(config, init_from="hf:org/tiny@v1", steps=2))
    described = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert (described["base_model_name_or_path"], described["revision"]) == ("org/tiny", "v1")
    export(tmp_path / "run/adapter", tmp_path / "whole", "hf")
    assert asked[-1] == ("org/tiny", "v1")
    assert json.loads((tmp_path / "run/genkit.json").read_text())["base"]["model"] == "hf:org/tiny@v1"


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda f: f / "model.gguf", InputError, "a GGUF file is not trained further .*model directory that it was"),
        (lambda f: f / "image", InputError, "is an image model"),
        (lambda f: f / "adapter", InputError, "is a LoRA adapter, not a whole model .*genkit export"),
        (lambda f: f / "run" / "best", UsageError, "lies in --out"),
        (lambda f: f / "nothing", InputError, "no model"),
    ],
)
def test_what_cannot_be_trained_further(
    config: TextTrainConfig, tmp_path: Path, make: Any, error: type[Exception], said: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for folder, name, text in (("image", "config.json", '{"model_type": "dcgan"}'), ("adapter", library.ADAPTER, "{}")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    with pytest.raises(error, match=said):
        run(config.replace(init_from=str(make(tmp_path))))
    assert not (tmp_path / "run").exists()


def test_a_run_remembers_what_it_began_as(config: TextTrainConfig, tiny_text: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_text, tmp_path / "base")
    oldest = {"trained": {"tokens": 2}, "data": {"license": "CC-BY 4.0", "credit": "Ann Author"}}
    before = {"trained": {"tokens": 5}, "data": {"license": "CC0"}, "trained_before": oldest}
    (base / "genkit.json").write_text(json.dumps({"kind": "text", **before}))
    run(config.replace(init_from=str(base), steps=2))
    run(config.replace(init_from=str(base), steps=3), resume=True)
    record = json.loads((tmp_path / "run/genkit.json").read_text())
    assert record["base"]["model"] == str(base)
    assert len(record["base"]["sha256"]) == 64
    assert record["trained_before"] == before
    text = card(tmp_path / "run", "tuned", "fp32")
    assert "| Licence of earlier data | CC0; CC-BY 4.0 |" in text
    assert "| Credit for earlier data | Ann Author |" in text
    assert f"| Tokens seen | {7 + 3 * 4 * 16} |" in text
    assert f"| Fine-tuned from | {base} |" in text


# --- text that the model was not made for ------------------------------------------------------------


def test_characters_that_the_model_does_not_know_are_counted(config: TextTrainConfig, tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text(LINE + "the caf\u00e9 cat\n")
    recorder = Recorder()
    report = run(config.replace(steps=2, val_fraction=0.0), recorder)
    (said,) = report.warnings
    assert said.startswith("2 of 1,013 tokens are characters unknown to the tokenizer, ")
    assert "first in 'ng to the cat\\nthe ca\ufffd\ufffd cat'" in said  # there is no f in the model's alphabet
    assert "the model learns '<unk>' for them" in said
    assert said in recorder.said


def test_another_alphabet_is_refused(config: TextTrainConfig, tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("\u0436\u0443\u043a \u0438 \u043a\u043e\u0442\n" * 60)
    with pytest.raises(InputError, match=r"tokens are characters unknown to the tokenizer, .*train from scratch"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_shorter_block_keeps_the_context(config: TextTrainConfig, tmp_path: Path) -> None:
    run(config.replace(steps=2))
    assert load_model(tmp_path / "run").config.block_size == 64
    with pytest.raises(UsageError, match="--block-size 65 is more than the model's context"):
        run(config.replace(block_size=65), force=True)


def test_the_plan_says_what_is_trained(config: TextTrainConfig) -> None:
    with Runtime(resolve("cpu", "fp32", task="train-text")) as runtime:
        assert plan(lora(config), runtime)["model"].endswith(", 4,096 trained")
        assert plan(config, runtime)["model"].endswith("M parameters")


# --- conversations -----------------------------------------------------------------------------------


@pytest.fixture
def byte_model(tmp_path: Path, tiny_text: Path) -> Path:
    """A model with random weights whose tokenizer knows every text."""
    tokenizer = train_bpe([CORPUS], 300)
    folder = shutil.copytree(tiny_text, tmp_path / "bytes")
    shape = dataclasses.replace(load_model(folder).config, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id)
    torch.manual_seed(0)
    described, generation, tensors = model_files(GPT(shape), {})
    save_tensors(folder / "model.safetensors", tensors)
    for name, value in (("config.json", described), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(value))
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("how", [{}, {"lora": 8, "lr": 3e-2}], ids=["full", "lora"])
def test_conversations_teach_their_answers_alone(
    config: TextTrainConfig, byte_model: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    """Questions are noise: a loss that counted them could not become small."""
    from transformers import AutoTokenizer

    noise = torch.randint(10, (60, 24), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [json.dumps({"prompt": "".join(map(str, row)), "completion": "the cat"}) for row in noise]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines) + "\n")
    rarely = {"eval_interval": 999, "save_interval": 999}
    base = tmp_path / "base"
    recorder = Recorder()
    plain = config.replace(init_from=str(byte_model), out=str(base), steps=60, **rarely)
    run(plain)
    tuned = config.replace(
        data=(str(tmp_path / "chat.jsonl"),), init_from=str(base), block_size=64, steps=70, **rarely, **how
    )
    run(tuned, recorder)
    assert recorder.losses[0] > 1
    assert recorder.losses[-1] < 0.6  # 24 digits of 65 tokens alone would be 0.85
    for folder in ("run", "run/best", *(["run/adapter"] if how else [])):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": "12"}], tokenize=False, add_generation_prompt=True
        )
        assert asked == "### User:\n12\n\n### Assistant:\n"
    run(tuned.replace(steps=72), resume=True)  # the data is known again, its template too


def test_a_chat_template_outlives_plain_text(config: TextTrainConfig, byte_model: Path, tmp_path: Path) -> None:
    path = byte_model / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    run(lora(config, init_from=str(byte_model), steps=2))
    export(tmp_path / "run/adapter", tmp_path / "whole", "hf")
    for folder in ("run", "run/adapter", "whole"):
        assert json.loads((tmp_path / folder / "tokenizer_config.json").read_text())["chat_template"] == template


@pytest.mark.parametrize(
    ("prompt", "answer", "problem"),
    [
        ("7" * 80, "hi", "no token of the validation text counts"),  # behind the last window
        ("7", "", "all answers to validate on are empty"),
    ],
)
def test_conversations_that_cannot_validate_are_refused_first(
    config: TextTrainConfig, byte_model: Path, tmp_path: Path, prompt: str, answer: str, problem: str
) -> None:
    (tmp_path / "val.jsonl").write_text(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
    with pytest.raises(InputError, match=problem):
        run(config.replace(init_from=str(byte_model), val_data=str(tmp_path / "val.jsonl")))
    assert not (tmp_path / "run").exists()
