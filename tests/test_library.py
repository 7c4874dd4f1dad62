import json
from pathlib import Path

import pytest
import torch

from genkit import library
from genkit.errors import InputError
from genkit.training.rundir import RunDir
from genkit.training.weights import save_tensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_directory_and_a_weights_file_in_it_name_the_same_model(model: Path) -> None:
    assert library.find(str(model)) == model
    assert library.find(str(model / "model.safetensors")) == model


def test_the_kind_is_read_from_the_config(model: Path) -> None:
    assert library.kind(model) == "text"
    (model / "config.json").write_text(json.dumps({"model_type": "dcgan"}))
    assert library.kind(model) == "image"


def test_bundled_models_are_found_by_name(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(library, "_SHELVES", (model.parent,))
    assert library.bundled() == {"model": model}
    assert library.find("model") == model
    with pytest.raises(InputError, match="did you mean 'model'"):
        library.find("modell")


def test_a_local_directory_goes_before_a_bundled_name(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(library, "_SHELVES", (model.parent,))
    own = model.parent / "elsewhere"
    (own / "model").mkdir(parents=True)
    (own / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(own)
    assert library.find("model") == Path("model")


def test_a_folder_without_a_model_hides_no_bundled_name(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """`genkit image --each --out kittens/` makes one."""
    monkeypatch.setattr(library, "_SHELVES", (model.parent,))
    own = model.parent / "elsewhere"
    (own / "model").mkdir(parents=True)
    monkeypatch.chdir(own)
    assert library.find("model") == model


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://example.org/model", "not named by a URL"),
        ("hf:../../etc", "not a hub name"),
        ("nowhere/at/all", "no model"),
        ("", "no model ''"),
        ("a\0b", "no model"),
        ("a whole text " * 300, "no model 'a whole text a whole"),
    ],
)
def test_what_is_no_model_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        library.find(name)


def test_weights_in_several_files(model: Path) -> None:
    save_tensors(model / "model.safetensors", {"a": torch.zeros(2, 3), "b": torch.zeros(())})
    assert library.weight_files(model) == [model / "model.safetensors"]
    (model / "other.safetensors").write_bytes(b"nothing that the model needs")
    assert library.parameters(model) == 7
    (model / "model.safetensors").rename(model / "part.safetensors")
    assert library.parameters(model) is None
    index = model / library.INDEX
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}))
    assert library.weight_files(model) == [model / "part.safetensors"]
    assert library.parameters(model) == 7
    for elsewhere in ("../part.safetensors", "/part.safetensors", 3):
        index.write_text(json.dumps({"weight_map": {"a": elsewhere}}))
        with pytest.raises(InputError, match="weight_map must name files of the same folder"):
            library.weight_files(model)


def test_other_weights_beside_the_model_are_not_taken_for_it(model: Path) -> None:
    (model / "other.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"weights are called model\.safetensors"):
        library.find(str(model / "other.safetensors"))


def test_other_weight_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"not a \.safetensors or \.gguf file"):
        library.find(str(tmp_path / "model.pt"))


def test_a_run_that_has_not_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a model or run directory"):
        library.find(str(tmp_path))
    with RunDir.create(tmp_path), pytest.raises(InputError, match="has not saved yet"):
        library.find(str(tmp_path))


def test_a_hub_model_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path) -> None:
    """The cache layout of huggingface_hub, made by hand, read with the network switched off."""
    revision = "0" * 40
    repo = tmp_path / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    (repo / "snapshots").mkdir()
    model.rename(repo / "snapshots" / revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert library.find("hf:org/tiny").name == revision
    with pytest.raises(InputError, match="hf:org/other"):
        library.find("hf:org/other")


def test_an_adapter_is_found_as_one_and_is_no_model(tmp_path: Path, model: Path) -> None:
    """peft's files, and those of a tokenizer that it saves beside them."""
    folder = tmp_path / "my adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    assert library.find_any(str(folder)) == folder
    with pytest.raises(InputError, match=r"genkit export '.*my adapter' --to hf --out MODEL"):
        library.find(str(folder))
    (model / "adapter_config.json").write_text("{}")  # a whole model beside it goes first
    assert library.find(str(model)) == model
