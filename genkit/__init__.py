"""Text from transformers and images from GANs: train them, sample them, ship them.

The public names are imported when they are first used, so that `import genkit`
costs nothing:

    load            a model by name or path -> TextPipeline | ImagePipeline
    train_text      train a GPT on text files
    train_gan       train a GAN on a folder of images
    GenkitError     base of every error that genkit raises on purpose
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genkit.errors import GenkitError
    from genkit.image.train import train_gan
    from genkit.pipeline import ImagePipeline, TextPipeline, load
    from genkit.text.classify.train import train_classifier
    from genkit.text.train import train_text

__version__ = "0.1.0"

__all__ = [
    "GenkitError", "ImagePipeline", "TextPipeline", "__version__", "load", "train_classifier", "train_gan",
    "train_text",
]  # fmt: skip

_HOME = {
    "GenkitError": "genkit.errors",
    "ImagePipeline": "genkit.pipeline",
    "TextPipeline": "genkit.pipeline",
    "load": "genkit.pipeline",
    "train_classifier": "genkit.text.classify.train",
    "train_gan": "genkit.image.train",
    "train_text": "genkit.text.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
