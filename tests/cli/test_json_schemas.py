"""What `--json` prints is what the schemas in genkit/schemas say, for every command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

import genkit as package
from genkit import errors
from genkit.cli import COMMANDS
from genkit.errors import GenkitError
from genkit.text.config import GenerationConfig
from genkit.text.metrics.config import METRICS

Run = Callable[..., Any]
FOLDER = Path(package.__file__).parent / "schemas"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def check(value: Any, name: str) -> None:
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(value)


def check_run(done: Any, name: str) -> Any:
    """The one document that a command printed, after its schema has been asked."""
    assert done.code == 0, done.err
    value = json.loads(done.out)
    check(value, name)
    return value


def check_lines(done: Any, name: str, code: int = 0) -> list[Any]:
    assert done.code == code, done.err
    values = [json.loads(line) for line in done.text.splitlines()]
    for value in values:
        check(value, name)
    return values


@pytest.fixture
def text_data(tmp_path: Path) -> str:
    (tmp_path / "book.txt").write_text("The cat sat on the mat. The dog ran to the cat.\n" * 200)
    return "book.txt"


@pytest.fixture
def image_data(tmp_path: Path) -> str:
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    return "photos"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"{name}.json"
    assert schema["title"]
    for part in objects(schema):
        assert part.keys() & {"additionalProperties", "description"}, part  # what is open says what it is
        assert set(part.get("required", ())) <= set(part.get("properties", ()))


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that is about an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def test_no_command_lacks_a_schema() -> None:
    assert set(COMMANDS) <= set(SCHEMAS)
    plans = {"train-text-plan", "train-gan-plan", "train-classifier-plan"}
    others = {"error", "text-line", "text-batch-line", "train-metrics-line"} | plans
    assert set(SCHEMAS) == set(COMMANDS) | others


def test_text(genkit: Run, tiny_text: Path) -> None:
    model = ("-m", str(tiny_text), "--max-new-tokens", "4", "--seed", "1")
    found = check_run(genkit("text", *model, "The", "-n", "2", "--stop", "q", "--json"), "text")
    assert found["settings"].keys() == GenerationConfig.__dataclass_fields__.keys()
    found = check_run(genkit("text", *model, "The", "--format", "json", "--logprobs", "2"), "text")
    assert len(found["samples"][0]["logprobs"]) == found["samples"][0]["tokens"]
    found = check_run(genkit("text", *model, "The", "--json", "--num-beams", "2", "-n", "2"), "text")
    assert found["engine"] == "torch"
    for more in ((), ("--logprobs", "0"), ("-n", "3", "--temperature", "0")):
        assert check_lines(genkit("text", *model, "The", "--format", "jsonl", *more), "text-line")


def test_a_gguf_as_a_model(genkit: Run, tiny_text: Path) -> None:
    check_run(genkit("export", str(tiny_text), "--to", "gguf", "--out", "a.gguf", "--json"), "export")
    found = check_run(genkit("text", "-m", "a.gguf", "The", "--max-new-tokens", "2", "--json"), "text")
    assert found["precision"] is None
    check_run(genkit("info", "a.gguf", "--json"), "info")


def test_batches(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"prompt": "The", "id": "a", "n": 2, "logprobs": 1}\n{"prompt": "dog", "top_k": -3}\n"cat"\nnot json\n'
    )
    model = ("-m", str(tiny_text), "--max-new-tokens", "4", "--seed", "1")
    values = check_lines(genkit("text", *model, "--input", "in.jsonl", "--json"), "text-batch-line", code=7)
    assert [("error" in value) for value in values] == [False, True, False, True]
    done = genkit("text", *model, "--input", "in.jsonl", "--json", "--output", "out.jsonl")
    check(json.loads(done.err.splitlines()[-1]), "error")
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == values
    check_run(genkit("info", "out.jsonl", "--json"), "info")


def test_image(genkit: Run, tiny_image: Path) -> None:
    model = ("-m", str(tiny_image), "--json")
    check_run(genkit("image", *model, "--seeds", "3,5-6", "--out", "a.png"), "image")
    found = check_run(genkit("image", *model, "--n", "2", "--each", "--truncation", "0.7", "--out", "each"), "image")
    assert len(found["files"]) == 2
    walk = ("--interpolate", "1,2", "--frames", "3", "--out", "a.gif")
    assert check_run(genkit("image", *model, *walk), "image")["frames"] == "3"
    check_run(genkit("image", *model, "--seeds", "1-2", "--out", "a.npz"), "image")
    check_run(genkit("image", *model, "--latent", "a.npz,3", "--mix", "0.2", "--out", "b.png"), "image")


def test_image_with_classes(genkit: Run, tiny_classes: Path, tmp_path: Path) -> None:
    model = ("-m", str(tiny_classes), "--json")
    check_run(genkit("image", *model, "--class", "pear=2", "--out", "a.png"), "image")
    check_run(genkit("image", *model, "--interpolate", "0,1", "--frames", "2", "--out", "a.gif"), "image")
    Image.new("RGB", (9, 9)).save(tmp_path / "me.png")
    check_run(genkit("image", *model, "--project", "me.png", "--steps", "1", "--out", "a.npz"), "image")
    check_run(genkit("info", str(tiny_classes), "--json"), "info")
    check_run(genkit("info", "a.npz", "--json"), "info")
    for name in ("a.png", "a.gif"):
        check_run(genkit("info", name, "--json"), "info")


def test_models(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/broken").mkdir(parents=True)
    (tmp_path / "runs/broken/config.json").write_text("{")
    assert len(check_run(genkit("models", "--json"), "models")) >= 3
    for name in ("story", "kittens", str(tiny_text)):
        check_run(genkit("info", name, "--json"), "info")


def test_eval(genkit: Run, tiny_text: Path, text_data: str) -> None:
    check_run(genkit("eval", str(tiny_text), "--data", text_data, "--json"), "eval")
    few = check_run(genkit("eval", str(tiny_text), "--data", text_data, "--max-tokens", "9", "--json"), "eval")
    assert few["tokens"] == 9


def test_eval_of_images(genkit: Run, tiny_image: Path, image_data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from genkit.image import inception

    found = check_run(genkit("eval", str(tiny_image), "--data", image_data, "--n", "4", "--json"), "eval")
    assert {"swd", "diversity", "nearest"} <= found["metrics"].keys()
    monkeypatch.setattr(inception, "fetch", lambda on_progress: Path("there.pth"))
    check_run(genkit("eval", "--fetch-inception", "--json"), "eval")


def test_eval_of_generation(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("The cat\tsat\nA dog\tran\n")
    args = ("--data", "pairs.tsv", "--metric", "chrf,distinct", "--max-new-tokens", "3", "--json")
    assert check_run(genkit("eval", str(tiny_text), *args), "eval")["pairs"] == 2


def test_texts_behind_a_filter(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    model = ("-m", str(tiny_text), "--max-new-tokens", "4", "--seed", "1", "--filter", "zebra")
    assert check_run(genkit("text", *model, "The", "-n", "2", "--json"), "text")["filter"]["drawn"] == 2
    check_lines(genkit("text", *model, "The", "--format", "jsonl"), "text-line")
    (tmp_path / "in.txt").write_text("The\n")
    never = ("--filter-pattern", "(?s).", "--filter-attempts", "1")
    check_lines(genkit("text", *model, "--input", "in.txt"), "text-batch-line")
    check_lines(genkit("text", *model, "--input", "in.txt", *never), "text-batch-line", code=7)


def test_audit(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    line = {"template": "The {group} sat", "groups": ["cat", "dog"], "continuations": [" on", " in"]}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    check_run(genkit("audit", str(tiny_text), "--prompts", "t.jsonl", "--json"), "audit")


def test_score(genkit: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat\nthe dog ran\n")
    every = ",".join(METRICS)
    texts = ("--candidates", "a.txt", "--references", "a.txt", "--json")
    found = check_run(genkit("score", *texts, "--metric", every), "score")["metrics"]
    assert found["exact"]["value"] == 1
    assert len(found) == len(METRICS) + 3 + 2  # rouge is four figures, distinct three


def test_export_and_completion(genkit: Run, tiny_text: Path, tiny_image: Path) -> None:
    check_run(genkit("export", str(tiny_text), "--to", "hf", "--out", "hf", "--precision", "bf16", "--json"), "export")
    check_run(genkit("export", str(tiny_image), "--to", "onnx", "--out", "a.onnx", "--json"), "export")
    check_run(genkit("completion", "fish", "--json"), "completion")


def test_doctor(genkit: Run) -> None:
    assert check_run(genkit("doctor", "--json"), "doctor")["ok"]


SMALL_TEXT = ("--preset", "tiny", "--batch-size", "2", "--no-compile", "--steps", "2", "--val-fraction", "0.2")
SMALL_GAN = ("--size", "32", "--ngf", "4", "--ndf", "4", "--batch-size", "8", "--steps", "20")


def test_train_text(genkit: Run, text_data: str, tmp_path: Path) -> None:
    check_run(genkit("train-text", "--data", text_data, *SMALL_TEXT, "--dry-run", "--json"), "train-text-plan")
    check_run(genkit("train-text", "--data", text_data, *SMALL_TEXT, "--out", "run", "--json"), "train-text")
    check_metrics(tmp_path / "run")
    check_run(genkit("info", "run", "--json"), "info")


def test_train_gan(genkit: Run, image_data: str, tmp_path: Path) -> None:
    check_run(genkit("train-gan", "--data", image_data, *SMALL_GAN, "--dry-run", "--json"), "train-gan-plan")
    check_run(genkit("train-gan", "--data", image_data, *SMALL_GAN, "--out", "run", "--json"), "train-gan")
    check_metrics(tmp_path / "run")
    check_run(genkit("info", "run", "--json"), "info")


def test_chat(genkit: Run, tiny_text: Path) -> None:
    talk = ("chat", "-m", str(tiny_text), "--max-new-tokens", "4", "--json")
    check_lines(genkit(*talk, input=b"cat\ndog\n"), "chat")
    assert "error" in check_lines(genkit(*talk, input=b"a" * 99), "chat", code=7)[0]
    found = check_run(genkit("text", "-m", str(tiny_text), "--chat", "cat", "--max-new-tokens", "4", "--json"), "text")
    assert found["messages"]


def test_conversations_in_a_batch(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "cat"}]}\n{"prompt": "cat"}\n')
    done = genkit("text", "-m", str(tiny_text), "--max-new-tokens", "4", "--input", "in.jsonl")
    assert ["messages" in value for value in check_lines(done, "text-batch-line")] == [True, False]


def test_explain(genkit: Run, tiny_text: Path, tiny_image: Path, tiny_classes: Path) -> None:
    found = check_run(genkit("explain", str(tiny_text), "The cat", "--attention", "a.png", "--json"), "explain")
    assert found["kind"] == "causal"
    check_run(genkit("explain", str(tiny_image), "--out", "a.png", "--json"), "explain")
    assert check_run(genkit("explain", str(tiny_classes), "--out", "a.png", "--json"), "explain")["class"] == "apple"
    pytest.importorskip("captum")
    why = ("--attribution", "b.html", "--steps", "8")
    assert check_run(genkit("explain", str(tiny_text), "The cat", *why, "--json"), "explain")["attribution"]


def test_classifiers(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    rows = [{"text": f"The {name} sat {i}", "label": name} for i in range(8) for name in ("cat", "dog")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = ("--data", "a.jsonl", "--init-from", str(tiny_text), "--steps", "2", "--batch-size", "4")
    check_run(genkit("train-classifier", *small, "--dry-run", "--json"), "train-classifier-plan")
    check_run(genkit("train-classifier", *small, "--out", "run", "--json"), "train-classifier")
    check_metrics(tmp_path / "run")
    check_run(genkit("info", "run", "--json"), "info")
    check_run(genkit("eval", "run", "--data", "a.jsonl", "--json"), "eval")
    check_run(genkit("classify", "-m", "run", "The cat", "--pair", "The dog", "--json"), "classify")
    (tmp_path / "a.jsonl").write_text('{"text": "The cat", "id": 3}\n{}\n')
    values = check_lines(genkit("classify", "-m", "run", "--input", "a.jsonl"), "classify", code=7)
    assert [("error" in value) for value in values] == [False, True]


def test_fill(genkit: Run, tiny_text: Path, tmp_path: Path) -> None:
    check_run(genkit("fill", "-m", str(tiny_text), "The [MASK]", "--json"), "fill")
    (tmp_path / "a.jsonl").write_text('{"text": "The [MASK]", "id": "x"}\n{"text": "The"}\n')
    values = check_lines(genkit("fill", "-m", str(tiny_text), "--input", "a.jsonl"), "fill", code=7)
    assert [("error" in value) for value in values] == [False, True]


def check_metrics(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        check(json.loads(line), "train-metrics-line")


FAILURES = {
    "text": [["--top-p", "7", "x"], ["-m", "nowhere", "x"], ["-m", "kittens", "x"], ["x", "--output", "none/x"],
             ["--device", "cuda:99", "x"], ["--bogus"], ["--input", "none.jsonl"]],
    "fill": [["x"], ["-m", "kittens", "[MASK]"], ["a [MASK] b"], ["[MASK]", "-k", "0"], ["--input", "none.txt"]],
    "classify": [["x"], ["-m", "story", "x"], ["-m", "nowhere", "x"], ["-m", "story", ""], ["--input", "a.csv"]],
    "train-classifier": [["--out", "run"], ["--data", "none"], ["--data", "x", "--epochs", "0"]],
    "image": [["--n", "0"], ["-m", "story"], ["--out", "x.bmp"], ["--out", "-"], ["--device", "tpu"]],
    "train-text": [["--out", "run"], ["--data", "none"], ["--data", "x", "--steps", "0"], ["--data", "."]],
    "train-gan": [["--out", "run"], ["--data", "none"], ["--data", "x", "--size", "33"]],
    "eval": [[], ["story"], ["story", "--data", "none"], ["nowhere", "--data", "."], ["kittens", "--data", "."],
             ["story", "--data", ".", "--stride", "0"], ["story", "--data", ".", "--block-size", "300"]],
    "audit": [[], ["story"], ["story", "--prompts", "none.jsonl"], ["story", "--prompts", "x", "--label", "y"]],
    "score": [[], ["--candidates", "none.txt"], ["--candidates", "-", "--metric", "blue"]],
    "info": [[], ["nowhere"], ["x.png"], ["x.jsonl"], ["x.gguf"], ["https://example.com"]],
    "models": [["x"], ["--bogus"]],
    "compress": [[], ["story"], ["story", "--prune", "2"], ["kittens", "--quantize", "int8"], ["--resume"]],
    "export": [["story"], ["story", "--to", "onnx", "--out", "x"], ["nowhere", "--to", "hf", "--out", "x"]],
    "chat": [["-m", "nowhere"], ["-m", "kittens"], ["--top-p", "7"]],
    "explain": [["nowhere", "x"], ["story", ""], ["story", "x", "--layer", "1"], ["kittens", "--columns", "4"]],
    "doctor": [["x"], ["--color", "blue"]],
    "completion": [[], ["tcsh"]],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_errors(genkit: Run, command: str) -> None:
    for args in FAILURES[command]:
        done = genkit(command, *args, "--json")
        assert done.out == b"", args
        value = json.loads(done.err.splitlines()[-1])
        check(value, "error")
        assert value["error"]["exit_code"] == done.code > 0


def test_the_kinds_of_errors_are_all_named() -> None:
    kinds = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, GenkitError)}
    fact = SCHEMAS["error"]["properties"]["error"]["properties"]
    assert {kind.__name__ for kind in kinds} == set(fact["code"]["enum"])
    assert {kind.exit_code for kind in kinds} == set(fact["exit_code"]["enum"])
    batch = SCHEMAS["text-batch-line"]["oneOf"][1]["properties"]["error"]["properties"]
    assert batch["code"] == fact["code"]


def test_the_schemas_refuse_what_is_wrong() -> None:
    good = {"shell": "fish", "script": "x"}
    check(good, "completion")
    for bad in ({}, good | {"more": 1}, good | {"shell": "tcsh"}, good | {"script": None}):
        with pytest.raises(jsonschema.ValidationError):
            check(bad, "completion")
    line = {"model": "m", "prompt": "", "index": 0, "seed": 0, "text": "", "finish": "eos", "tokens": 1}
    check(line, "text-line")
    for bad in (line | {"finish": None}, line | {"seed": -1}, line | {"logprobs": None}, line | {"bogus": 1}):
        with pytest.raises(jsonschema.ValidationError):
            check(bad, "text-line")
