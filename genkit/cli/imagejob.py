"""What `genkit image` draws: seeds, saved latents or a walk, and the classes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genkit.cli.terminal import random_seed
from genkit.errors import UsageError
from genkit.image.config import ImageSampleConfig
from genkit.image.lists import Rows, check_stops, parse_classes, parse_seeds, parse_stops

if TYPE_CHECKING:
    from genkit.image.engines import ImageEvent, ImageRequest
    from genkit.pipeline import ImagePipeline


@dataclass(frozen=True)
class Job:
    """Images to draw.

    Attributes:
        count: how many images.
        seeds: those that were asked for, None for latents of no seed.
        labels: of each image; None for a walk, and for a model without classes.
        draw: gives the images.
        note: how to draw them again.
    """

    count: int
    seeds: list[int | None]
    labels: list[int] | None
    draw: Callable[[], Iterator[ImageEvent]]
    note: dict[str, str]


def check_request(config: ImageSampleConfig, set_by_user: frozenset[str], seed: int | None, each: bool) -> None:
    """Raise UsageError when flags say different things about what is drawn."""
    counted = seed is not None or "n" in set_by_user
    if config.mix is not None and config.latent is None:
        raise UsageError("--mix says how two latents are mixed, and there are none", "add --latent a.npz,b.npz")
    if "steps" in set_by_user and config.project is None:
        raise UsageError("--steps says how long a projection takes, and there is none", "add --project photo.png")
    if config.interpolate is not None:
        if counted or config.seeds is not None or each or config.latent is not None:
            raise UsageError(
                "--interpolate contradicts --n, --seed, --seeds, --latent and --each",
                "--interpolate alone says what is drawn",
            )
        if config.columns is not None:
            raise UsageError("--columns says how a grid looks, and --interpolate makes an animation", "leave it out")
        return
    if config.latent is not None and (counted or config.seeds is not None):
        raise UsageError("--latent contradicts --n, --seed and --seeds", "--latent alone says which images are drawn")
    if config.seeds is not None and counted:
        raise UsageError("--seeds contradicts --n and --seed", "--seeds alone says which images are drawn")
    if of_walks := sorted(set_by_user & {"frames", "fps", "loop"}):
        raise UsageError(f"--{of_walks[0]} says how a walk goes, and there is none", "add --interpolate 0,5,9")
    if each and config.columns is not None:
        raise UsageError("--columns says how a grid looks, and --each makes none", "leave one of them out")


def first_stop(config: ImageSampleConfig, seed: int | None) -> int | str:
    """What a file is named after: the first seed, a random one if none is named, or the name of a file of latents."""
    if config.seeds is not None:
        return parse_seeds(config.seeds)[0]
    stops = config.interpolate or config.latent
    if stops is not None:
        first = parse_stops(stops, "")[0]
        return Path(first.path).stem if isinstance(first, Rows) else first
    return random_seed() if seed is None else seed


def plan(pipeline: ImagePipeline, config: ImageSampleConfig, *, n: int | None, first: int | str) -> Job:
    """What the flags ask this model for.

    Args:
        n: how many images, if the user said so.
        first: the seed of the first image, where neither seeds nor latents are named.

    Raises:
        UsageError: classes that the model does not have, or numbers that do not agree.
        InputError: a file of latents is refused.
    """
    from genkit.image.labels import label_of

    named = parse_classes(config.classes) if config.classes is not None else []
    asked = [(label_of(name, pipeline.classes), count) for name, count in named]
    if config.interpolate is not None:
        return _walk(pipeline, config, asked)
    note = {"class": config.classes} if config.classes else {}
    if config.truncation:
        note["truncation"] = str(config.truncation)
    if config.latent is not None:
        return _saved(pipeline, config, config.latent, asked, note)
    return _seeded(pipeline, config, asked, note, n=n, first=first)


def _seeded(
    pipeline: ImagePipeline,
    config: ImageSampleConfig,
    asked: Sequence[tuple[int, int | None]],
    note: dict[str, str],
    *,
    n: int | None,
    first: int | str,
) -> Job:
    from genkit.image.labels import shared_out

    total = sum(count or 0 for _, count in asked) or config.n
    start = int(first)
    seeds = parse_seeds(config.seeds) if config.seeds is not None else list(range(start, start + (n or total)))
    note |= {"seeds": config.seeds or seed_list(seeds)}
    labels: list[int] | None = None
    if asked:
        labels = shared_out(asked, len(seeds))
    elif count := len(pipeline.classes):
        note["class"] = f"seed modulo {count}"
        seeds.sort(key=lambda seed: seed % count)  # class by class
        labels = [seed % count for seed in seeds]
    draw = partial(pipeline.draw, seeds, labels=labels, truncation=config.truncation)
    return Job(len(seeds), [*seeds], labels, draw, note)


def _saved(
    pipeline: ImagePipeline,
    config: ImageSampleConfig,
    text: str,
    asked: Sequence[tuple[int, int | None]],
    note: dict[str, str],
) -> Job:
    from genkit.image.labels import shared_out
    from genkit.image.latents import mixed

    parts = [_latents(pipeline, stop, config.truncation) for stop in parse_stops(text, "--latent")]
    requests = [request for part in parts for request in part]
    if config.mix is not None:
        requests = mixed(parts[0], parts[1], config.mix)
        note |= {"mix": str(config.mix)}
    if asked:
        labels = shared_out(asked, len(requests))
        requests = [replace(request, label=label) for request, label in zip(requests, labels, strict=True)]
    drawn = [request.label or 0 for request in requests] if pipeline.classes else None
    seeds = [request.seed for request in requests]
    return Job(len(requests), seeds, drawn, partial(pipeline.render, requests), note | {"latent": text})


def _walk(pipeline: ImagePipeline, config: ImageSampleConfig, asked: Sequence[tuple[int, int | None]]) -> Job:
    if len(asked) > 1 or any(count for _, count in asked):
        raise UsageError(f"--class {config.classes}: a walk keeps to one class", "name one, without a number")
    text = config.interpolate or ""
    found = [_latents(pipeline, stop, config.truncation) for stop in parse_stops(text, "--interpolate")]
    stops = [request for part in found for request in part]
    check_stops(len(stops), config.frames, text)
    label = asked[0][0] if asked else stops[0].label
    note = {"truncation": str(config.truncation)} if config.truncation else {}
    note |= {"interpolate": text, "frames": str(config.frames), "fps": str(config.fps)}
    note["loop"] = "yes" if config.loop else "no"
    if pipeline.classes:
        note["class"] = pipeline.classes[label or 0]
    draw = partial(pipeline.walk, stops, config.frames, loop=config.loop, label=label)
    return Job(config.frames, [stop.seed for stop in stops], None, draw, note)


def _latents(pipeline: ImagePipeline, stop: int | Rows, truncation: float | None) -> list[ImageRequest]:
    from genkit.image.latents import read_latents

    if isinstance(stop, Rows):
        return read_latents(stop, pipeline.config)
    return [pipeline.request(stop, truncation=truncation)]


def seed_list(seeds: Sequence[int]) -> str:
    """`7-22` for a run of seeds; the inverse of `parse_seeds`."""
    return f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
