"""Seeds in, images out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from genkit import library
from genkit.files import read_json
from genkit.image.modelconfig import read_model_config
from genkit.pipeline.base import Pipeline, guard

if TYPE_CHECKING:
    from genkit.image.engines import ImageEngine, ImageEvent, ImageRequest


class ImagePipeline(Pipeline):
    """Seeds in, images out.

    Attributes:
        size, channels: of every image.
        nz: length of the latent vector.
    """

    task = "image"

    def _open(self) -> None:
        shape = read_model_config(read_json(self.path / library.CONFIG))
        self.size, self.channels, self.nz = shape.size, shape.channels, shape.nz
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

    def draw(self, seeds: Iterable[int], *, truncation: float | None = None) -> Iterator[ImageEvent]:
        """One image a seed, in order; the same seed draws the same image whatever its neighbours.

        Args:
            truncation: see `genkit.image.noise.latents`.

        Yields:
            events with `pixels`, uint8 (H, W, C).

        Raises:
            UsageError: a truncation out of range.
            ResourceError: the memory does not suffice.
        """
        from genkit.image.engines import ImageRequest
        from genkit.image.noise import latents

        return self._draw(ImageRequest(seed, latents(seed, self.nz, truncation)) for seed in seeds)

    def walk(
        self, seeds: Sequence[int], frames: int, *, loop: bool = True, truncation: float | None = None
    ) -> Iterator[ImageEvent]:
        """The frames of a walk from seed to seed; see `genkit.image.walk.walk`. Each event has the last seed passed."""
        from genkit.image.engines import ImageRequest
        from genkit.image.noise import seeded_latents
        from genkit.image.walk import walk

        stops = seeded_latents(seeds, self.nz, truncation)  # (K, nz)
        return self._draw(ImageRequest(seeds[stop], z) for stop, z in walk(stops, frames, loop=loop))

    def _draw(self, requests: Iterable[ImageRequest]) -> Iterator[ImageEvent]:
        with guard(self.placement.engine, "lower --n, or use --device cpu"):
            yield from self.engine.generate(requests)
