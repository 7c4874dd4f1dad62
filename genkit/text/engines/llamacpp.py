"""The llama.cpp engine: text on a CPU, from a GGUF file.

llama.cpp's server runs inside this process; its continuous batching puts the rows in
flight into one forward pass. A thread a row waits for tokens and hands them over.
"""

from __future__ import annotations

import atexit
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, InputError, ResourceError, UsageError
from genkit.text.engines import TokenEvent, TokenRequest
from genkit.text.engines.llamaserver import grammar_problem, payload, refusal, start_server, stop_server
from genkit.text.ggufcheck import read_fields

_LEAST = -104.0  # the logarithm of less than the smallest fp32; llama.cpp takes it after rounding to 0


class LlamaCppEngine:
    """Decodes up to `parallel` rows at once.

    A row's tokens depend on the rows beside it as far as llama.cpp's kernels do: with
    `parallel=1` not at all.

    Args:
        gguf: a file from `gguf_view`, or any other that `check_gguf` has passed.
        parallel: rows at once.
        threads: of the forward pass; default: OMP_NUM_THREADS, else 1 for a small model, else the cores.
        context: tokens to hold for a row, at most the model's own.

    Attributes:
        context: how many tokens prompt and continuation may have together.
        eos_id: the token that ends a text.

    Raises:
        InputError: llama.cpp cannot load the file.
        ResourceError: llama.cpp is not installed, or memory is short.
    """

    def __init__(
        self, gguf: Path, *, parallel: int = 1, threads: int | None = None, context: int | None = None
    ) -> None:
        fields = read_fields(gguf, (".context_length", "general.file_type", "tokenizer.ggml.eos_token_id"))
        trained = fields.get(".context_length", 0)
        self.context: int = min(trained, context) if context else trained
        self.eos_id: int | None = fields.get("tokenizer.ggml.eos_token_id")
        self.parallel = parallel
        exact = fields.get("general.file_type") == 0  # all in fp32: keys and values too
        self._server = start_server(gguf, parallel=parallel, threads=threads, context=self.context, exact=exact)
        self._rows: set[_Row] = set()
        self._grammars: set[str] = set()  # those that llama.cpp has taken
        self._pieces: dict[int, str] = {}
        atexit.register(self.close)

    def close(self) -> None:
        """End the rows in flight and free the model; harmless when repeated."""
        for row in list(self._rows):
            row.cancel()
        for row in list(self._rows):
            row.thread.join()
        self._rows.clear()
        if self._server is not None:
            stop_server(self._server)
            self._server = None
        atexit.unregister(self.close)

    def generate(self, requests: Iterable[TokenRequest]) -> Iterator[TokenEvent]:
        """Yield tokens as they are drawn; a row's last event says why it is `done`.

        Requests are taken as rows become free. One that cannot be done yields an event
        with its error: InputError for a prompt that does not fit the context, UsageError
        for a schema, a pattern or a grammar that is not valid.
        """
        chunks: queue.SimpleQueue[tuple[_Row, bytes | None]] = queue.SimpleQueue()
        pending = enumerate(requests)
        rows: set[_Row] = set()
        try:
            while True:
                while len(rows) < self.parallel and (entry := next(pending, None)):
                    index, request = entry
                    if request.finished:
                        continue
                    try:
                        self._check_grammar(request.config.grammar)
                        row = _Row(index, request, self._handler(), self.context, chunks, self._pieces)
                    except GenkitError as error:
                        yield TokenEvent(index, -1, "error", error=error)
                        continue
                    rows.add(row)
                    self._rows.add(row)
                    row.thread.start()
                if not rows:
                    return
                row, chunk = chunks.get()
                for event in row.read(chunk):
                    if not row.request.finished:
                        yield event
                if row.request.finished:
                    row.cancel()
                if chunk is None:
                    row.thread.join()
                    rows.discard(row)
                    self._rows.discard(row)
        finally:
            for row in rows:
                row.cancel()
            for row in rows:
                row.thread.join()
                self._rows.discard(row)

    def _check_grammar(self, rule: str | None) -> None:
        if rule is not None and rule not in self._grammars:
            if problem := grammar_problem(self._server, rule):
                raise UsageError(f"--grammar is not valid GBNF: {problem}", "its first rule is called root")
            self._grammars.add(rule)

    def piece(self, token: int) -> str:
        """The text of a token that an event named, for a model that tokenizes itself."""
        return self._pieces.get(token, "")

    def _handler(self) -> Callable[[bytes, Callable[[bytes], bool]], None]:
        if self._server is None:
            raise ResourceError("the engine is closed")
        return self._server.handle_completions  # type: ignore[no-any-return]


class _Row:
    """A request on its way through llama.cpp."""

    def __init__(
        self,
        index: int,
        request: TokenRequest,
        complete: Callable[[bytes, Callable[[bytes], bool]], None],
        context: int,
        chunks: queue.SimpleQueue[tuple[_Row, bytes | None]],
        pieces: dict[int, str],
    ) -> None:
        self.index, self.request, self.pieces = index, request, pieces
        self._cancelled = False
        self._held: TokenEvent | None = None  # only the chunk after a token tells whether it was the last
        body = json.dumps(payload(request, context)).encode()

        def take(chunk: bytes) -> bool:
            chunks.put((self, chunk))
            return self._cancelled

        def run() -> None:
            try:
                complete(body, take)
            finally:
                chunks.put((self, None))

        # a daemon, so that an abandoned row does not hold up the interpreter's exit; `close` waits for it
        self.thread = threading.Thread(target=run, daemon=True)

    def cancel(self) -> None:
        """Have llama.cpp drop the row at its next token."""
        self._cancelled = True

    def read(self, chunk: bytes | None) -> Iterator[TokenEvent]:
        """The events that `chunk` makes certain; None is the end."""
        if chunk is None:
            if self._held is not None and not self._cancelled:
                yield TokenEvent(self.index, -1, "error", error=InputError("llama.cpp ended without a reason"))
            return
        data: dict[str, Any] = json.loads(chunk)
        if "error" in data:
            self._held = None
            yield TokenEvent(self.index, -1, "error", error=refusal(data["error"], self.request))
            return
        detail = data["__verbose"]
        if detail["stop"]:
            done = "eos" if detail["stop_type"] == "eos" else "length"
            last = self._held or TokenEvent(self.index, -1, None, text="")
            self._held = None
            yield TokenEvent(last.index, last.token, done, last.logprob, last.top, last.text)
            return
        if self._held is not None:
            yield self._held
        self._held = self._event(data, detail)

    def _event(self, data: dict[str, Any], detail: dict[str, Any]) -> TokenEvent:
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if (k := self.request.config.logprobs) is not None:
            entry = data["choices"][0]["logprobs"]["content"][0]
            logprob = max(entry["logprob"], _LEAST)
            top = tuple((t["id"], max(t["logprob"], _LEAST)) for t in entry["top_logprobs"][:k])
            self.pieces.update((t["id"], t["token"]) for t in (entry, *entry["top_logprobs"]))
        text = detail["content"] if isinstance(self.request.prompt, str) else None
        return TokenEvent(self.index, detail["tokens"][0], None, logprob, top, text)
