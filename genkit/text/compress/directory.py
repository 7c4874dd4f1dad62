"""The model directory that compression leaves where it trains nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genkit import __version__, library
from genkit.errors import InputError, OutputError, UsageError
from genkit.files import output_errors, read_json, sync_folder, temporary_name, write_bytes, write_json
from genkit.text.config import GPTConfig
from genkit.text.start import origin

COMPRESSED = "compressed"  # in genkit.json: how
# what a model directory has beside its shape, its weights and its record
COMPANIONS = (
    library.GENERATION, library.TOKENIZER, library.TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip


def check_source(name: str, folder: Path) -> GPTConfig:
    """The shape of a model that can be compressed.

    Raises:
        InputError: a GGUF file, an image model, one that is quantised already, or an architecture that genkit
            does not build.
    """
    if folder.is_file():
        raise InputError(f"{name}: a GGUF file is not compressed", "name the model directory that it was made of")
    if library.kind(folder) != "text":
        raise InputError(f"{name} is an image model", "genkit compress takes text models")
    if stored := library.quantization(folder):
        raise InputError(f"{name} is quantised to {stored.precision} already", "name the model that it was made of")
    if (family := library.family(folder)) != "gpt":
        others = "; genkit text runs others in 8 bits with --precision int8"
        raise InputError(
            f"{name} is a model of another kind ({family}) than those that genkit compress takes",
            "it takes GPT-2, Llama and Qwen3" + (others if family in ("causal", "seq2seq") else ""),
        )
    return GPTConfig.from_hf(read_json(folder / library.CONFIG))


def record_of(name: str, folder: Path, method: Mapping[str, Any]) -> dict[str, Any]:
    """`genkit.json` of what was made of the model `name`, without training."""
    return {"genkit_version": __version__, "kind": "text", COMPRESSED: dict(method)} | origin(name, folder)


@contextmanager
def new_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, that becomes `path` when it is whole.

    Args:
        force: replace what an earlier compression left there.

    Raises:
        UsageError: something else is there, or `force` is missing.
        OutputError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    check_target(path, force=force)
    temporary = target.with_name(temporary_name())
    try:
        with output_errors(path):
            temporary.mkdir(parents=True)
        yield temporary
        check_target(path, force=force)  # again, as something may have come there meanwhile
        with output_errors(path):
            if target.exists():
                shutil.rmtree(target)
            os.rename(temporary, target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(path: Path, *, force: bool) -> None:
    """Raise unless a model can be written to `path`, as `new_directory` says."""
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise OutputError(f"{path} is a file", "a model is a folder; choose another --out")
    if not (held := set(os.listdir(path))):
        return
    files = {*COMPANIONS, library.CONFIG, library.WEIGHTS, library.RECORD}
    if not held <= files or library.RECORD not in held or COMPRESSED not in read_json(path / library.RECORD):
        raise UsageError(f"{path} holds other files", "choose another --out")
    if not force:
        raise UsageError(f"{path} already holds a compressed model", "--force replaces it")


def write_companions(source: Path, folder: Path) -> None:
    """Copy the tokenizer and what else a model directory has beside shape, weights and record."""
    for name in COMPANIONS:
        if (source / name).is_file():
            write_bytes(folder / name, (source / name).read_bytes())


def write_shape(folder: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """`config.json` and `genkit.json`."""
    write_json(folder / library.CONFIG, config)
    write_json(folder / library.RECORD, record)
