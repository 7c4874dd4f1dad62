"""The torch engine over models of `transformers`: causal ones and encoder-decoders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from genkit.errors import InputError
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig
from genkit.text.constraints.badwords import BadWords
from genkit.text.engines import Bias
from genkit.text.engines.hubdecoder import BeamDecoder, Reader, RowDecoder
from genkit.text.engines.rows import RowEngine
from genkit.text.sampling import Rules

ROWS = 64  # at once


class HubTextEngine(RowEngine):
    """Decodes with our own sampling and beam search, so that every setting means what it always does.

    What the model's generation config demands is obeyed besides: tokens that must come first
    or last, that may not come at all, and several that end a text.

    Args:
        model: of `transformers`, in evaluation mode on the runtime's device.
        context: tokens that it sees: of a causal model prompt and continuation together,
            of an encoder-decoder either.
        pieces: as for `TorchTextEngine`.

    Attributes:
        rows: how many are under way at once.
    """

    def __init__(
        self, model: Any, runtime: Runtime, context: int, pieces: Callable[[], Sequence[bytes | None]]
    ) -> None:
        demands = model.generation_config
        start = decoder_start(model)
        vocab_size = int(model.get_output_embeddings().weight.shape[0])
        super().__init__(runtime, context, vocab_size)
        self._reader, self._pieces, self._start = Reader(model, runtime, start), pieces, start
        self.rows = ROWS
        self._ends = frozenset(_ids(demands.eos_token_id))
        self._never = [
            tuple(ids) for ids in demands.bad_words_ids or () if tuple(ids) not in {(e,) for e in self._ends}
        ]
        self._never += [(token,) for token in demands.suppress_tokens or ()]
        self._first, self._last = _ids(demands.forced_bos_token_id), _ids(demands.forced_eos_token_id)
        self._not_first = tuple(demands.begin_suppress_tokens or ())
        text = model.config.get_text_config(decoder=True)
        token_bytes = 8 * int(getattr(text, "num_hidden_layers", 1)) * int(getattr(text, "hidden_size", 1))
        self._new_rows = functools.partial(RowDecoder, self._reader, ROWS, vocab_size, token_bytes)

    def close(self) -> None:
        """Nothing is kept between calls."""

    def _begun(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        return prompt if self._start is None else (self._start,)

    @property
    def _most_rows(self) -> int:
        return self.rows

    def _row_decoder(self) -> AbstractContextManager[RowDecoder]:
        return nullcontext(self._new_rows())

    def _beam_decoder(self, width: int) -> AbstractContextManager[BeamDecoder]:
        return nullcontext(BeamDecoder(self._reader, width))

    def _make_rules(self, config: GenerationConfig, bias: Bias) -> Rules:
        words = BadWords(config.bad_word, self._pieces()) if config.bad_word else None

        def forbidden(tokens: Sequence[int]) -> Collection[int]:
            found = {ids[-1] for ids in self._never if tuple(tokens[len(tokens) - len(ids) + 1 :]) == ids[:-1]}
            if self._start is not None and len(tokens) == 1 + bool(self._first):
                found.update(self._not_first)
            return found | words.forbidden(tokens) if words else found

        def forced(place: int) -> Collection[int]:
            if place == config.max_new_tokens - 1 and self._last:
                return self._last
            return self._first if place == 0 and self._start is not None else ()

        return Rules(
            config,
            bias,
            forbidden if words or self._never or self._not_first else None,
            ends=self._ends,
            forced=forced if self._first or self._last else None,
        )


def decoder_start(model: Any) -> int | None:
    """The token with which the decoder of an encoder-decoder begins; None for a causal model.

    Raises:
        InputError: the model names none.
    """
    if not model.config.is_encoder_decoder:
        return None
    for told in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(found := getattr(told, name, None), int):
                return found
    raise InputError("no token begins what the decoder writes", "name a decoder_start_token_id in config.json")


def _ids(value: Any) -> tuple[int, ...]:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (int(value),)
