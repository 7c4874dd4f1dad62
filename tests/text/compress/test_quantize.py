"""Quantised directories: `transformers` computes the same with compressed-tensors, and what cannot be is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from genkit import library
from genkit.errors import InputError, OutputError, UsageError
from genkit.files import read_json, write_json
from genkit.text.compress.directory import check_source, new_directory, write_shape
from genkit.text.compress.quantize import quantize_model
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import GPT
from genkit.text.models.store import load_model, model_files
from genkit.text.packed import open_weights
from genkit.training.weights import save_tensors

SHAPE = GPTConfig(
    arch="llama", vocab_size=48, block_size=32, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, head_dim=16, n_inner=96,
    eos_id=0,
)  # fmt: skip


def save(folder: Path, shape: GPTConfig) -> Path:
    torch.manual_seed(1)
    model = GPT(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # projections back into the stream begin at zero otherwise
                parameter.normal_(0.0, 0.2)
    config, _, tensors = model_files(model, {})
    folder.mkdir()
    save_tensors(folder / library.WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / library.CONFIG, config)
    return folder


def quantized(source: Path, folder: Path, precision: str) -> Path:
    folder.mkdir()
    write_shape(folder, quantize_model(source, folder, precision), {})
    return folder


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(("arch", "tied", "inner"), [("llama", True, 96), ("qwen3", False, 96), ("qwen3", False, 80)])
@pytest.mark.filterwarnings("ignore")
def test_transformers_computes_the_same(arch: str, tied: bool, inner: int, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    shape = dataclasses.replace(SHAPE, arch=arch, tie_embeddings=tied, n_inner=inner)
    source = save(tmp_path / "m", shape)
    folder = quantized(source, tmp_path / "q", precision)
    ignored = read_json(folder / library.CONFIG)["quantization_config"]["ignore"]
    assert len(ignored) == (3 if inner == 80 else 1)  # rows of 80 are no groups of 32
    ids = torch.arange(30).reshape(2, 15)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        ours, exact = load_model(folder)(ids), load_model(source)(ids)
        torch.testing.assert_close(ours, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert 0 < (ours - exact).std() / exact.std() < (0.05 if precision == "int8" else 0.8)


def test_it_is_smaller_and_counts_the_same_parameters(tiny_text: Path, quantised: Path) -> None:
    assert library.parameters(quantised) == library.parameters(tiny_text)
    sizes = [(folder / library.WEIGHTS).stat().st_size for folder in (quantised, tiny_text)]
    assert sizes[0] < 0.5 * sizes[1]
    exact, found = open_weights(tiny_text), open_weights(quantised)
    assert found.keys() == exact.keys()
    for name, weight in found.items():
        assert weight.shape == exact[name].shape
    record = read_json(quantised / library.RECORD)
    assert record["compressed"] == {"method": "quantize", "precision": "int4"}
    assert record["base"]["model"] == "tiny"


def test_gpt2_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "m", dataclasses.replace(SHAPE, arch="gpt2", n_kv_head=2))
    with pytest.raises(InputError, match=r"not linear ones in transformers.*export .* --to gguf --precision int4"):
        quantize_model(source, tmp_path, "int4")


def test_what_cannot_be_compressed_is_named(tiny_image: Path, quantised: Path, tmp_path: Path) -> None:
    for path, said in ((tiny_image, "is an image model"), (quantised, "is quantised to int4 already")):
        with pytest.raises(InputError, match=said):
            check_source(str(path), path)
    write_json(tmp_path / "config.json", {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]})
    with pytest.raises(InputError, match=r"of another kind \(seq2seq\).*genkit text runs others"):
        check_source("t5", tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    with pytest.raises(InputError, match=r"of another kind \(classifier\)") as refused:
        check_source("bert", tmp_path)
    assert refused.value.hint == "it takes GPT-2, Llama and Qwen3"  # genkit text runs no classifier
    (tmp_path / "m.gguf").touch()
    with pytest.raises(InputError, match="a GGUF file is not compressed"):
        check_source("m.gguf", tmp_path / "m.gguf")


def test_other_files_are_never_replaced(quantised: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="holds other files"), new_directory(folder, force=True):
        pass
    with pytest.raises(UsageError, match="already holds a compressed model"), new_directory(quantised, force=False):
        pass
    with pytest.raises(OutputError, match="is a file"), new_directory(folder / "notes.txt", force=True):
        pass
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "new", force=False):
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_what_came_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with new_directory(tmp_path / "out", force=True):
            (tmp_path / "out").mkdir()
            (tmp_path / "out/notes.txt").write_text("dear diary")

    with pytest.raises(UsageError, match="holds other files"):
        race()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]
