"""The ONNX Runtime engine: images on a CPU, straight from the safetensors weights."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.errors import ResourceError
from genkit.files import read_json
from genkit.image import graph
from genkit.image.engines import ImageEvent, ImageRequest
from genkit.image.modelconfig import read_model_config
from genkit.library import CONFIG, WEIGHTS
from genkit.runtime.device import cpu_count
from genkit.tensors import TensorFile

_FATAL = 4  # of ONNX Runtime's severities: what matters arrives as an exception


class OnnxImageEngine:
    """Draws with the generator in `folder`, each picture by itself on one thread.

    ONNX Runtime computes the rows of a batch one after the other anyway, so a batch
    would be no faster, and this way a picture is the same, bit for bit, whatever is
    drawn beside it and on however many threads. Its own threads would share one
    picture, and wait for one another in busy loops.

    Args:
        threads: pictures at a time; default: the cores that this process may use.

    Attributes:
        config: the generator's shape.

    Raises:
        InputError: missing, corrupt or unsafe files, or tensors that do not fit the config.
        ResourceError: ONNX Runtime cannot be loaded.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        self.config = read_model_config(read_json(folder / CONFIG))
        weights = TensorFile(folder / WEIGHTS)
        weights.check_fits(graph.shapes(self.config))
        self._tensors = {name: np.array(weights.floats(name)) for name in graph.net(self.config).weights}
        self._runtime = import_onnxruntime()
        self._session = self._open(folder, weights)
        self._threads = threads or cpu_count()

    def generate(self, requests: Iterable[ImageRequest]) -> Iterator[ImageEvent]:
        """Yield one event a request; two pictures a thread are in memory.

        Raises:
            MemoryError: it does not suffice.
        """
        drawn: deque[tuple[ImageRequest, Future[NDArray[np.uint8]]]] = deque()
        waiting, index = iter(requests), 0
        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                for request in islice(waiting, 2 * self._threads - len(drawn)):
                    drawn.append((request, pool.submit(self._draw, request)))
                if not drawn:
                    return
                request, pixels = drawn.popleft()
                yield ImageEvent(index, request.seed, pixels.result(), request.z, request.label)
                index += 1

    def _open(self, folder: Path, weights: TensorFile) -> Any:
        """A session of the graph on disk, or, where that is absent, stale or damaged, of one made now."""
        if stored := graph.stored(folder, self.config, weights):
            try:
                return self._session_of(stored)
            except Exception as error:  # ONNX Runtime's have no common base
                _raise_if_memory(error)
        return self._session_of(graph.graph(self.config, weights))

    def _session_of(self, model: bytes) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        values = [self._runtime.OrtValue.ortvalue_from_numpy(tensor) for tensor in self._tensors.values()]
        options.add_external_initializers(list(self._tensors), values)
        return self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _draw(self, request: ImageRequest) -> NDArray[np.uint8]:
        """A latent (nz,) and its label to pixels (H, W, C)."""
        feed: dict[str, NDArray[Any]] = {"z": request.z[None]}
        if self.config.classes:
            feed["y"] = np.array([request.label], np.int64)
        try:
            image: NDArray[np.float32] = self._session.run(None, feed)[0][0]
        except Exception as error:
            _raise_if_memory(error)
            raise
        return to_pixels(image)


def to_pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image (C, H, W) in [-1, 1] to uint8 (H, W, C), rounded."""
    levels = ((image + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def import_onnxruntime() -> Any:
    """The package `onnxruntime`, kept from the network and from the user's terminal.

    Since 1.29 it reports its use to its maker, and leaves a device id in the cache
    directory, unless the environment forbids it before the first import. And while
    it is imported it looks for GPUs and warns on standard error of those that it
    does not understand, before any log level can be set.

    Raises:
        ResourceError: it is not installed, or not for this machine.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        with _silent_stderr():
            import onnxruntime
    except ImportError as error:
        raise ResourceError(
            f"ONNX Runtime cannot be loaded: {error}", "pip install onnxruntime, or use --engine torch"
        ) from error
    return onnxruntime


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send what C++ code writes to descriptor 2 nowhere."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _raise_if_memory(error: Exception) -> None:
    if "alloc" in str(error).lower():
        raise MemoryError from error
