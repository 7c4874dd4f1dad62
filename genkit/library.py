"""Which model a name means. Stdlib only: `--help`, `models` and `info` need no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from genkit.config import suggest
from genkit.errors import InputError
from genkit.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # together a model
RECORD = "genkit.json"  # where it comes from
RUN_MARK = ".genkit-run"  # in the folder of a training run from its first moment
DEFAULT_TEXT, DEFAULT_IMAGE = "story", "kittens"

# inside a wheel, and beside the package in a checkout
_SHELVES = (Path(__file__).parent / "weights", Path(__file__).parents[1] / "weights")
_HUB_NAME = re.compile(r"hf:(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt"]  # never code, never pickles


def bundled() -> dict[str, Path]:
    """Name -> folder of the models that come with genkit."""
    return {
        folder.name: folder
        for shelf in reversed(_SHELVES)
        if shelf.is_dir()
        for folder in sorted(shelf.iterdir())
        if (folder / CONFIG).is_file()
    }


def find(name: str) -> Path:
    """The folder that holds a model.

    Args:
        name: a bundled name, a model or run directory, a `.safetensors` file in
            one, or `hf:org/name[@revision]`, the only one that uses the network.

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
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InputError(f"{name}: not a .safetensors file", "genkit loads safetensors and model directories only")
        if path.name != WEIGHTS:
            raise InputError(f"{name}: a model's weights are called {WEIGHTS}", "name the model directory")
        path = path.parent
    if not path.exists():
        raise InputError(f"no model {name!r}", suggest(name, shelf) or "name a model or run directory")
    if not (path / CONFIG).is_file():
        began = (path / RUN_MARK).is_file()
        raise InputError(
            f"{name}: no {CONFIG}, so this is not a model",
            "its training has not saved yet" if began else "name a model or run directory",
        )
    return path


def kind(folder: Path) -> Literal["text", "image"]:
    """What the model in `folder` makes.

    Raises:
        InputError: `config.json` cannot be read.
    """
    return "image" if read_json(folder / CONFIG).get("model_type") == "dcgan" else "text"


def _from_hub(name: str) -> Path:
    match = _HUB_NAME.fullmatch(name)
    if not match:
        raise InputError(f"{name!r} is not a hub name", "write hf:org/name or hf:org/name@revision")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(match["repo"], revision=match["revision"], allow_patterns=_HUB_FILES))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: not in the local cache, and the hub cannot be reached", "check the network"
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise InputError(f"{name}: {str(error).splitlines()[0]}", "check the name and the network") from error
