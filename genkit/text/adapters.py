"""LoRA adapters on disk, as peft writes and reads them, and their merge with a base. Without torch."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit import library
from genkit.cache import content_hash
from genkit.errors import InputError
from genkit.files import atomic_write, read_json
from genkit.tensors import TensorFile, layout

ADAPTER_CONFIG, ADAPTER_WEIGHTS = library.ADAPTER, "adapter_model.safetensors"
_PREFIX = "base_model.model."
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")  # gpt2's layers, stored as (in, out)
# what changes the function in ways that a merge of A, B and magnitudes does not say
_UNSUPPORTED = (
    "layer_replication", "trainable_token_indices", "target_parameters", "alora_invocation_tokens", "lora_bias",
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
# these start from a changed base
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def adapter_config(
    *, base: str, revision: str | None, rank: int, alpha: float, dropout: float, targets: list[str], conv1d: bool
) -> dict[str, Any]:
    """The contents of `adapter_config.json`: what every release of peft since 0.6 knows.

    Args:
        base: a folder, or a name on the hub.
        targets: names of the adapted layers, or the ends of such names.
        conv1d: whether they are stored as (in, out).
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": dropout,
        "target_modules": targets,
        "fan_in_fan_out": conv1d,
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
    }


def model_hash(folder: Path) -> str:
    """SHA-256 of a model's shape and weights."""
    parts = [content_hash(path) for path in (folder / library.CONFIG, *library.weight_files(folder))]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def base_name(name: str) -> tuple[str, str | None]:
    """What `adapter_config.json` calls the model `name`: a hub or bundled name, or a path; and its revision."""
    if name.startswith("hf:"):
        repo, _, revision = name.removeprefix("hf:").partition("@")
        return repo, revision or None
    path = library.find(name)
    return (name if path == library.bundled().get(name) else str(path.resolve())), None


def find_base(folder: Path, given: str | None = None) -> Path:
    """The model that the adapter in `folder` belongs to.

    Args:
        given: names it instead of the adapter's own `base_model_name_or_path`, which
            is a folder, a bundled model or a name on the hub.

    Raises:
        InputError: there is none, it is not the one that the adapter was trained on,
            or it is no model of transformers' kind.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    name = given or config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{folder}: {ADAPTER_CONFIG} names no base model", "name it with --base MODEL")
    if given is None and not Path(name).exists() and name not in library.bundled():
        revision = config.get("revision")
        name = f"hf:{name}" + (f"@{revision}" if revision else "")
    try:
        base = library.find(name)
    except InputError as error:
        raise InputError(f"the base of {folder} is not found: {error.message}", "name it with --base MODEL") from error
    if base.is_file():
        raise InputError(f"{base} is a GGUF file", "name the model directory that it was made of with --base")
    if library.quantization(base):
        raise InputError(f"{base} is quantised", "name the model that it was made of with --base")
    record = read_json(folder / library.RECORD) if (folder / library.RECORD).is_file() else {}
    trained_on = record.get("base")
    known = trained_on.get("sha256") if isinstance(trained_on, dict) else None
    if given is None and known is not None and known != model_hash(base):
        raise InputError(
            f"{base} has changed since {folder} was trained on it", "bring it back, or name another with --base MODEL"
        )
    return base


def merge(folder: Path, base: Path, path: Path) -> None:
    """Write the weights of `base` with the adapter in `folder` merged into them to `path`, in fp32.

    LoRA, with the scale of rsLoRA (Kalajdzievski 2023) and the magnitudes of DoRA (Liu et al. 2024)
    where the adapter has them, and layers and biases that were trained whole.

    Raises:
        InputError: another kind of adapter, or one that does not fit the base.
        OutputError: `path` cannot be written.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    _check_config(folder, config)
    file = TensorFile(folder / ADAPTER_WEIGHTS)
    sources = {name: found for found in map(TensorFile, library.weight_files(base)) for name in found.tensors}
    gpt2 = read_json(base / library.CONFIG).get("model_type") == "gpt2"
    parts = _parts(file, sources, gpt2)
    head, names = layout({n: ("F32", s.tensors[n]["shape"]) for n, s in sources.items()}, {"format": "pt"})
    with atomic_write(path) as out:
        out.write(head)
        for name in names:
            values = sources[name].floats(name)
            if name in parts:
                values = _merged(values, name, {k: file.floats(v) for k, v in parts[name].items()}, config, gpt2)
            out.write(np.ascontiguousarray(values, np.float32).tobytes())


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(f"{folder} is an adapter of the kind {kind}", "genkit merges LORA")
    if used := [name for name in _UNSUPPORTED if config.get(name)]:
        raise InputError(f"{folder}: {used[0]} is a variant of LoRA that genkit does not merge", "merge it with peft")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGED_BASE):
        raise InputError(f"{folder} began with {start}, which changes the base", "convert it to plain LoRA with peft")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise InputError(f"{folder / ADAPTER_CONFIG}: alpha_pattern is {patterns!r}, not an object")
    for alpha in (config.get("lora_alpha"), *patterns.values()):
        if not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise InputError(f"{folder / ADAPTER_CONFIG}: lora_alpha is {alpha!r}, not a number")


