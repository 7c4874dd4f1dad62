"""Which model a name means. Stdlib only: `--help`, `models` and `info` need no torch."""

from __future__ import annotations

import math
import os
import re
import shlex
from pathlib import Path
from typing import Any, Literal

from genkit.config import suggest
from genkit.errors import InputError
from genkit.files import check_safetensors, read_json
from genkit.text.config import ARCHITECTURES, GPTConfig, VariantError
from genkit.text.quantized import Quantization, read_quantization

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # together a model
INDEX = "model.safetensors.index.json"  # which tensor lies in which file, where the weights are in several
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER, MAX_TOKENIZER = "tokenizer.json", 128 << 20  # bytes; the largest published are near 35 MB
GGUF = ".gguf"  # the suffix of a file that is a text model by itself
ADAPTER = "adapter_config.json"  # what a LoRA adapter has instead of a model's files
RECORD = "genkit.json"  # where it comes from
GENERATION = "generation_config.json"  # the sampling settings that a text model recommends
RUN_MARK = ".genkit-run"  # in the folder of a training run from its first moment
DEFAULT_TEXT, DEFAULT_IMAGE = "story", "kittens"

# inside a wheel, and beside the package in a checkout
_SHELVES = (Path(__file__).parent / "weights", Path(__file__).parents[1] / "weights")
_HUB_NAME = re.compile(r"hf:(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
# never code, never pickles; vocabularies of sentencepiece are protocol buffers
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.spm"]
_HUB_LEFT = ["*/*"]  # the same weights in other formats or precisions

Family = Literal["gpt", "causal", "seq2seq", "masked", "classifier"]
_HEADS: dict[str, Family] = {  # how the names of architectures end
    "ForSequenceClassification": "classifier",
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "MarianMTModel": "seq2seq",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
}
_MASKED = ("bert", "roberta", "distilbert", "albert", "camembert", "xlm-roberta", "electra", "deberta-v2", "modernbert")


def bundled() -> dict[str, Path]:
    """Name -> folder of the models that come with genkit."""
    return {
        folder.name: folder
        for shelf in reversed(_SHELVES)
        if shelf.is_dir()
        for folder in sorted(shelf.iterdir())
        if (folder / CONFIG).is_file()
    }


def known() -> dict[str, Path]:
    """Name -> folder of every model that can be named here without the network.

    The bundled ones, the runs in `runs/`, and those of the hub that lie in its local cache.
    """
    runs = {str(path.parent): path.parent for path in sorted(Path("runs").glob(f"*/{CONFIG}"))}
    return bundled() | runs | _cached()


def find(name: str) -> Path:
    """The folder that holds a model, or its `.gguf` file; `name` as for `find_any`.

    Raises:
        InputError: nothing there, nothing that can be a model, or only an adapter of one.
    """
    path = find_any(name)
    if is_adapter(path):
        raise InputError(
            f"{name} is a LoRA adapter, not a whole model",
            f"merge it with its base: genkit export {shlex.quote(name)} --to hf --out MODEL",
        )
    return path


def find_any(name: str) -> Path:
    """The folder that holds a model or a LoRA adapter, or a `.gguf` file.

    Args:
        name: a bundled name, a model or run directory, a `.safetensors` file in
            one, a `.gguf` file, or `hf:org/name[@revision]`, the only one that
            uses the network.

    Raises:
        InputError: nothing there, or nothing that can be a model.
    """
    if name.startswith("hf:"):
        return _from_hub(name)
    if "://" in name:
        raise InputError(f"{name}: a model is not named by a URL", "download it, or write hf:org/name")
    path = Path(name)
    shelf = bundled()
    if name in shelf and not (path / CONFIG).is_file():  # a folder of drawn kittens hides no model
        return shelf[name]
    if not os.path.exists(name):  # unlike Path.exists, also of what is too long to be a path
        raise InputError(f"no model {name!r:.80}", suggest(name, shelf) or "name a model or run directory")
    if path.is_file():
        if path.suffix == GGUF:
            return path
        if path.suffix != ".safetensors":
            raise InputError(
                f"{name}: not a .safetensors or .gguf file", "genkit loads these and model directories only"
            )
        if path.name != WEIGHTS:
            raise InputError(f"{name}: a model's weights are called {WEIGHTS}", "name the model directory")
        path = path.parent
    if not (path / CONFIG).is_file() and not is_adapter(path):
        began = (path / RUN_MARK).is_file()
        raise InputError(
            f"{name}: no {CONFIG}, so this is not a model",
            "its training has not saved yet" if began else "name a model or run directory",
        )
    return path


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a LoRA adapter, as peft writes it, and no model."""
    whole = (path / CONFIG).is_file() and ((path / WEIGHTS).exists() or (path / INDEX).exists())
    return (path / ADAPTER).is_file() and not whole


def kind(path: Path) -> Literal["text", "image"]:
    """What the model in a folder, or a `.gguf` file, makes.

    Raises:
        InputError: `config.json` cannot be read.
    """
    if path.suffix == GGUF and path.is_file():
        return "text"
    if (name := read_json(path / CONFIG).get("model_type")) in ARCHITECTURES:
        return "text"
    from genkit.image.modelconfig import ARCHES

    return "image" if name in ARCHES else "text"


def family(path: Path) -> Family:
    """Which kind of text model is in a folder or a `.gguf` file, by its `config.json`.

    gpt: one that genkit's own code builds. causal: any other that continues a text.
    seq2seq: an encoder-decoder. masked: one that fills gaps. classifier: one that labels.

    Raises:
        InputError: `config.json` cannot be read.
    """
    if path.suffix == GGUF and path.is_file():
        return "gpt"
    config = read_json(path / CONFIG)
    names = [str(name) for name in config.get("architectures") or ()]
    found = next((head for name in names for end, head in _HEADS.items() if name.endswith(end)), None)
    if found is None:
        pairs = config.get("is_encoder_decoder") or config.get("model_type") in ("t5", "mt5")
        found = "seq2seq" if pairs else "masked" if config.get("model_type") in _MASKED else "causal"
    return "gpt" if found == "causal" and _is_own(path, config) else found


def _is_own(folder: Path, config: dict[str, Any]) -> bool:
    """Whether genkit's own code reads a causal model: its architecture, and its tokenizer's file."""
    if config.get("model_type") not in ARCHITECTURES:
        return False
    try:
        GPTConfig.from_hf(config)
    except VariantError:
        return False
    except InputError:  # it is refused by name where it is loaded
        return True
    others = any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json"))
    return (folder / TOKENIZER).is_file() or not others


def quantization(folder: Path) -> Quantization | None:
    """How the weights of the model in a folder are quantised; None where they are floating point, or a file.

    Raises:
        InputError: `config.json` cannot be read, or says something that genkit does not read.
    """
    return read_quantization(read_json(folder / CONFIG), folder) if folder.is_dir() else None


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the files that the index names.

    Raises:
        InputError: the index names files elsewhere.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
        raise InputError(f"{folder / INDEX}: weight_map must name files of the same folder")
    return [folder / shard for shard in sorted(set(shards.values()))]


def parameters(folder: Path) -> int | None:
    """Numbers in the weights of the model in `folder`, from their headers; None when there are none.

    Raises:
        InputError: a weight file is damaged or missing.
    """
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        return None
    headers = [check_safetensors(path) for path in weight_files(folder)]
    shapes = {key: e["shape"] for header in headers for key, e in header.items() if key != "__metadata__"}
    try:
        packed = quantization(folder)
    except InputError:  # of another kind: its words are counted as they are
        packed = None
    if packed:  # a scale stands for its group
        shapes = {key: shape for key, shape in shapes.items() if not key.endswith(("_packed", "_shape"))}
    sizes: dict[str, int] = {key: math.prod(shape) for key, shape in shapes.items()}
    return sum(n * packed.group if packed and key.endswith("_scale") else n for key, n in sizes.items())


def _cached() -> dict[str, Path]:
    """`hf:org/name` -> folder of the models in the hub's cache; the layout is huggingface_hub's."""
    base = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(base, "hub")).expanduser()
    found = {}
    for main in sorted(cache.glob("models--*/refs/main")):
        repo = main.parents[1]
        try:
            folder = repo / "snapshots" / main.read_text().strip()
        except (OSError, UnicodeDecodeError):
            continue
        if (folder / CONFIG).is_file() and any(folder.glob("*.safetensors")):
            found["hf:" + repo.name.removeprefix("models--").replace("--", "/")] = folder
    return found


def _from_hub(name: str) -> Path:
    match = _HUB_NAME.fullmatch(name)
    if not match:
        raise InputError(f"{name!r} is not a hub name", "write hf:org/name or hf:org/name@revision")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                match["repo"], revision=match["revision"], allow_patterns=_HUB_FILES, ignore_patterns=_HUB_LEFT
            )
        )
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: not in the local cache, and the hub cannot be reached", "check the network"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise InputError(f"{name}: {str(error).splitlines()[0]}", "check the name and the network") from error
