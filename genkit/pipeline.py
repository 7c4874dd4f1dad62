"""A model ready to use: `load(name)` gives a text or an image pipeline.

    from genkit import load

    for piece in load("story").stream("Once upon a time", seed=7):
        print(piece.text, end="")

While a pipeline is open, torch's number of threads and its TF32 switches are the
pipeline's; `close`, or leaving its `with` block, puts them back. Nothing here
touches the global random generators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from genkit import library
from genkit.errors import InputError, UsageError
from genkit.files import read_json
from genkit.runtime.device import Placement, resolve
from genkit.text.config import GenerationConfig

if TYPE_CHECKING:
    from genkit.image.engines import ImageEvent
    from genkit.runtime.manager import Runtime
    from genkit.text.engines import TextEngine
    from genkit.text.tokenizer import StreamDecoder, Tokenizer


def load(
    name: str | Path, *, device: str = "auto", precision: str = "auto", engine: str = "auto"
) -> TextPipeline | ImagePipeline:
    """Load a model by name, for use as a library.

    Args:
        name: see `genkit.library.find`.
        device, precision, engine: see `genkit.runtime.device.resolve`.

    Raises:
        InputError: no such model, or files that are refused.
        ResourceError: no such device.
    """
    folder = library.find(str(name))
    task = library.kind(folder)
    return open_pipeline(folder, resolve(device, precision, engine, task=task))


def open_pipeline(folder: Path, placement: Placement) -> TextPipeline | ImagePipeline:
    """Load the model in `folder` onto `placement`."""
    from genkit.runtime.manager import Runtime

    runtime = Runtime(placement)
    if library.kind(folder) == "image":
        return ImagePipeline(folder, runtime)
    return TextPipeline(folder, runtime)


@dataclass(frozen=True)
class TextEvent:
    """A piece of a continuation.

    Attributes:
        index: which continuation it belongs to.
        text: new text; may be empty when a token ends inside a character.
        finish: None while it goes on, else "stop" (a stop string), "eos" or "length".
        tokens: how many the continuation has so far.
    """

    index: int
    text: str
    finish: str | None
    tokens: int


class _Pipeline:
    """What both kinds share: a model that is open until `close`; a context manager.

    Attributes:
        folder: the model's.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        from genkit.runtime.manager import memory_guard

        self.folder = folder
        with ExitStack() as undo:  # undone at once when the model does not load
            undo.enter_context(runtime.settings())
            with memory_guard("use --device cpu, or a smaller model"):
                self._open(runtime)
            self._undo = undo.pop_all()

    def _open(self, runtime: Runtime) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Put torch's settings back; once is enough."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextPipeline(_Pipeline):
    """Prompt in, text out."""

    def _open(self, runtime: Runtime) -> None:
        from genkit.text.engines.torch import TorchTextEngine
        from genkit.text.models.store import check_usable, load_model
        from genkit.text.tokenizer import Tokenizer

        self.tokenizer: Tokenizer = Tokenizer.load(self.folder)
        model = load_model(self.folder)
        check_usable(self.folder, model, self.tokenizer)
        self.block_size = model.config.block_size
        self.engine: TextEngine = TorchTextEngine(model.to(runtime.device).eval(), runtime)

    def defaults(self) -> dict[str, Any]:
        """The sampling settings that the model itself recommends, by the names of `GenerationConfig`.

        They are those of its `generation_config.json`; null and names that mean
        nothing here are left out.

        Raises:
            InputError: a value of another type, or out of range.
        """
        from genkit.text.models.store import GENERATION

        path = self.folder / GENERATION
        held = read_json(path) if path.exists() else {}
        known = {k: v for k, v in held.items() if k in GenerationConfig.__dataclass_fields__ and v is not None}
        try:
            config = GenerationConfig.from_dict(known)
        except (UsageError, OverflowError) as error:
            raise InputError(f"{path}: {error}") from error
        return {name: getattr(config, name) for name in known}

    def stream(self, prompt: str, config: GenerationConfig | None = None, *, seed: int = 0) -> Iterator[TextEvent]:
        """Continue `prompt` `config.n` times, the i-th from seed + i.

        The pieces of several continuations come interleaved. An empty prompt
        starts a new text.

        Raises:
            InputError: the prompt does not fit the context.
            ResourceError: the memory does not suffice.
        """
        from genkit.runtime.manager import memory_guard
        from genkit.text.engines import TokenRequest

        config = config or GenerationConfig(**self.defaults())
        ids = self.tokenizer.encode(prompt) or [self.tokenizer.eos_id]
        if len(ids) >= self.block_size:
            raise InputError(
                f"the prompt has {len(ids)} tokens and the model's context {self.block_size}",
                f"shorten it to {self.block_size - 1} tokens or fewer",
            )
        requests = [TokenRequest(ids, config, seed=seed + i) for i in range(config.n)]
        writers = [_Writer(self.tokenizer.stream_decoder(), config.stop) for _ in requests]
        with memory_guard("lower -n or --max-new-tokens, or use --device cpu"):
            for event in self.engine.generate(requests):
                request, writer = requests[event.index], writers[event.index]
                if request.finished:
                    continue
                text, finish = writer.push(event.token, event.done)
                request.finished = finish is not None
                yield TextEvent(event.index, text, finish, writer.tokens)

    def complete(self, prompt: str, config: GenerationConfig | None = None, *, seed: int = 0) -> list[str]:
        """The continuations of `prompt`, whole."""
        config = config or GenerationConfig(**self.defaults())
        texts = [""] * config.n
        for event in self.stream(prompt, config, seed=seed):
            texts[event.index] += event.text
        return texts


class _Writer:
    """Tokens to text, holding back what may become a stop string."""

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str]) -> None:
        self._decoder, self._stop, self._held, self.tokens = decoder, stop, "", 0

    def push(self, token: int, done: str | None) -> tuple[str, str | None]:
        self.tokens += 1
        self._held += "" if done == "eos" else self._decoder.push(token)
        if done is not None:
            self._held += self._decoder.flush()
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            return self._held[: min(found)], "stop"
        keep = 0 if done else max((_overlap(self._held, s) for s in self._stop), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, done


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class ImagePipeline(_Pipeline):
    """Seeds in, images out."""

    def _open(self, runtime: Runtime) -> None:
        from genkit.image.engines.torch import TorchImageEngine
        from genkit.image.models.store import load_generator

        generator = load_generator(self.folder)
        self.size, self.channels = generator.config.size, generator.config.channels
        self.engine = TorchImageEngine(generator.to(runtime.device).eval(), runtime)

    def draw(self, seeds: Iterable[int]) -> Iterator[ImageEvent]:
        """One image a seed, in order; the same seed draws the same image whatever its neighbours.

        Yields:
            events with `pixels`, uint8 (H, W, C).

        Raises:
            ResourceError: the memory does not suffice.
        """
        from genkit.image.engines import ImageRequest
        from genkit.runtime.manager import memory_guard

        with memory_guard("lower --n, or use --device cpu"):
            yield from self.engine.generate(ImageRequest(seed) for seed in seeds)
