"""Exported files in llama.cpp itself, prompted with text; and what GGUF cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from genkit.errors import InputError
from genkit.files import write_json
from genkit.pipeline import TextPipeline, load
from genkit.runtime import device
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.engines.llamaserver import start_server, stop_server
from genkit.text.gguf.check import check_gguf
from genkit.text.gguf.convert import gguf_view, write_gguf
from genkit.text.gguf.vocabulary import Unsupported
from genkit.text.models.gpt import GPT
from genkit.text.models.store import CONFIG, WEIGHTS, model_files
from genkit.text.tokenizer import END_OF_TEXT, Tokenizer, train_bpe, train_char
from genkit.training.weights import load_tensors, save_tensors

TEXT = "it's 1234 a\tb  c\n\nd <x> \u00e9\u6f22\u5b57 \U0001f600 The cat sat on the mat.\r\n"
HARD = [
    "Once upon a time",
    "  two  spaces ",
    "\n\nline\r\n\r\nx",
    "1234567 3.14",
    "it's IT'S we'll I'D don\u2019t",
    "tab\there\t\t \n \t x",
    "\u00e9 \u6f22\u5b57 \U0001f600\U0001f468\u200d\U0001f469",
    "a\u00a0b\u3000c \u2160 \u0661\u0662",
    "trailing   ",
]


def gpt2_bpe() -> Tokenizer:
    """Byte-level BPE with the split of GPT-2."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([TEXT * 9], trainer)
    return Tokenizer(model)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "ours": lambda: train_bpe([TEXT * 9], 300),
    "gpt2": gpt2_bpe,
    "char": lambda: train_char([TEXT]),
}