def _parts(file: TensorFile, sources: Mapping[str, TensorFile], gpt2: bool) -> dict[str, dict[str, str]]:
    """The base's tensor -> what the adapter has for it: "A" and "B", perhaps "m", or "whole" -> its name there."""
    parts: dict[str, dict[str, str]] = {}
    for name in file.tensors:
        plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".default.", ".")
        plain = plain.replace(".modules_to_save.", ".")
        kind = "whole"
        if match := re.fullmatch(r"(.+)\.(?:lora_([AB])|lora_(m)agnitude_vector)(?:\.weight)?", plain):
            plain, kind = f"{match[1]}.weight", match[2] or match[3]
        target = next((n for n in (plain, plain.removeprefix("transformer.")) if n in sources), None)
        if target is None:
            raise InputError(
                f"{file.path}: the base has no {plain} for {name}",
                "name another base with --base MODEL" if kind != "whole" else "merge it with peft",
            )
        parts.setdefault(target, {})[kind] = name
    tied = "lm_head.weight" not in sources
    for target, found in parts.items():
        if tied and "whole" in found and target.endswith((".embed_tokens.weight", "wte.weight")):
            raise InputError(f"{file.path}: an embedding of its own unties the head of the base", "merge it with peft")
        _check_shapes(target, found, file, sources[target].tensors[target]["shape"], gpt2)
    return parts


def _check_shapes(target: str, found: Mapping[str, str], file: TensorFile, base: list[int], gpt2: bool) -> None:
    if found.keys() not in ({"whole"}, {"A", "B"}, {"A", "B", "m"}):
        raise InputError(f"{file.path}: {target} has only {', '.join(found.values())}")
    shapes = {kind: file.tensors[name]["shape"] for kind, name in found.items()}
    rows, columns = reversed(base) if _transposed(target, gpt2) and len(base) == 2 else (base[0], base[-1])
    if "whole" in shapes:
        fits = shapes["whole"] == base
    else:
        rank = shapes["A"][0] if len(shapes["A"]) == 2 else 0
        fits = (
            rank > 0
            and len(base) == 2
            and shapes["A"] == [rank, columns]
            and shapes["B"] == [rows, rank]
            and math.prod(shapes.get("m", [rows])) == rows
        )
    if not fits:
        text = ", ".join(f"{found[kind]} {shape}" for kind, shape in shapes.items())
        raise InputError(
            f"{file.path} does not fit the base: {target} is {base}, and here {text}",
            "name another base with --base MODEL",
        )


def _merged(
    weight: NDArray[np.float32],
    name: str,
    parts: Mapping[str, NDArray[np.float32]],
    config: Mapping[str, Any],
    gpt2: bool,
) -> NDArray[np.float32]:
    if "whole" in parts:
        return parts["whole"]
    transposed = _transposed(name, gpt2)
    rows = weight.T if transposed else weight  # (out, in)
    total: NDArray[np.float32] = rows + (parts["B"] @ parts["A"]) * np.float32(
        _scale(name, len(parts["A"]), config, gpt2)
    )
    if "m" in parts:
        total *= parts["m"].reshape(-1, 1) / np.linalg.norm(total, axis=1, keepdims=True)
    return total.T if transposed else total


def _scale(name: str, rank: int, config: Mapping[str, Any], gpt2: bool) -> float:
    module = name.removesuffix(".weight")
    if gpt2 and not module.startswith(("transformer.", "lm_head")):
        module = f"transformer.{module}"
    alpha, patterns = config["lora_alpha"], config.get("alpha_pattern") or {}
    try:
        alpha = next((own for pattern, own in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), alpha)
    except re.error as error:
        raise InputError(f"{ADAPTER_CONFIG}: alpha_pattern is no regular expression: {error}") from error
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _transposed(name: str, gpt2: bool) -> bool:
    return gpt2 and name.removesuffix(".weight").rpartition(".")[2] in _CONV1D
