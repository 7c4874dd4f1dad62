"""llama.cpp's server object: started without a trace, and what requests mean in its words."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, InputError, ResourceError, UsageError
from genkit.runtime.device import cpu_count, idle_cpus
from genkit.text.config import GenerationConfig
from genkit.text.engines import TokenRequest, check_length, too_long

_SMALL = 64 << 20  # bytes of weights
_ROWS = 8  # that one server gains from having at once
_SEEDS = (1 << 32) - 1  # llama.cpp draws a seed of its own for the last number of 32 bits
_SOCKET_PATH = 103  # bytes that every system takes
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"]


def is_small(gguf: Path) -> bool:
    """Whether a token takes so little that waiting for others takes longer."""
    return gguf.stat().st_size < _SMALL


def layout(gguf: Path, parallel: int) -> tuple[int, int]:
    """How many servers to run, and the threads of each.

    llama.cpp's threads wait for one another in busy loops, a hundred times a token:
    beside another busy process, two take twenty times as long as one. A small model
    therefore runs on the cores that are idle at its start, and many rows on one server
    a core. OMP_NUM_THREADS stands for the number of cores, and for a wish to use them.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    asked = int(told) if told.isdecimal() else 0
    cores = asked or cpu_count()
    if not is_small(gguf):
        return 1, cores
    servers = max(1, min(cores, parallel // _ROWS))
    return servers, max(1, cores // servers) if asked else idle_cpus() if servers == 1 else 1


def start_server(gguf: Path, *, parallel: int, threads: int, context: int, exact: bool) -> Any:
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
    if exact:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # sums in fp16
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.ui = False
    params.endpoint_metrics = True  # for `stop_server`
    params.n_threads_http = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    with _private_socket(params), _signals_kept():
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise InputError(f"llama.cpp cannot load {gguf}", "use another file") from error


def end_idle_threads() -> None:
    """Let torch's OpenMP threads of this thread go; torch starts new ones when it computes again.

    Both use one runtime. Where it has more threads than the machine has cores, idle ones
    too, it puts them to sleep whenever they wait for one another: llama.cpp then writes
    at a half to a fifth of its speed.
    """
    if "torch" in sys.modules:
        with suppress(OSError, AttributeError):  # no GNU OpenMP
            ctypes.CDLL("libgomp.so.1").omp_pause_resource_all(1)


def stop_server(server: Any) -> None:
    """Wait until the server's loop turns: freed before that, it misses the word to stop and is waited for in vain."""
    server.handle_metrics()


@contextmanager
def _private_socket(params: Any) -> Iterator[None]:
    """Let the HTTP server that llama.cpp insists on listen where nobody can reach it.

    That is a socket in a private folder, removed once it is bound; without such a folder
    a port of this machine, behind a password that nobody is told.
    """
    folder = _private_folder()
    if folder is None:
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [os.urandom(32).hex()]
        yield
        return
    try:
        params.hostnames = [os.path.join(folder, "llama.sock")]
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _private_folder() -> str | None:
    """A new folder whose path is short enough for a socket's."""
    for parent in (None, "/tmp", os.environ.get("XDG_RUNTIME_DIR")):  # noqa: S108 - mkdtemp makes it ours alone
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="genkit-", dir=parent)
            if len(os.fsencode(folder)) < _SOCKET_PATH - len("/llama.sock"):
                return folder
            os.rmdir(folder)
    return None


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


def payload(request: TokenRequest, context: int, start: int | None) -> dict[str, Any]:
    """The request in llama.cpp's words.

    Args:
        start: the token that an empty text begins with.

    Raises:
        InputError: the prompt is empty or leaves no room in the context.
    """
    config, prompt = request.config, request.prompt
    room = config.max_new_tokens - request.drawn
    if prompt == "" and start is None:
        raise InputError("the prompt is empty, and the model has no token that begins a text", "give a prompt")
    if not isinstance(prompt, str):
        check_length(len(prompt), context)
        room = min(room, context - len(prompt))
    body: dict[str, Any] = {
        "prompt": prompt or [start],
        "n_predict": room,
        "stream": request.live or bool(config.stop),
        "verbose": True,  # the only way to see token ids
        "return_tokens": True,
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
    if rule := grammar(config):
        body["grammar"] = rule if isinstance(prompt, str) else _in_bytes(rule)
    if config.logprobs is not None:
        body["n_probs"] = max(1, config.logprobs)
    return body


@functools.lru_cache(8)
def _in_bytes(rule: str) -> str:
    from genkit.text.constraints.bytegrammar import byte_grammar

    return byte_grammar(rule)


def grammar(config: GenerationConfig) -> str | None:
    """The GBNF that the text must follow.

    Raises:
        UsageError: a schema or a pattern that is not valid or cannot be enforced.
    """
    if config.json_schema is not None:
        from genkit.text.constraints.schema import schema_to_gbnf

        return schema_to_gbnf(config.json_schema)
    if config.regex is not None:
        from genkit.text.constraints.pattern import regex_to_gbnf

        return regex_to_gbnf(config.regex)
    if config.grammar is not None and config.grammar.lstrip().startswith("%"):
        raise UsageError("--grammar is not GBNF", 'write rules such as: root ::= "yes" | "no"')
    return config.grammar


def grammar_problem(server: Any, rule: str) -> str | None:
    """Why llama.cpp does not take a grammar, or None; it says so to file descriptor 2 alone."""
    answers: list[bytes] = []

    def take(chunk: bytes) -> bool:
        answers.append(chunk)
        return False

    body = {"prompt": [0], "n_predict": 1, "stream": False, "cache_prompt": False, "grammar": rule}
    said, pen = os.pipe()
    os.set_blocking(pen, False)  # what does not fit is not waited for
    with open(said, "rb") as reader:
        with open(pen, "wb"), _stderr_to(pen):
            server.handle_completions(json.dumps(body).encode(), take)
        reason = reader.read().decode("utf-8", "replace")
    if "error" not in json.loads(answers[0]):
        return None
    found = re.search(r"error parsing grammar: (.*)", reason)
    return found[1] if found else "llama.cpp cannot parse it"


@contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def refusal(error: dict[str, Any], request: TokenRequest) -> GenkitError:
    """What llama.cpp's error means to a user."""
    if error.get("type") == "exceed_context_size_error":
        return too_long(error["n_prompt_tokens"], error["n_ctx"])
    message = str(error.get("message", error))
    if "parse grammar" in message:
        return UsageError(f"the grammar is refused: {message}")
    if "grammar" in message:  # no token is left that it allows
        return InputError("the model's tokens cannot spell what the grammar demands", "allow other characters")
    return InputError(f"llama.cpp refuses the request: {message}")
