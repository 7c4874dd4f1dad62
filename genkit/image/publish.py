"""What a run shows of itself: sample sheets on the way, and a model directory that `genkit image` draws from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkit.files import read_json
from genkit.image import graph
from genkit.image.canvas import encode, grid
from genkit.image.config import GANTrainConfig
from genkit.image.engines.torch import draw
from genkit.image.models.dcgan import reestimate_batch_norm
from genkit.image.models.networks import Generator
from genkit.image.models.store import CONFIG, WEIGHTS
from genkit.image.noise import LABEL, STATISTICS, batch_latents, philox, seeded_latents
from genkit.image.reel import FILM, film_of, is_due
from genkit.image.store import ImageStore
from genkit.runtime.manager import Runtime
from genkit.training.record import RECORD, run_record
from genkit.training.rundir import BEST, RunDir
from genkit.training.state import TrainState
from genkit.training.weights import load_tensors

_BATCH = 64  # latents that go through a generator at a time
_COLUMNS, _MOST_ROWS = 8, 16  # of a sample sheet
_STATISTICS = 2048  # latents behind the batch-norm statistics


def sampler(average: Generator, store: ImageStore, config: GANTrainConfig, runtime: Runtime) -> Generator:
    """A copy of the averaged generator in eval mode, with batch-norm statistics of its own if it has such layers."""
    ready = copy.deepcopy(average).eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in ready.modules()):
        reestimate_batch_norm(ready, _statistics(store, config, runtime))
    return ready


def _statistics(store: ImageStore, config: GANTrainConfig, runtime: Runtime) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Latents (N, nz), and labels (N,) as frequent as in the data."""
    for i in range(_STATISTICS // _BATCH):
        z = torch.from_numpy(batch_latents(config.seed, i, _BATCH, config.nz, STATISTICS)).to(runtime.device)
        y = None
        if store.labels is not None:
            chosen = philox(config.seed, LABEL, i).integers(len(store.labels), size=_BATCH)
            y = torch.from_numpy(store.labels[chosen]).to(runtime.device)
        yield z, y


def sheet(run: RunDir, ready: Generator, runtime: Runtime, step: int) -> NDArray[np.uint8]:
    """Draw the same pictures each time, on a sheet in `samples/`; of a model with classes a row each.

    Returns:
        the pictures (N, H, W, C).
    """
    z, labels = fixed_pictures(len(ready.config.classes), ready.config.nz)
    pictures = draw(ready, z, labels, runtime)
    run.publish(raw={f"step-{step:06d}.png": encode(grid(pictures, _COLUMNS), "png")}, into="samples")
    return pictures


def film(run: RunDir, runtime: Runtime, *, ended: bool = False) -> None:
    """Put the sheets so far together as `samples/film.webp`, if it is time for it or the run has ended."""
    made = film_of(run.samples) if runtime.is_main and (ended or is_due(run.samples)) else None
    run.publish(raw={FILM: made} if made else {}, into="samples")


def fixed_pictures(classes: int, nz: int) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Latents (N, nz) of a sample sheet and, where there are classes, labels (N,).

    They are those of seeds 0, 1, 2, ...; where there are classes each row repeats the
    first ones. Of many classes some are shown, evenly.
    """
    if not classes:
        return seeded_latents(range(_COLUMNS**2), nz), None
    rows = np.linspace(0, classes - 1, min(classes, _MOST_ROWS)).round().astype(np.int64)
    return np.tile(seeded_latents(range(_COLUMNS), nz), (len(rows), 1)), rows.repeat(_COLUMNS)


def publish(
    run: RunDir,
    ready: Generator,
    store: ImageStore,
    config: GANTrainConfig,
    runtime: Runtime,
    state: TrainState,
    *,
    into: str = "",
) -> None:
    """Put a generator into the run's root, or its folder `into`, as a directory that `genkit image` loads."""
    report = store.report
    record = run_record(
        kind="image",
        config=config.to_dict(),
        data={"fingerprint": report.fingerprint, "sha256": report.sha256, "images": report.count}
        | {"unreadable": len(report.bad), "license": config.data_license},
        placement=runtime.placement,
        unit="images",
        seen=state.seen,
        steps=state.step,
        seconds=state.elapsed,
        metrics=state.extra.get("metrics"),
    )
    record = _with_alarms(record, state)
    shape = ready.config.to_dict()
    run.publish(tensors={WEIGHTS: ready.state_dict()}, json={CONFIG: shape, RECORD: record}, into=into)
    if runtime.is_main:
        graph.write(run.path / into)  # after the weights that it points into; the engine takes none of another header


def crown(run: RunDir, runtime: Runtime, state: TrainState) -> tuple[int, dict[str, float]]:
    """Make the best model the one in the run's root, beside all alarms of the run; returns its step and metrics."""
    best = run.path / BEST
    record = _with_alarms(read_json(best / RECORD), state)
    json = {CONFIG: read_json(best / CONFIG), RECORD: record}
    run.publish(tensors={WEIGHTS: load_tensors(best / WEIGHTS)}, json=json)
    if runtime.is_main:
        graph.write(run.path)
    return record["trained"]["steps"], record["metrics"]


def _with_alarms(record: dict[str, Any], state: TrainState) -> dict[str, Any]:
    alarms = state.extra.get("alarms", {}).get("history")
    return record | {"alarms": alarms} if alarms else record
