"""llama.cpp's server object: started without a trace, and what requests mean in its words."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, InputError, ResourceError, UsageError
from genkit.text.engines import TokenRequest

_SEEDS = (1 << 32) - 1  # llama.cpp draws a seed of its own for the last number of 32 bits
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]


def start_server(gguf: Path, *, parallel: int, threads: int | None, context: int) -> Any:
    """An `xllamacpp.Server` with the model loaded; errors as `LlamaCppEngine`."""
    try:
        import xllamacpp
    except ImportError as error:
        raise ResourceError(
            f"llama.cpp cannot be loaded: {error}", "pip install xllamacpp, or use --engine torch"
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_parallel = parallel
    params.n_ctx = parallel * context
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.verbosity = -1
    params.cache_ram_mib = 0
    params.ui = False
    params.n_threads_http = 1
    threads = threads or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    with _private_socket(params), _signals_kept():
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise InputError(f"llama.cpp cannot load {gguf}", "use another file") from error


@contextmanager
def _private_socket(params: Any) -> Iterator[None]:
    """Let the HTTP server that llama.cpp insists on listen where nobody can reach it."""
    with tempfile.TemporaryDirectory(prefix="genkit-") as folder:
        params.hostnames = [os.path.join(folder, "llama.sock")]
        yield


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo the handlers that the server installs, and keep signals away from its threads."""
    libc = ctypes.CDLL(None)
    numbers = (signal.SIGINT, signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # new threads inherit it
    actions = [ctypes.create_string_buffer(512) for _ in numbers]  # more than any system's struct sigaction
    for number, action in zip(numbers, actions, strict=True):
        libc.sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in zip(numbers, actions, strict=True):
            libc.sigaction(number, action, None)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def payload(request: TokenRequest, context: int) -> dict[str, Any]:
    """The request in llama.cpp's words.

    Raises:
        InputError: the prompt is empty or leaves no room in the context.
    """
    config, prompt = request.config, request.prompt
    room = config.max_new_tokens
    if not isinstance(prompt, str):
        if not prompt:
            raise InputError("the prompt has no tokens", "give at least one, for instance the end-of-text token")
        if len(prompt) >= context:
            raise too_long(len(prompt), context)
        room = min(room, context - len(prompt))
    body: dict[str, Any] = {
        "prompt": prompt,
        "n_predict": room,
        "stream": True,
        "verbose": True,  # the only way to see token ids
        "cache_prompt": False,  # nothing of earlier requests
        "seed": request.seed % _SEEDS,
        "samplers": _SAMPLERS,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "min_p": config.min_p,
        "typical_p": config.typical_p,
        "repeat_penalty": config.repetition_penalty,
        "repeat_last_n": context,
    }
    if request.bias:
        body["logit_bias"] = [[tokens[-1], bias if bias > float("-inf") else False] for tokens, bias in request.bias]
    if config.logprobs is not None:
        body["n_probs"] = max(1, config.logprobs)
    return body


def too_long(tokens: int, context: int) -> InputError:
    return InputError(
        f"the prompt has {tokens:,} tokens, the model's context is {context:,}",
        f"shorten it to {context - 1:,} tokens or fewer",
    )


def refusal(error: dict[str, Any], request: TokenRequest) -> GenkitError:
    """What llama.cpp's error means to a user."""
    if error.get("type") == "exceed_context_size_error":
        return too_long(error["n_prompt_tokens"], error["n_ctx"])
    message = str(error.get("message", error))
    if "grammar" in message:
        return UsageError(message)
    return InputError(f"llama.cpp refuses the request: {message}")
