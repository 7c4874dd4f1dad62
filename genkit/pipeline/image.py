"""Seeds in, images out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from genkit import library
from genkit.errors import UsageError
from genkit.files import read_json
from genkit.image.modelconfig import read_model_config
from genkit.pipeline.base import Pipeline, guard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genkit.image.engines import ImageEngine, ImageEvent, ImageRequest
    from genkit.image.project import Projection


class ImagePipeline(Pipeline):
    """Seeds in, images out.

    Attributes:
        size, channels: of every image.
        nz: length of the latent vector.
        classes: names of what can be asked for, by label; empty when there is no choice.
    """

    task = "image"

    def _open(self) -> None:
        self.config = shape = read_model_config(read_json(self.path / library.CONFIG))
        self.size, self.channels, self.nz, self.classes = shape.size, shape.channels, shape.nz, shape.classes
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

    def draw(
        self, seeds: Iterable[int], *, labels: Iterable[str | int] | None = None, truncation: float | None = None
    ) -> Iterator[ImageEvent]:
        """One image a seed, in order; the same seed draws the same image whatever its neighbours.

        Args:
            labels: a class for each seed, by name or number; default: seed modulo the
                number of classes, so that seeds in a row show all of them.
            truncation: see `genkit.image.noise.latents`.

        Yields:
            events with `pixels`, uint8 (H, W, C).

        Raises:
            UsageError: a truncation out of range, an unknown class, or labels for a model without classes.
            ResourceError: the memory does not suffice.
        """
        if labels is None:
            return self.render(self.request(seed, truncation=truncation) for seed in seeds)
        pairs = zip(seeds, labels, strict=True)
        return self.render(self.request(seed, label, truncation=truncation) for seed, label in pairs)

    def request(self, seed: int, label: str | int | None = None, *, truncation: float | None = None) -> ImageRequest:
        """What `draw` makes of a seed and a class: the latent and the label."""
        from genkit.image.engines import ImageRequest
        from genkit.image.labels import by_seed, label_of
        from genkit.image.noise import latents

        drawn = by_seed(seed, self.classes) if label is None else label_of(label, self.classes)
        return ImageRequest(seed, latents(seed, self.nz, truncation), drawn)

    def walk(
        self,
        stops: Sequence[int | ImageRequest],
        frames: int,
        *,
        loop: bool = True,
        label: str | int | None = None,
        truncation: float | None = None,
    ) -> Iterator[ImageEvent]:
        """The frames of a walk from stop to stop; see `genkit.image.walk.walk`. Each event has the last seed passed.

        Args:
            stops: seeds or latents, two or more.
            label: the class of all frames; default: that of the first stop.
        """
        import numpy as np

        from genkit.image.engines import ImageRequest
        from genkit.image.walk import walk

        passed = [self.request(stop, label, truncation=truncation) if isinstance(stop, int) else stop for stop in stops]
        drawn = passed[0].label if label is None else self.request(0, label).label
        ways = walk(np.stack([stop.z for stop in passed]), frames, loop=loop)
        return self.render(ImageRequest(passed[stop].seed, z, drawn) for stop, z in ways)

    def render(self, requests: Iterable[ImageRequest]) -> Iterator[ImageEvent]:
        """The images of latents, in order; a request without a label takes the first class."""
        with guard(self.placement.engine, "lower --n, or use --device cpu"):
            yield from self.engine.generate(map(self._labelled, requests))

    def project(
        self,
        target: NDArray[np.uint8],
        *,
        steps: int = 300,
        seed: int = 0,
        label: str | int | None = None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> Projection:
        """The latent that draws an image best; see `genkit.image.project.project`.

        What an EfficientNet-Lite0 sees counts too where the extra `metrics` is installed.

        Args:
            target: uint8 (size, size, channels).
            label: the class, by name or number; default: all are tried.

        Raises:
            UsageError: the engine is not torch, or an unknown class.
            ResourceError: the memory does not suffice.
        """
        from genkit.image.labels import label_of

        if self.placement.engine != "torch":
            raise UsageError(
                f"the engine {self.placement.engine} has no gradients", 'load the model with engine="torch"'
            )
        from genkit.image.engines.torch import TorchImageEngine
        from genkit.image.features import available
        from genkit.image.project import features, project

        engine = cast("TorchImageEngine", self.engine)
        wanted = None if label is None else label_of(label, self.classes)
        with guard("torch", "use --device cpu"):
            return project(
                engine.model,
                target,
                steps=steps,
                runtime=engine.runtime,
                seed=seed,
                label=wanted,
                seen=features(engine.runtime) if available() else None,
                on_step=on_step,
            )

    def _labelled(self, request: ImageRequest) -> ImageRequest:
        from genkit.image.labels import label_of

        if request.label is not None:
            return replace(request, label=label_of(request.label, self.classes))
        return replace(request, label=0) if self.classes else request
