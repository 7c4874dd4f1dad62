"""A model ready to use: `load(name)` gives a text or an image pipeline.

from genkit import load

for piece in load("story").stream("Once upon a time", seed=7):
    print(piece.text, end="")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit import library
from genkit.errors import InputError
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


class TextPipeline:
    """Prompt in, text out."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        from genkit.text.engines.torch import TorchTextEngine
        from genkit.text.models.store import load_model
        from genkit.text.tokenizer import Tokenizer

        self.folder = folder
        self.tokenizer: Tokenizer = Tokenizer.load(folder)
        model = load_model(folder)
        if self.tokenizer.vocab_size > model.config.vocab_size:
            raise InputError(
                f"{folder}: the tokenizer has {self.tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
            )
        self.block_size = model.config.block_size
        self.engine: TextEngine = TorchTextEngine(model.to(runtime.device).eval(), runtime)

    def defaults(self) -> dict[str, Any]:
        """The sampling settings that the model itself recommends, by the names of `GenerationConfig`."""
        path = self.folder / "generation_config.json"
        known = GenerationConfig.__dataclass_fields__
        return {k: v for k, v in read_json(path).items() if k in known} if path.exists() else {}

    def stream(self, prompt: str, config: GenerationConfig | None = None, *, seed: int = 0) -> Iterator[TextEvent]:
        """Continue `prompt` `config.n` times, the i-th from seed + i.

        The pieces of several continuations come interleaved. An empty prompt
        starts a new text.

        Raises:
            InputError: the prompt does not fit the context.
        """
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


class ImagePipeline:
    """Seeds in, images out."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        from genkit.image.engines.torch import TorchImageEngine
        from genkit.image.models.store import load_generator

        self.folder = folder
        generator = load_generator(folder)
        self.size, self.channels = generator.config.size, generator.config.channels
        self.engine = TorchImageEngine(generator.to(runtime.device).eval(), runtime)

    def draw(self, seeds: Iterable[int]) -> Iterator[ImageEvent]:
        """One image a seed, in order; the same seed draws the same image whatever its neighbours.

        Yields:
            events with `pixels`, uint8 (H, W, C).
        """
        from genkit.image.engines import ImageRequest

        return iter(self.engine.generate([ImageRequest(seed) for seed in seeds]))