def save(folder: Path, arch: str, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32, **changes: Any) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "arch": arch, "vocab_size": tokenizer.vocab_size, "block_size": 128, "n_layer": 2, "n_head": 4,
        "n_kv_head": 4 if arch == "gpt2" else 2, "n_embd": 64, "head_dim": 16, "n_inner": 96,
        "eos_id": tokenizer.eos_id, "tie_embeddings": arch != "llama",
    }  # fmt: skip
    model = GPT(GPTConfig(**shape | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3).copy_(parameter.to(dtype))
    folder.mkdir()
    config, _, tensors = model_files(model, {})
    save_tensors(folder / WEIGHTS, {k: v.to(dtype) for k, v in tensors.items()}, {"format": "pt"})
    write_json(folder / CONFIG, config)
    tokenizer.save(folder)


class Independent:
    """llama.cpp as anyone would run it, without genkit's engine."""

    def __init__(self, gguf: Path) -> None:
        self.server = start_server(gguf, parallel=1, threads=1, context=128, exact=True)

    def ask(self, prompt: str, count: int) -> dict[str, Any]:
        answers: list[bytes] = []
        body = {"prompt": prompt, "n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        self.server.handle_completions(json.dumps(body).encode(), lambda chunk: bool(answers.append(chunk)))
        return dict(json.loads(answers[0]))

    def __enter__(self) -> Independent:
        return self

    def __exit__(self, *_: object) -> None:
        stop_server(self.server)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
def test_an_exported_model_goes_on_as_genkit_does(arch: str, kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[kind]()
    save(tmp_path / "m", arch, tokenizer)
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", "fp32")
    known = set(TEXT)
    prompts = HARD if kind != "char" else ["".join(c for c in text if c in known) for text in (*HARD, TEXT)]
    config = GenerationConfig(max_new_tokens=12, temperature=0)
    with load(tmp_path / "m", device="cpu", engine="torch") as reference, Independent(tmp_path / "m.gguf") as other:
        assert isinstance(reference, TextPipeline)
        for prompt in prompts:
            answer = other.ask(prompt, 12)
            assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(prompt)), prompt
            assert answer["choices"][0]["text"] == reference.complete(prompt, config)[0], prompt


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_export_and_the_engine_s_own_file_hold_the_same_numbers(precision: str, tmp_path: Path) -> None:
    import gguf

    save(tmp_path / "m", "llama", train_bpe([TEXT * 9], 300))
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", precision)
    kinds = {kind for shape, kind in check_gguf(tmp_path / "m.gguf").tensors.values() if len(shape) == 2}
    assert kinds == {"fp16": {"F16"}, "int8": {"Q8_0"}, "int4": {"Q4_0", "Q8_0"}}[precision]
    ours, theirs = (
        gguf.GGUFReader(path).tensors for path in (gguf_view(tmp_path / "m", precision), tmp_path / "m.gguf")
    )
    assert {t.name: t.data.tobytes() for t in ours} == {t.name: t.data.tobytes() for t in theirs}


def test_shards_are_one_model(tmp_path: Path) -> None:
    save(tmp_path / "m", "qwen3", train_char([TEXT]))
    write_gguf(tmp_path / "m", tmp_path / "whole.gguf", "fp32")
    tensors = load_tensors(tmp_path / "m" / WEIGHTS)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_tensors(tmp_path / "m" / file, {name: tensors[name] for name in held}, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    write_json(tmp_path / "m" / "model.safetensors.index.json", index)
    (tmp_path / "m" / WEIGHTS).unlink()
    write_gguf(tmp_path / "m", tmp_path / "shards.gguf", "fp32")
    whole, shared = (sorted(check_gguf(tmp_path / f"{name}.gguf").tensors.items()) for name in ("whole", "shards"))
    assert whole == shared
    with Independent(tmp_path / "whole.gguf") as one, Independent(tmp_path / "shards.gguf") as two:
        assert one.ask("it's", 20)["choices"] == two.ask("it's", 20)["choices"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_their_values(dtype: torch.dtype, tmp_path: Path) -> None:
    import gguf

    save(tmp_path / "m", "qwen3", train_char([TEXT]), dtype)
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", "fp32")
    held = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    given = load_tensors(tmp_path / "m" / WEIGHTS)
    assert given["model.layers.1.mlp.up_proj.weight"].dtype == dtype
    assert (held["blk.1.ffn_up.weight"] == given["model.layers.1.mlp.up_proj.weight"].float().numpy()).all()
    assert (held["token_embd.weight"] == given["model.embed_tokens.weight"].float().numpy()).all()


def unigram() -> tokenizers.Tokenizer:
    letters = [(c, -3.0) for c in sorted(set(TEXT + "\u2581"))]
    model = tokenizers.Tokenizer(models.Unigram([(END_OF_TEXT, 0.0), ("<unk>", 0.0), *letters], unk_id=1))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    return model


def word_piece() -> tokenizers.Tokenizer:
    words = [END_OF_TEXT, "<unk>", "the", "cat", "##s", *"abcdehtms", *(f"##{c}" for c in "abcdehtm")]
    model = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.decoder = decoders.WordPiece()
    return model


BEYOND: dict[str, tuple[Callable[[], Tokenizer], dict[str, Any], str]] = {
    "Unigram": (lambda: Tokenizer(unigram()), {}, "the tokenizer is Unigram"),
    "WordPiece": (lambda: Tokenizer(word_piece()), {}, "the tokenizer is WordPiece"),
    "no end": (lambda: train_char([TEXT]), {"eos_id": None}, "without an end-of-text token"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_gguf_cannot_hold_runs_on_torch(
    name: str, tmp_path: Path, genkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the native decoder, which can hold it, is not compiled."""
    monkeypatch.setattr(device, "native_library", lambda: tmp_path / "none")
    make, changes, reason = BEYOND[name]
    save(tmp_path / "m", "qwen3", make(), **changes)
    for write in (
        lambda: gguf_view(tmp_path / "m", "fp32"),
        lambda: write_gguf(tmp_path / "m", tmp_path / "x", "fp32"),
    ):
        with pytest.raises(Unsupported, match=reason):
            write()
    said: list[str] = []
    config = GenerationConfig(max_new_tokens=5, temperature=0)
    with load(tmp_path / "m", device="cpu", note=said.append) as found, load(tmp_path / "m", engine="torch") as torch_:
        assert isinstance(found, TextPipeline)
        assert isinstance(torch_, TextPipeline)
        assert found.placement.engine == "torch"
        assert any(reason in line for line in said)
        assert found.complete("the cat", config) == torch_.complete("the cat", config)
    with pytest.raises(InputError, match=reason):
        load(tmp_path / "m", device="cpu", engine="llamacpp")
    for command in (["text", "-m", "m", "--engine", "llamacpp", "a"], ["export", "m", "--to", "gguf", "-o", "x.gguf"]):
        done = genkit(*command)
        assert (done.code, done.out, done.err.count("\n")) == (3, b"", 1)
        assert reason in done.err
    assert not (tmp_path / "x.gguf").exists()
    assert genkit("text", "-m", "m", "the", "--max-new-tokens", "4").code == 0


def test_a_tokenizer_that_llama_cpp_splits_otherwise_is_not_exported_and_runs(tmp_path: Path) -> None:
    """genkit feeds ids, so its own file needs no split."""
    save(tmp_path / "m", "qwen3", train_bpe([TEXT * 9], 300))
    held = json.loads((tmp_path / "m" / "tokenizer.json").read_text())
    held["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}  # fmt: skip
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(Unsupported, match="splits words"):
        write_gguf(tmp_path / "m", tmp_path / "m.gguf", "fp32")
    with load(tmp_path / "m", device="cpu", engine="llamacpp") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        pipeline.complete("The cat", GenerationConfig(max_new_tokens=5))


def test_numbers_beyond_fp16_stay_fp32(tmp_path: Path) -> None:
    save(tmp_path / "m", "qwen3", train_char([TEXT]))
    tensors = load_tensors(tmp_path / "m" / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e9
    save_tensors(tmp_path / "m" / WEIGHTS, tensors, {"format": "pt"})
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", "fp16")
    kinds = {name: kind for name, (_, kind) in check_gguf(tmp_path / "m.gguf").tensors.items()}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.1.ffn_up.weight"]) == ("F32", "F16")


@pytest.mark.parametrize("engine", ["llamacpp", "torch"])
def test_logits_that_overflow_end_in_one_line(engine: str, tmp_path: Path, run_genkit: Callable[..., Any]) -> None:
    save(tmp_path / "m", "qwen3", train_char([TEXT]))
    tensors = load_tensors(tmp_path / "m" / WEIGHTS)
    for name in ("up_proj", "gate_proj", "down_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] *= 1e30
    save_tensors(tmp_path / "m" / WEIGHTS, tensors, {"format": "pt"})
    asked = ["text", "-m", "m", "The", "--engine", engine, "--max-new-tokens", "5", "--seed", "1"]
    done = run_genkit(*asked, "--logprobs", "1", "--format", "jsonl")
    assert (done.code, done.err.count("\n")) == (3, 1), done
    assert "not finite" in done.err
    assert run_genkit(*asked).code in (0, 3)
