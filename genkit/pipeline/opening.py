"""A text model's engines, opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from genkit.files import read_json
from genkit.library import MAX_TOKENIZER, TOKENIZER
from genkit.text.engines import KEYS_AND_VALUES, capacity

if TYPE_CHECKING:
    from genkit.runtime.device import Placement
    from genkit.text.config import GPTConfig
    from genkit.text.engines import TextEngine
    from genkit.text.tokenizer import Tokenizer


def open_llamacpp(gguf: Path, shape: GPTConfig | None, parallel: int) -> TextEngine:
    """llama.cpp with room for `parallel` rows, or as many as memory has.

    Args:
        shape: None for a foreign file, which says it itself.
    """
    from genkit.text.engines.llamacpp import LlamaCppEngine

    if shape:
        rows, context = capacity(shape, parallel)
        return LlamaCppEngine(gguf, parallel=rows, context=context)
    from genkit.text.gguf.check import check_gguf, fitting_context

    room = fitting_context(gguf, check_gguf(gguf), parallel, KEYS_AND_VALUES)
    return LlamaCppEngine(gguf, parallel=parallel, context=room)


def open_torch(
    folder: Path, shape: GPTConfig, tokenizer: Tokenizer, placement: Placement, undo: ExitStack
) -> TextEngine:
    """The torch engine; torch's settings go back with `undo`."""
    from genkit.runtime.manager import Runtime, memory_guard
    from genkit.text.engines.torch import TorchTextEngine
    from genkit.text.models.store import check_usable, load_model

    def pieces() -> Sequence[bytes | None]:
        """The bytes that each token stands for, which bad words are looked up in."""
        from genkit.text.gguf.vocabulary import token_pieces

        return token_pieces(read_json(folder / TOKENIZER, limit=MAX_TOKENIZER), shape)

    runtime = Runtime(placement)
    undo.enter_context(runtime.settings())
    with memory_guard("use --device cpu, or a smaller model"):
        model = load_model(folder)
        check_usable(folder, model, tokenizer)
        return TorchTextEngine(model, runtime, pieces)
