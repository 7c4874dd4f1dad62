"""Prompt in, text out, by models of `transformers`: causal ones that are not ours, and encoder-decoders."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genkit import library
from genkit.errors import UsageError
from genkit.files import read_json
from genkit.pipeline.base import Note
from genkit.pipeline.text import PARALLEL, TextPipeline
from genkit.text.config import GenerationConfig
from genkit.text.engines import Bias, TokenRequest, lacks, listed

_BITS = {"int8": 8, "int4": 4}


class HubPipeline(TextPipeline):
    """A model that `transformers` runs, on the torch engine.

    Of an encoder-decoder (T5, BART, Marian) the prompt is the encoder's input, and what its
    decoder writes is the text. Such a model takes the likeliest tokens, unless it recommends
    otherwise: what it answers is meant to be the answer, not one of many.
    """

    task = "hub"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        engine: str = "auto",
        note: Note | None = None,
    ) -> None:
        if engine in ("native", "llamacpp"):
            raise UsageError(f"--engine {engine} does not run this architecture", "use --engine torch")
        self._bits = _BITS.get(precision)
        self._seq2seq = library.family(path) == "seq2seq"
        self.continues = not self._seq2seq
        super().__init__(path, device=device, precision="auto" if self._bits else precision, engine=engine, note=note)

    def _open(self) -> None:
        from genkit.runtime.manager import Runtime, memory_guard
        from genkit.text.engines.hub import HubTextEngine
        from genkit.text.hubtokenizer import load_hub_tokenizer
        from genkit.text.models.hub import context_of, load_hub, quantize

        runtime = Runtime(self.placement)
        if self._bits:
            precision = f"int{self._bits}"
            place = self._place
            self.placement = dataclasses.replace(self.placement, precision=precision)
            self._place = lambda name: dataclasses.replace(place(name), precision=precision)
        self._undo.enter_context(runtime.settings())
        tokenizer = self.tokenizer = load_hub_tokenizer(self.path)
        with memory_guard("use --device cpu, or a smaller model"):
            model = load_hub(self.path, "seq2seq" if self._seq2seq else "causal", dtype=runtime.dtype)
            model.to(runtime.device)
            if self._bits:
                quantize(model, 8 if self._bits == 8 else 4)
        self._context = context_of(model, tokenizer)
        size = int(model.get_output_embeddings().weight.shape[0])
        engine = HubTextEngine(model, runtime, self._context, lambda: tokenizer.pieces(size))
        self._undo.callback(engine.close)
        self._engines, self._rooms = {"torch": engine}, {"torch": math.inf}

    @property
    def context(self) -> int:
        return self._context

    def _recommended(self) -> tuple[Path, dict[str, Any]]:
        path, held = super()._recommended()
        if not path.exists():  # before there was such a file, config.json said it
            path = self.path / library.CONFIG
            held = read_json(path)
        usual: dict[str, Any] = {"temperature": 0.0} if self._seq2seq and not held.get("do_sample") else {}
        if self._seq2seq:  # the decoder's first token counts there
            lengths = {"max_new_tokens": "max_length", "min_new_tokens": "min_length"}
            usual |= {ours: held[theirs] - 1 for ours, theirs in lengths.items() if (held.get(theirs) or 0) > 1}
        found = {**held, **usual, **{name: held[name] for name in ("max_new_tokens",) if held.get(name)}}
        if found.get("early_stopping") == "never":
            found["early_stopping"] = False
        return path, found

    def _encode(self, prompt: str) -> list[int] | str:
        from genkit.text.hubtokenizer import HubTokenizer

        assert isinstance(self.tokenizer, HubTokenizer)
        ids = self.tokenizer.prompt(prompt, specials=self._seq2seq)
        if not self._seq2seq and len(ids) > 1 and ids[-1] == self.tokenizer.eos_id:
            ids = ids[:-1]  # a text that goes on has not ended
        return self._checked(ids or [self.tokenizer.bos_id])

    def _before(self, request: TokenRequest) -> Sequence[int]:
        return () if self._seq2seq else super()._before(request)

    def _engine(self, name: str, parallel: int) -> Any:
        engine = super()._engine(name, parallel)
        engine.rows = min(parallel, PARALLEL)
        return engine

    def _engine_for(self, config: GenerationConfig, bias: Bias) -> str:
        if missing := lacks("torch", config, bias):
            raise UsageError(f"{listed(missing)} runs on llama.cpp alone, this architecture on torch", "leave it out")
        return "torch"
