"""What a model with random weights writes under a schema is valid under it: generation against `jsonschema`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import torch

from genkit.errors import UsageError
from genkit.files import write_json
from genkit.pipeline import TextJob, TextPipeline, load
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.constraints.schema import schema_to_gbnf
from genkit.text.models.gpt import GPT
from genkit.text.models.store import CONFIG, WEIGHTS, model_files
from genkit.text.tokenizer import train_bpe
from genkit.training.weights import save_tensors

TEXT = '{"name": "Ann", "age": 12.5, "tags": [true, null]} \u00e9\u6f22\n'


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextPipeline]:
    folder = tmp_path_factory.mktemp("schema")
    tokenizer = train_bpe([TEXT * 20], 290)
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            arch="qwen3", vocab_size=tokenizer.vocab_size, block_size=512, n_layer=1, n_head=2, n_kv_head=1,
            n_embd=32, head_dim=16, n_inner=64, eos_id=tokenizer.eos_id,
        )
    )  # fmt: skip
    config, _, tensors = model_files(model, {})
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, config)
    tokenizer.save(folder)
    with load(folder, device="cpu") as loaded:
        assert isinstance(loaded, TextPipeline)
        yield loaded


# as pydantic writes them
PERSON = {
    "$defs": {
        "Address": {
            "additionalProperties": False,
            "properties": {
                "street": {"maxLength": 8, "minLength": 2, "title": "Street", "type": "string"},
                "zip": {"pattern": "^\\d{5}$", "title": "Zip", "type": "string"},
            },
            "required": ["street", "zip"],
            "title": "Address",
            "type": "object",
        },
        "Color": {"enum": ["red", "green", '\u00e9"\\'], "title": "Color", "type": "string"},
    },
    "additionalProperties": False,
    "properties": {
        "name": {"maxLength": 6, "title": "Name", "type": "string"},
        "age": {"maximum": 130, "minimum": 0, "title": "Age", "type": "integer"},
        "score": {"exclusiveMaximum": 1, "minimum": 0, "title": "Score", "type": "number"},
        "nick": {"anyOf": [{"maxLength": 4, "type": "string"}, {"type": "null"}], "default": None, "title": "Nick"},
        "color": {"$ref": "#/$defs/Color", "description": "of the hair"},
        "kind": {"const": "person", "title": "Kind", "type": "string"},
        "homes": {
            "items": {"$ref": "#/$defs/Address"},
            "maxItems": 2,
            "minItems": 1,
            "title": "Homes",
            "type": "array",
        },
        "first": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None},
        "pair": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "boolean"}, {"type": "null"}], "type": "array"},
    },
    "required": ["name", "age", "color", "kind", "homes"],
    "title": "Person",
    "type": "object",
}
TREE = {
    "$defs": {"Node": {"properties": {"v": {"enum": [1, 2]},
                                      "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
                       "required": ["v", "next"], "additionalProperties": False}},
    "$ref": "#/$defs/Node",
}  # fmt: skip
SCHEMAS: dict[str, Any] = {
    "person": PERSON,
    "tree": TREE,
    "integer": {"type": "integer", "minimum": -17, "maximum": 4},
    "integer above": {"type": "integer", "exclusiveMinimum": 99.5},
    "integer below": {"type": "integer", "exclusiveMaximum": -3},
    "number": {"type": "number", "minimum": -2, "exclusiveMaximum": 10},
    "positive": {"type": "number", "exclusiveMinimum": 0},
    "both": {"type": ["integer", "null"], "minimum": 3, "exclusiveMinimum": 3, "maximum": 5},
    "dict": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 7, "maximum": 8}},
    "string": {"type": "string", "minLength": 3, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "[b-d]{2}"},
    "dot": {"type": "string", "pattern": "^.{3}[^a-z]$"},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "booleans": {"enum": [True, None, 3, "x", [1], {"a": 2}]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_ends_is_valid(name: str, pipeline: TextPipeline) -> None:
    schema = SCHEMAS[name]
    config = GenerationConfig(
        max_new_tokens=500, temperature=1.0, top_p=1.0, top_k=0, json_schema=json.dumps(schema), n=12
    )
    texts, ended = [""] * config.n, set()
    for event in pipeline.run([TextJob("a", config, 5)]):
        assert event.error is None
        texts[event.index] += event.text
        if event.finish == "eos":
            ended.add(event.index)
    assert ended
    for index in ended:
        assert "\ufffd" not in texts[index]
        jsonschema.validate(json.loads(texts[index]), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "integer", "multipleOf": 5}, "multipleOf"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "range without numbers"),
        ({"type": "number", "exclusiveMinimum": 5, "maximum": 5}, "range without numbers"),
        ({"type": "number", "minimum": 0.5}, "not whole"),
        ({"type": "number", "maximum": 1e12}, "9 digits"),
        ({"type": "integer", "minimum": "3"}, "bound"),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, "bound true"),
        ({"type": "integer", "minimum": 1e300}, "bound"),
        ({"type": "integer", "minimum": float("nan")}, "bound NaN"),
        ({"oneOf": [{"type": "null"}]}, "oneOf"),
    ],
)
def test_what_is_not_enforced_is_refused(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        schema_to_gbnf(json.dumps(schema))
