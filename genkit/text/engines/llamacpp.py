"""The llama.cpp engine: text on a CPU, from a GGUF file.

llama.cpp's server runs inside this process, one or several of them; its continuous
batching puts the rows in flight into one forward pass. A thread a row waits for tokens
and hands them over: one by one, or all at the end, which costs less.
"""

from __future__ import annotations

import atexit
import json
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, InputError, ResourceError, UsageError
from genkit.text.engines import TokenEvent, TokenRequest
from genkit.text.engines.llamaserver import (
    end_idle_threads,
    grammar_problem,
    is_small,
    layout,
    payload,
    refusal,
    start_server,
    stop_server,
)
from genkit.text.gguf.check import read_fields

_LEAST = -104.0  # the logarithm of less than the smallest fp32; llama.cpp takes it after rounding to 0


class LlamaCppEngine:
    """Decodes up to `parallel` rows at once.

    A row's tokens depend on the rows beside it as far as llama.cpp's kernels do: with
    `parallel=1` not at all.

    Args:
        gguf: a file from `gguf_view`, or any other that `check_gguf` has passed.
        parallel: rows at once.
        threads: of the forward pass; default: see `llamaserver.layout`.
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
        trained = fields.get(".context_length")
        if not isinstance(trained, int) or trained < 2:
            raise InputError(f"{gguf} does not say how long its model's context is", "use another file")
        self.context: int = min(trained, context) if context else trained
        self.eos_id: int | None = fields.get("tokenizer.ggml.eos_token_id")
        self.parallel = parallel
        exact = fields.get("general.file_type") == 0  # all in fp32: keys and values too
        servers, share = (1, threads) if threads else layout(gguf, parallel)
        self._cancels = not is_small(gguf)  # a row that is not streamed cannot be cancelled
        rows = -(-parallel // servers)
        self._servers = [
            start_server(gguf, parallel=rows, threads=share, context=self.context, exact=exact) for _ in range(servers)
        ]
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
        for server in self._servers:
            stop_server(server)
        self._servers.clear()
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
        end_idle_threads()
        try:
            while True:
                while len(rows) < self.parallel and (entry := next(pending, None)):
                    index, request = entry
                    if request.finished:
                        continue
                    request.live |= self._cancels
                    try:
                        self._check_grammar(request.config.grammar)
                        body = json.dumps(payload(request, self.context, self.eos_id)).encode()
                        row = _Row(index, request, body, self._idlest(), chunks, self._pieces)
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
            if problem := grammar_problem(self._servers[0], rule):
                raise UsageError(f"--grammar is not valid GBNF: {problem}", "its first rule is called root")
            self._grammars.add(rule)

    def piece(self, token: int) -> str:
        """The text of a token that an event named, for a model that tokenizes itself."""
        return self._pieces.get(token, "")

    def _idlest(self) -> Any:
        """The server with the fewest rows."""
        if not self._servers:
            raise ResourceError("the engine is closed")
        return min(self._servers, key=lambda server: sum(row.server is server for row in self._rows))


class _Row:
    """A request on its way through llama.cpp."""

    def __init__(
        self,
        index: int,
        request: TokenRequest,
        body: bytes,
        server: Any,
        chunks: queue.SimpleQueue[tuple[_Row, bytes | None]],
        pieces: dict[int, str],
    ) -> None:
        self.index, self.request, self.server, self.pieces = index, request, server, pieces
        self._cancelled = False
        self._held: TokenEvent | None = None  # only the chunk after a token tells whether it was the last

        def take(chunk: bytes) -> bool:
            chunks.put((self, chunk))
            return self._cancelled

        def run() -> None:
            try:
                server.handle_completions(body, take)
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
        if detail["stop"] and detail["tokens"]:  # all of them in one chunk
            yield from self._whole(data, detail)
            return
        if detail["stop"]:
            last = self._held or TokenEvent(self.index, -1, None, text="")
            self._held = None
            yield replace(last, done=_done(detail))
            return
        if self._held is not None:
            yield self._held
        self._held = self._event(data, detail, 0, detail["content"])

    def _whole(self, data: dict[str, Any], detail: dict[str, Any]) -> Iterator[TokenEvent]:
        """The events of a row that was not streamed; all its text comes with the last one."""
        tokens = detail["tokens"]
        for i in range(len(tokens)):
            last = i == len(tokens) - 1
            yield self._event(data, detail, i, detail["content"] if last else "", _done(detail) if last else None)

    def _event(
        self, data: dict[str, Any], detail: dict[str, Any], i: int, content: str, done: str | None = None
    ) -> TokenEvent:
        """The event of the chunk's i-th token."""
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if (k := self.request.config.logprobs) is not None:
            entry = data["choices"][0]["logprobs"]["content"][i]
            if entry["logprob"] is None:  # JSON has no NaN
                raise InputError("the model's logits are not finite", "its weights are damaged; use another model")
            logprob = max(entry["logprob"], _LEAST)
            top = tuple((t["id"], max(t["logprob"], _LEAST)) for t in entry["top_logprobs"][:k])
            self.pieces.update((t["id"], t["token"]) for t in (entry, *entry["top_logprobs"]))
        text = content if isinstance(self.request.prompt, str) else None
        return TokenEvent(self.index, detail["tokens"][i], done, logprob, top, text)


def _done(detail: dict[str, Any]) -> str:
    return "eos" if detail["stop_type"] == "eos" else "length"
