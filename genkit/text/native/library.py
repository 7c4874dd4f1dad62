"""What `decode.c` is called with, and the compiled library."""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, c_float, c_int, c_uint64, c_void_p
from typing import Any

from genkit.errors import ResourceError
from genkit.runtime.device import native_library

MOST = 64  # items of a step
TOP = 100  # likeliest tokens that are told
GROUP = 32  # numbers of a row that share a scale
NOT_DRAWN, NONE_LEFT, NOT_FINITE = -1, -2, -3  # in place of a token


class Settings(ctypes.Structure):
    """How a row's tokens are drawn."""

    _fields_ = (
        ("seed", c_uint64),
        ("bias_ids", POINTER(c_int)),
        ("end_ids", POINTER(c_int)),
        ("bias_values", POINTER(c_float)),
        *((name, c_float) for name in ("temperature", "top_p", "min_p", "typical_p")),
        *((name, c_float) for name in ("repetition", "frequency", "presence")),
        *((name, c_int) for name in ("top_k", "min_new", "logprobs", "biases", "ends")),
    )


class Drawn(ctypes.Structure):
    """A token, and what the model itself thought of it."""

    _fields_ = (("token", c_int), ("logprob", c_float), ("top_ids", c_int * TOP), ("top", c_float * TOP))


class Shape(ctypes.Structure):
    """The model's sizes."""

    _fields_ = (
        *((name, c_int) for name in ("arch", "vocab", "context", "layers", "heads", "kv_heads")),
        *((name, c_int) for name in ("width", "head_dim", "inner")),
        ("eps", c_float),
        ("theta", c_float),
    )


@functools.cache
def library() -> Any:
    """The compiled decoder.

    Raises:
        ResourceError: it is not built, or for another processor.
    """
    try:
        found = ctypes.CDLL(str(native_library()))
    except OSError as error:
        raise ResourceError(f"the native decoder cannot be loaded: {error}", "use --engine llamacpp") from error
    if not found.gk_runs_here():
        raise ResourceError("the native decoder needs a processor with AVX2 and FMA", "use --engine llamacpp")
    items = POINTER(c_int)
    found.gk_open.argtypes = [POINTER(Shape), POINTER(c_void_p), c_int, c_int, c_int, c_int]
    found.gk_open.restype = c_void_p
    found.gk_close.argtypes = [c_void_p]
    found.gk_begin.argtypes = [c_void_p, c_int, POINTER(Settings), items, c_int, c_int]
    found.gk_step.argtypes = [c_void_p, c_int, items, items, items, items, POINTER(Drawn)]
    found.gk_run.argtypes = [c_void_p, c_int, items, items, items, c_int, items, items]
    found.gk_round.argtypes = [c_void_p, c_void_p, c_void_p, c_int, c_int]
    found.gk_transpose.argtypes = [c_void_p, c_void_p, c_int, c_int]
    return found
