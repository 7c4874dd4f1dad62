"""What a classifier's run shows of itself: a model directory that any tool loads."""

from __future__ import annotations

from genkit.runtime.manager import Runtime
from genkit.text.classify.config import ClassifyTrainConfig
from genkit.text.classify.data import LabelledSet
from genkit.text.classify.labelled import counts
from genkit.text.classify.model import Classifier
from genkit.text.models.store import WEIGHTS
from genkit.training.record import RECORD, run_record
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState

KIND = "classifier"  # in the record


def publish(
    run: RunDir,
    model: Classifier,
    data: LabelledSet,
    config: ClassifyTrainConfig,
    runtime: Runtime,
    state: TrainState,
    *,
    into: str = "",
) -> None:
    """Put the current model into the run's root, or its folder `into`."""
    record = run_record(
        kind=KIND,
        config=config.to_dict(),
        data={"fingerprint": data.fingerprint, "examples": len(data.train) + len(data.val)}
        | {"classes": counts(data.train, data.classes), "license": config.data_license},
        placement=runtime.placement,
        unit="examples",
        seen=state.seen,
        steps=state.step,
        seconds=state.elapsed,
        metrics=state.extra.get("metrics"),
    )
    if "base" in state.extra:
        record["base"] = state.extra["base"]
    files = model.files()
    run.publish(raw=files.raw, tensors={WEIGHTS: files.tensors}, json={**files.json, RECORD: record}, into=into)
