"""`genkit info`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from genkit.files import sha256

Run = Callable[..., Any]


def test_info_of_a_text_model(genkit: Run, tiny_text: Path) -> None:
    found = json.loads(genkit("info", str(tiny_text), "--json").out)
    assert found["makes"] == "text"
    assert found["config"]["model_type"] == "qwen3"
    assert found["sha256"] == sha256(tiny_text / "model.safetensors")
    lines = genkit("info", str(tiny_text)).text.splitlines()
    assert "makes: text" in lines
    assert "config.num_hidden_layers: 2" in lines
    assert f"parameters: {found['parameters']}" in lines


def test_parameters_of_the_generator(genkit: Run, tiny_image: Path) -> None:
    from genkit.image.modelconfig import DCGANConfig
    from genkit.image.models.dcgan import Generator

    numbers = sum(p.numel() for p in Generator(DCGANConfig(size=32, nz=8, ngf=4, ndf=4)).state_dict().values())
    assert json.loads(genkit("info", str(tiny_image), "--json").out)["parameters"] == numbers


def test_a_picture_says_how_to_draw_it_again(genkit: Run, tiny_image: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.jpg"):
        genkit("image", "-m", str(tiny_image), "--seeds", "3,5-6", "--out", name)
        note = json.loads(genkit("info", name, "--json").out)
        assert (note["seeds"], note["model"]) == ("3,5-6", str(tiny_image))
        assert note["model_sha256"] == sha256(tiny_image / "model.safetensors")
    again = genkit("image", "-m", note["model"], "--seeds", note["seeds"], "--out", "b.png")
    assert again.code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_foreign_picture_cannot_drive_the_terminal(genkit: Run, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("model", "x\x1b]0;title\x07\ny")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=text)
    done = genkit("info", "a.png")
    assert done.text.splitlines()[1] == r"model: x\x1b]0;title\x07 y"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "no model 'nowhere'"),
        ("none.png", "cannot read none.png: No such file or directory"),
        ("text.png", "not a png, webp, jpg or gif"),
        ("plain.png", "plain.png does not say how it was drawn"),
        ("https://example.com/m", "a model is not named by a URL"),
    ],
)
def test_refusals(genkit: Run, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    done = genkit("info", target)
    assert (done.code, done.out) == (3, b"")
    assert done.err.count("\n") == 1
    assert message in done.err


def test_info_says_where_sampling_would_run(genkit: Run, tiny_text: Path, tiny_image: Path) -> None:
    from genkit.runtime.device import resolve

    for model, task in ((tiny_text, "text"), (tiny_image, "image")):
        placement = resolve(task=task)  # type: ignore[arg-type]
        here = json.loads(genkit("info", str(model), "--json").out)["here"]
        assert (here["device"], here["engine"]) == (placement.device, placement.engine)
        assert here["precision"] == placement.precision


def test_info_of_a_gguf_file(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    genkit("export", str(tiny_text), "--to", "gguf", "--out", "a.gguf", "--precision", "fp16")
    found = json.loads(genkit("info", "a.gguf", "--json").out)
    assert (found["makes"], found["sha256"]) == ("text", sha256(tmp_path / "a.gguf"))
    assert found["parameters"] == json.loads(genkit("info", str(tiny_text), "--json").out)["parameters"]
    assert found["fields"]["general.architecture"] == "qwen3"
    assert found["fields"]["qwen3.context_length"] == 64
    assert set(found["types"]) == {"F16", "F32"}
    assert "fields.qwen3.block_count: 2" in genkit("info", "a.gguf").text.splitlines()
    (tmp_path / "a.gguf").write_bytes((tmp_path / "a.gguf").read_bytes()[:100])
    done = genkit("info", "a.gguf")
    assert (done.code, done.out, done.err.count("\n")) == (3, b"", 1)
    assert "damaged GGUF" in done.err


def test_info_of_a_gguf_loads_nothing(tiny_text: Path, tmp_path: Path) -> None:
    from genkit.export import export

    export(tiny_text, tmp_path / "a.gguf", "gguf")
    program = (
        "import sys; from genkit.cli import entry; entry(sys.argv[1:]); print(*{m.split('.')[0] for m in sys.modules})"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    args = [sys.executable, "-c", program, "info", str(tmp_path / "a.gguf")]
    done = subprocess.run(args, capture_output=True, text=True, env=env, check=True)
    assert not {"numpy", "torch", "gguf", "xllamacpp"} & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("form", ["png", "webp", "jpg", "gif", "npz"])
def test_pictures_of_every_format(genkit: Run, tiny_image: Path, form: str) -> None:
    what = ("--interpolate", "1,2", "--frames", "3") if form == "gif" else ("--seeds", "1-2")
    assert genkit("image", "-m", str(tiny_image), *what, "--out", f"a.{form}").code == 0
    note = json.loads(genkit("info", f"a.{form}", "--json").out)
    assert note["model_sha256"] == sha256(tiny_image / "model.safetensors")
    assert note.get("seeds", note.get("interpolate")) in ("1-2", "1,2")


def test_results_are_counted(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    model = ("-m", str(tiny_text), "--max-new-tokens", "3", "-q")
    genkit("text", *model, "The", "--n", "2", "--seed", "5", "--format", "jsonl", "--output", "a.jsonl")
    found = json.loads(genkit("info", "a.jsonl", "--json").out)
    assert found["seeds"] == {"least": 5, "largest": 6, "different": 2}
    assert (found["lines"], found["samples"], found["models"]) == (2, 2, {str(tiny_text): 2})
    assert sum(found["finish"].values()) == 2

    (tmp_path / "in.jsonl").write_text('{"prompt": "The", "n": 2}\n{"prompt": 3}\n{"prompt": "dog"}\n')
    assert genkit("text", *model, "--input", "in.jsonl", "--seed", "1", "--output", "b.jsonl").code == 7
    found = json.loads(genkit("info", "b.jsonl", "--json").out)
    assert {k: found[k] for k in ("lines", "refused", "torn", "samples")} == {
        "lines": 3, "refused": 1, "torn": 0, "samples": 3,
    }  # fmt: skip
    lines = (tmp_path / "b.jsonl").read_bytes()
    assert found["tokens"] == sum(s["tokens"] for li in lines.splitlines() for s in json.loads(li).get("samples", []))
    (tmp_path / "b.jsonl").write_bytes(lines[:-20])
    found = json.loads(genkit("info", "b.jsonl", "--json").out)
    assert (found["lines"], found["torn"]) == (2, 1)


def test_an_unfinished_batch_says_what_its_job_is(genkit: Run, tmp_path: Path) -> None:
    head = {"genkit_batch": 1, "model": "abc", "seed": 4}
    (tmp_path / "a.jsonl.part").write_text(json.dumps(head) + '\n{"id": 1, "error": {}, "input_hash": "0"}\n')
    found = json.loads(genkit("info", "a.jsonl.part", "--json").out)
    assert (found["job"], found["lines"], found["refused"]) == (head, 1, 1)


@pytest.mark.parametrize("line", ['{"step": 1}\n', "[1]\n", "no json\n", '{"samples": 3}\n'])
def test_other_lines_are_no_results(genkit: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line)
    done = genkit("info", "a.jsonl")
    assert (done.code, done.out) == (3, b"")
    assert "a.jsonl: line 2 is no result of genkit text" in done.err
