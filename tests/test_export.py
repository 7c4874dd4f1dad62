"""Exports hold the same model, appear whole or not at all, and replace nothing that is not theirs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import GenkitError, InputError, OutputError, UsageError
from genkit.export import FORMATS, MARK, card, export
from genkit.files import check_safetensors
from genkit.image.models.store import load_generator
from genkit.image.noise import latents
from genkit.text.models.store import load_model
from genkit.training.weights import load_tensors, save_tensors

KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".genkit-")]


@pytest.mark.parametrize("precision", KINDS)
def test_hf_holds_the_same_numbers(tiny_text: Path, tmp_path: Path, precision: str) -> None:
    export(tiny_text, tmp_path / "out", "hf", precision)
    ours, theirs = load_tensors(tiny_text / "model.safetensors"), load_tensors(tmp_path / "out/model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert tensor.dtype == KINDS[precision]
        assert torch.equal(tensor, ours[name].to(KINDS[precision]))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == json.loads((tiny_text / "config.json").read_text()) | {"dtype": str(KINDS[precision])[6:]}
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny_text / name).read_bytes()
    assert leftovers(tmp_path) == []


def test_hf_is_what_the_safetensors_library_reads(tiny_text: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    export(tiny_text, tmp_path / "out", "hf", "bf16")
    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {name: file.get_tensor(name).shape for name in file.keys()} == {  # noqa: SIM118 - not a mapping
            name: tensor.shape for name, tensor in load_tensors(tiny_text / "model.safetensors").items()
        }


def test_transformers_continues_the_same_way(tiny_text: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(tiny_text, tmp_path / "out", "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert theirs.dtype == torch.float32
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("The cat", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, load_model(tiny_text)(ids), rtol=1e-4, atol=1e-4)


def test_shards_of_other_precisions_become_one_file(tiny_text: Path, tmp_path: Path) -> None:
    source = tmp_path / "sharded"
    shutil.copytree(tiny_text, source)
    tensors = load_tensors(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    tensors = {
        n: t.to([torch.float64, torch.float16, torch.bfloat16][i % 3]) for i, (n, t) in enumerate(tensors.items())
    }
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, held in parts.items():
        save_tensors(source / part, {name: tensors[name] for name in held})
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    export(source, tmp_path / "out", "hf", "fp32")
    made = load_tensors(tmp_path / "out/model.safetensors")
    assert all(torch.equal(made[name], tensors[name].float()) for name in names)
    assert not (tmp_path / "out/model.safetensors.index.json").exists()


def test_a_number_too_large_for_fp16_is_refused(tiny_text: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    shutil.copytree(tiny_text, source)
    tensors = load_tensors(source / "model.safetensors")
    tensors["model.norm.weight"][0] = 1e5
    save_tensors(source / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"model\.norm\.weight holds a number that f16 cannot"):
        export(source, tmp_path / "out", "hf", "fp16")
    assert sorted(os.listdir(tmp_path)) == ["large"]
    export(source, tmp_path / "out", "hf", "bf16")


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "F32"), ("fp16", "F16"), ("int8", "Q8_0"), ("int4", "Q8_0")])
def test_gguf_is_what_the_gguf_package_reads(tiny_text: Path, tmp_path: Path, precision: str, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    export(tiny_text, tmp_path / "out.gguf", "gguf", precision)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    found = tensors["token_embd.weight"]
    assert found.tensor_type.name == kind
    values = gguf.quants.dequantize(found.data, found.tensor_type)
    expected = load_tensors(tiny_text / "model.safetensors")["model.embed_tokens.weight"].numpy()
    step = np.abs(expected).max() / 127
    tolerance = {"fp32": 0, "fp16": 1e-3, "int8": step, "int4": step}[precision]
    assert np.abs(values - expected).max() <= tolerance
    assert leftovers(tmp_path) == []


def test_onnx_of_a_model_with_classes(tiny_classes: Path, tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    export(tiny_classes, tmp_path / "g.onnx", "onnx")
    z, y = latents(7, 8)[None], np.array([2])
    session = InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    image = session.run(["image"], {"z": z, "y": y})[0]
    with torch.inference_mode():
        expected = load_generator(tiny_classes)(torch.from_numpy(z), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(image, expected, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["apple", "cherry", "pear"]'


def test_onnx_stands_alone(tiny_image: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    (tmp_path / "elsewhere").mkdir()
    export(tiny_image, tmp_path / "elsewhere/g.onnx", "onnx")
    z = np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)
    (drawn,) = runtime.InferenceSession(tmp_path / "elsewhere/g.onnx").run(None, {"z": z})
    with torch.no_grad():
        expected = load_generator(tiny_image)(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    assert os.listdir(tmp_path / "elsewhere") == ["g.onnx"]


@pytest.mark.parametrize(
    ("model", "form", "precision", "said"),
    [
        ("tiny_text", "onnx", None, r"onnx does not hold text models \(use --to gguf or hf\)"),
        ("tiny_image", "gguf", None, r"gguf does not hold image models \(use --to onnx\)"),
        ("tiny_image", "hf", "fp32", r"hf does not hold image models"),
        ("tiny_text", "gguf", "bf16", r"gguf is not written in bf16 \(use --precision fp32 or fp16 or int8 or int4\)"),
        ("tiny_text", "hf", "int8", r"hf is not written in int8"),
        ("tiny_image", "onnx", "fp16", r"onnx is not written in fp16 \(use --precision fp32\)"),
    ],
)
def test_what_does_not_go_together(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, form: str, precision: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export(request.getfixturevalue(model), tmp_path / "out", form, precision)
    assert os.listdir(tmp_path) == []


def test_an_earlier_export_is_replaced_and_nothing_else(tiny_text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    export(tiny_text, out, "hf")
    export(tiny_text, out, "hf", "bf16")
    assert check_safetensors(out / "model.safetensors")["model.norm.weight"]["dtype"] == "BF16"
    with pytest.raises(OutputError, match=r"out exists \(choose another name, or drop --no-clobber\)"):
        export(tiny_text, out, "hf", clobber=False)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        export(tiny_text, out, "hf")
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    (out / "README.md").write_text("a card that somebody wrote anew")
    with pytest.raises(OutputError, match="holds other files"):
        export(tiny_text, out, "hf")
    with pytest.raises(OutputError, match="holds other files"):
        export(tiny_text, tiny_text, "hf")  # onto itself
    assert leftovers(tmp_path) == leftovers(tiny_text.parent) == []


def test_an_export_onto_itself_changes_its_precision(tiny_text: Path, tmp_path: Path) -> None:
    export(tiny_text, tmp_path / "out", "hf")
    export(tmp_path / "out", tmp_path / "out", "hf", "fp16")
    export(tmp_path / "out", tmp_path / "again", "hf", "fp16")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_a_failed_export_leaves_the_old_one(tiny_text: Path, tmp_path: Path) -> None:
    export(tiny_text, tmp_path / "out", "hf")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    broken = tmp_path / "broken"
    shutil.copytree(tiny_text, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    for form, name in (("hf", "out"), ("gguf", "out.gguf")):
        with pytest.raises(InputError, match=r"model\.safetensors"):
            export(broken, tmp_path / name, form)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["broken", "out"]


def test_an_export_that_cannot_take_its_place_puts_the_old_one_back(
    tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tiny_text, tmp_path / "out", "hf")
    rename, asked = os.rename, list[object]()

    def second_fails(source: object, target: object) -> None:
        asked.append(target)
        if len(asked) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OutputError, match="Input/output error"):
        export(tiny_text, tmp_path / "out", "hf", "fp16")
    assert len(asked) == 3
    assert check_safetensors(tmp_path / "out/model.safetensors")["model.norm.weight"]["dtype"] == "F32"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("form", FORMATS)
def test_where_nothing_can_be_written(tiny_text: Path, tiny_image: Path, tmp_path: Path, form: str) -> None:
    model = tiny_image if form == "onnx" else tiny_text
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="create the folder first"):
        export(model, tmp_path / "none/out", form)
    with pytest.raises(OutputError, match="a part of this path is a file"):
        export(model, tmp_path / "file/out", form)
    with pytest.raises(OutputError, match=r"file exists"):
        export(model, tmp_path / "file", form, clobber=False)
    if form == "hf":
        with pytest.raises(OutputError, match="is a file"):
            export(model, tmp_path / "file", form)
    else:
        (tmp_path / "folder").mkdir()
        with pytest.raises(OutputError, match="folder is not a file"):
            export(model, tmp_path / "folder", form)
    assert (tmp_path / "file").read_text() == "mine"
    assert leftovers(tmp_path) == []


def test_the_card_says_whose_data_it_was(tiny_text: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(tiny_text, source)
    record = {
        "genkit_version": "0.1.0",
        "data": {"name": "tales | old\nand new", "license": "CC-BY 4.0", "credit": "Ann Author"},
        "trained": {"tokens": 1000},
        "trained_before": {"trained": {"tokens": 500}},
        "metrics": {"val_loss": 1.23456},
    }
    (source / "genkit.json").write_text(json.dumps(record))
    text = card(source, "tales", "fp16")
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert MARK in text
    lines = text.splitlines()
    for row in (
        "| Stored as | float16 |",
        "| Trained with | genkit 0.1.0 |",
        r"| Trained on | tales \| old and new |",
        "| Licence of the data | CC-BY 4.0 |",
        "| Credit | Ann Author |",
        "| Tokens seen | 1,500 |",
        "| `val_loss` | 1.235 |",
        "| Context | 64 tokens |",
    ):
        assert row in lines
    assert "None" not in card(tiny_text, "plain", "fp32")


@pytest.mark.parametrize(("model", "form"), [("story", "hf"), ("story", "gguf"), ("kittens", "onnx")])
def test_nothing_heavy_is_imported(tmp_path: Path, model: str, form: str) -> None:
    program = (
        "import sys; from pathlib import Path; from genkit.library import find; from genkit.export import export; "
        "export(find(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]); print(*{m.split('.')[0] for m in sys.modules})"
    )
    root = Path(__file__).parents[1]
    args = [sys.executable, "-c", program, model, str(tmp_path / "out"), form]
    done = subprocess.run(args, capture_output=True, text=True, cwd=root, check=True)
    assert not {"torch", "transformers", "rich", "PIL"} & set(done.stdout.split())


def test_a_gguf_file_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(GenkitError, match="GGUF"):
        export(tmp_path / "a.gguf", tmp_path / "b.gguf", "gguf")
