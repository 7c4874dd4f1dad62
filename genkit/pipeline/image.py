"""Seeds in, images out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from genkit import library
from genkit.files import read_json
from genkit.image.config import DCGANConfig
from genkit.pipeline.base import Pipeline, guard

if TYPE_CHECKING:
    from genkit.image.engines import ImageEngine, ImageEvent


class ImagePipeline(Pipeline):
    """Seeds in, images out.

    Attributes:
        size, channels: of every image.
    """

    task = "image"

    def _open(self) -> None:
        shape = DCGANConfig.from_dict(read_json(self.path / library.CONFIG))
        self.size, self.channels = shape.size, shape.channels
        self.engine: ImageEngine = self._open_torch() if self.placement.engine == "torch" else self._open_onnx()

    def _open_onnx(self) -> ImageEngine:
        from genkit.image.engines.onnx import OnnxImageEngine

        return OnnxImageEngine(self.path)

    def _open_torch(self) -> ImageEngine:
        from genkit.image.engines.torch import TorchImageEngine
        from genkit.image.models.store import load_generator
        from genkit.runtime.manager import Runtime, memory_guard

        runtime = Runtime(self.placement)
        self._undo.enter_context(runtime.settings())
        with memory_guard("use --device cpu, or a smaller model"):
            return TorchImageEngine(load_generator(self.path), runtime)

    def draw(self, seeds: Iterable[int]) -> Iterator[ImageEvent]:
        """One image a seed, in order; the same seed draws the same image whatever its neighbours.

        Yields:
            events with `pixels`, uint8 (H, W, C).

        Raises:
            ResourceError: the memory does not suffice.
        """
        from genkit.image.engines import ImageRequest

        with guard(self.placement.engine, "lower --n, or use --device cpu"):
            yield from self.engine.generate(ImageRequest(seed) for seed in seeds)
