"""A model as a file, or a folder, for other programs: one function a format.

gguf   text, one file for llama.cpp and what is built on it
hf     text, a folder for transformers, vLLM and the hub
onnx   image, one file for any ONNX runtime

A LoRA adapter is merged with its base on the way.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genkit import library
from genkit.errors import InputError, OutputError, UsageError
from genkit.files import atomic_write, output_errors, read_json, sync_folder, temporary_name, write_bytes, write_json

CARD = "README.md"
MARK = "<!-- written by genkit export -->"
# what transformers and vLLM look for beside config.json and the weights
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", library.RECORD,
)  # fmt: skip
_OF_STORAGE = ("torch_dtype", "quantization_config")  # what an export decides anew
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Format:
    """What a format can hold.

    Attributes:
        makes: the kind of model.
        precisions: those that it can be written in, the default first.
    """

    makes: str
    precisions: tuple[str, ...]


FORMATS = {
    "gguf": Format("text", ("fp32", "fp16", "int8", "int4")),
    "onnx": Format("image", ("fp32",)),
    "hf": Format("text", ("fp32", "fp16", "bf16")),
}


def export(
    folder: Path,
    path: Path,
    form: str,
    precision: str | None = None,
    *,
    base: str | None = None,
    clobber: bool = True,
) -> None:
    """Write the model in `folder` to `path`; it appears whole or not at all.

    A file that is there is replaced; a folder only if it is an earlier export.

    Args:
        folder: of a model, or of a LoRA adapter, which is merged with its base.
        form: a key of FORMATS.
        precision: one of the format's; default: `usual_precision`.
        base: names the adapter's base instead of the adapter.
        clobber: False refuses to replace anything.

    Raises:
        UsageError: the format does not hold such a model, or not in this precision.
        InputError: the model is damaged, or cannot be said in this format.
        OutputError: `path` cannot be written or replaced.
    """
    if not library.is_adapter(folder):
        if base is not None:
            raise UsageError(f"--base goes with a LoRA adapter, and {folder} is a model", "leave it out")
        precision = _checked(folder, form, precision)
        _WRITERS[form](folder, path, precision, clobber)
        return
    from genkit.text.adapters import find_base

    under = find_base(folder, base)
    precision = _checked(under, form, precision)
    with _merged(folder, under, path) as whole:
        _WRITERS[form](whole, path, precision, clobber)


def usual_precision(folder: Path, form: str) -> str:
    """What a model is written in where nobody says: the format's first, or a quantised model's own."""
    possible = FORMATS[form].precisions
    stored = None if library.is_adapter(folder) else library.quantization(folder)
    return stored.precision if stored and stored.precision in possible else possible[0]


def _checked(folder: Path, form: str, precision: str | None) -> str:
    """The precision to write this model in, if the format can hold it."""
    made = library.kind(folder)
    if FORMATS[form].makes != made:
        fits = " or ".join(name for name, other in FORMATS.items() if other.makes == made)
        raise UsageError(f"{form} does not hold {made} models", f"use --to {fits}")
    if made == "text" and not library.is_adapter(folder) and (family := library.family(folder)) != "gpt":
        raise InputError(
            f"{folder} is a {family} model: genkit export does not write those",
            "it is in the format of transformers already",
        )
    possible = FORMATS[form].precisions
    precision = precision or usual_precision(folder, form)
    if precision not in possible:
        raise UsageError(f"{form} is not written in {precision}", f"use --precision {' or '.join(possible)}")
    if folder.is_file():
        raise InputError(f"{folder} is a GGUF file already", "export the model directory that it was made of")
    return precision


@contextmanager
def _merged(adapter: Path, base: Path, path: Path) -> Iterator[Path]:
    """A folder beside `path`, for a while, with the model that an adapter makes of its base."""
    from genkit.text.adapters import merge

    whole = Path(os.path.realpath(path)).with_name(temporary_name())
    tokenizer = adapter if (adapter / library.TOKENIZER).is_file() else base
    sources = {library.CONFIG: base, library.GENERATION: base, library.RECORD: adapter}
    try:
        with output_errors(path):
            whole.mkdir()
        merge(adapter, base, whole / library.WEIGHTS)
        for name in (library.CONFIG, *COMPANIONS):
            if (source := sources.get(name, tokenizer) / name).is_file():
                write_bytes(whole / name, source.read_bytes())
        yield whole
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _gguf(folder: Path, path: Path, precision: str, clobber: bool) -> None:
    from genkit.text.gguf.convert import write_gguf

    _write_file(path, clobber, lambda temporary: write_gguf(folder, temporary, precision))


def _onnx(folder: Path, path: Path, precision: str, clobber: bool) -> None:
    from genkit.image.graph import write

    _write_file(path, clobber, lambda temporary: write(folder, temporary, self_contained=True))


def _write_file(path: Path, clobber: bool, make: Callable[[Path], None]) -> None:
    with output_errors(path):
        streamed = path.parts[:2] == ("/", "dev")  # also where the shell has put a file behind /dev/stdout
        if streamed or (path.exists() and not stat.S_ISREG(path.stat().st_mode)):
            raise OutputError(f"{path} is not a file", "give the name of a new file")
    with atomic_write(path, clobber=clobber) as file:
        make(Path(file.name))


def _hf(folder: Path, path: Path, precision: str, clobber: bool) -> None:
    from genkit.text.recast import recast

    target = Path(os.path.realpath(path))
    _check_replaceable(path, target, clobber)
    temporary = target.with_name(temporary_name())
    try:
        with output_errors(path):
            temporary.mkdir()
        recast(folder, temporary / library.WEIGHTS, precision)
        config = {k: v for k, v in read_json(folder / library.CONFIG).items() if k not in _OF_STORAGE}
        write_json(temporary / library.CONFIG, config | {"dtype": _DTYPES[precision]})
        for name in COMPANIONS:
            if (folder / name).is_file():
                write_bytes(temporary / name, (folder / name).read_bytes())
        write_bytes(temporary / CARD, card(folder, target.name, precision).encode())
        with output_errors(path):
            _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _check_replaceable(path: Path, target: Path, clobber: bool) -> None:
    """Only what an export wrote may go: a folder may hold anything."""
    if not os.path.lexists(target):
        return
    if not clobber:
        raise OutputError(f"{path} exists", "choose another name, or drop --no-clobber")
    if not target.is_dir():
        raise OutputError(f"{path} is a file", "hf is a folder; choose another name")
    held = set(os.listdir(target))
    ours = held <= {*COMPANIONS, CARD, library.CONFIG, library.WEIGHTS}
    if held and not (ours and CARD in held and MARK in (target / CARD).read_text(errors="replace")):
        raise OutputError(f"{path} holds other files", "choose another folder")


def _swap(temporary: Path, target: Path) -> None:
    old = target.with_name(temporary_name())
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        if old.exists():
            os.rename(old, target)
        raise
    sync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)


_WRITERS = {"gguf": _gguf, "onnx": _onnx, "hf": _hf}


def card(folder: Path, name: str, precision: str) -> str:
    """The model card: what the model is, what it was trained on, and who must be credited."""
    config = read_json(folder / library.CONFIG)
    record = read_json(folder / library.RECORD) if (folder / library.RECORD).is_file() else {}
    data, metrics = _object(record, "data"), _object(record, "metrics")
    earlier = list(_earlier(record))
    tokens = sum(_tokens(each) for each in (record, *earlier))
    context = config.get("max_position_embeddings", config.get("n_positions"))
    facts = {
        "Architecture": config.get("model_type"),
        "Parameters": f"{library.parameters(folder) or 0:,}",
        "Context": context and f"{context} tokens",
        "Stored as": _DTYPES[precision],
        "Fine-tuned from": _object(record, "base").get("model"),
        "Trained with": record and f"genkit {record.get('genkit_version')}",
        "Trained on": data.get("name"),
        "Licence of the data": data.get("license"),
        "Credit": data.get("credit"),
        "Licence of earlier data": _said(earlier, "license"),
        "Credit for earlier data": _said(earlier, "credit"),
        "Tokens seen": tokens and f"{tokens:,}",
        **{f"`{key}`": f"{value:.4g}" for key, value in metrics.items() if isinstance(value, int | float)},
    }
    rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in facts.items() if value)
    return _CARD.format(mark=MARK, name=_cell(name), rows=rows)


def _earlier(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the record says of the models that this one began as, the latest first."""
    while record := _object(record, "trained_before"):
        yield record


def _said(records: list[dict[str, Any]], key: str) -> str:
    """What they say of their data, each thing once."""
    found = (_object(record, "data").get(key) for record in records)
    return "; ".join(dict.fromkeys(text for text in found if isinstance(text, str) and text))


def _tokens(record: dict[str, Any]) -> int:
    tokens = _object(record, "trained").get("tokens")
    return tokens if isinstance(tokens, int) else 0


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
license: other
tags:
- genkit
---
{mark}
# {name}

| | |
| --- | --- |
{rows}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True)[0]))
```
"""
