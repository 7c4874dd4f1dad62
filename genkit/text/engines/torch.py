"""The torch engine: the reference, and the one for accelerators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from genkit.errors import InputError
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig
from genkit.text.constraints.badwords import BadWords
from genkit.text.engines import Bias
from genkit.text.engines.decoder import Decoder, exact_widths, for_decoding
from genkit.text.engines.rows import RowEngine
from genkit.text.models.gpt import GPT
from genkit.text.sampling import Rules


class TorchTextEngine(RowEngine):
    """Our GPT: each row has the bits that it would have alone.

    In fp32 the weights are the model's own, in less they are a copy.

    Args:
        pieces: gives the bytes that each token stands for, by id, None for special tokens;
            asked when a request has bad words.
    """

    def __init__(
        self, model: GPT, runtime: Runtime, pieces: Callable[[], Sequence[bytes | None]] | None = None
    ) -> None:
        super().__init__(runtime, model.config.block_size, model.config.vocab_size)
        self._model, self._pieces = for_decoding(model.to(runtime.device), runtime), pieces
        self._idle: dict[tuple[int, ...], Decoder] = {}

    def close(self) -> None:
        """Let go of the memory of rows."""
        self._idle.clear()

    def _make_rules(self, config: GenerationConfig, bias: Bias) -> Rules:
        words = None
        if config.bad_word:
            if self._pieces is None:
                raise InputError("--bad-word needs a tokenizer", "leave it out")
            words = BadWords(config.bad_word, self._pieces())
        return Rules(config, bias, words.forbidden if words else None, self._model.config.eos_id)

    @functools.cached_property
    def _widths(self) -> list[int]:
        return exact_widths(self._model, self._runtime)

    @property
    def _most_rows(self) -> int:
        return self._widths[-1]

    def _row_decoder(self) -> AbstractContextManager[Decoder]:
        return self._decoder(self._widths)

    def _beam_decoder(self, width: int) -> AbstractContextManager[Decoder]:
        return self._decoder([width])

    @contextmanager
    def _decoder(self, widths: Sequence[int]) -> Iterator[Decoder]:
        """A decoder of one's own: an idle one, with what it has captured, or a new one."""
        key = tuple(widths)
        decoder = self._idle.pop(key, None) or Decoder(self._model, self._runtime, widths)
        try:
            yield decoder
        finally:
            self._idle[key] = decoder
