"""What a run on pairs shows of itself: what it writes on the way, and a model directory that any tool loads."""

from __future__ import annotations

from genkit.runtime.manager import Runtime
from genkit.text.models.store import WEIGHTS
from genkit.text.seq2seq.data import PairSet, limits
from genkit.text.seq2seq.evaluate import closeness, written
from genkit.text.seq2seq.model import Seq2Seq
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.log import MetricLogger
from genkit.training.record import RECORD, run_record
from genkit.training.rundir import RunDir
from genkit.training.state import TrainState

_LONGEST_SAMPLE = 128  # tokens


def sample(
    run: RunDir,
    model: Seq2Seq,
    pairs: PairSet,
    config: TextTrainConfig,
    runtime: Runtime,
    step: int,
    logger: MetricLogger,
) -> dict[str, float]:
    """Write targets of held-out sources, keep them in `samples/`, show one; returns how near they are."""
    more: list[list[int]] = []
    if config.sample_prompt:
        limit = limits(config, model)[0]
        more, _ = model.encode([config.source_prefix + config.sample_prompt], targets=False, limit=limit)
    if not more and not pairs.shown:
        return {}
    longest = min(_LONGEST_SAMPLE, limits(config, model)[1])
    texts = written(model, pairs, runtime, max_new_tokens=longest, more=more)
    references = [pair.target for _, pair in pairs.shown]
    told = [f"{pair.source}\n-> {text}\n   {pair.target}" for text, (_, pair) in zip(texts, pairs.shown, strict=False)]
    told = [f"{config.sample_prompt}\n-> {text}" for text in texts[len(references) :]] + told
    run.publish(raw={f"step-{step:06d}.txt": ("\n---\n".join(told) + "\n").encode()}, into="samples")
    logger.message(f"sample at step {step}: {told[0]}")
    return closeness(texts[: len(references)], references) if references else {}


def publish(
    run: RunDir,
    model: Seq2Seq,
    pairs: PairSet,
    config: TextTrainConfig,
    runtime: Runtime,
    state: TrainState,
    *,
    into: str = "",
) -> None:
    """Put the current model into the run's root, or its folder `into`."""
    trained = sum(map(len, pairs.train))
    record = run_record(
        kind="text",
        config=config.to_dict(),
        data={"fingerprint": pairs.fingerprint, "pairs": trained + len(pairs.val), "pairs_held_out": len(pairs.val)}
        | {"tokens": len(pairs.ids), "license": config.data_license},
        placement=runtime.placement,
        unit="tokens",
        seen=state.seen,
        steps=state.step,
        seconds=state.elapsed,
        metrics=state.extra.get("metrics"),
    )
    record |= {key: state.extra[key] for key in ("base", "trained_before") if key in state.extra}
    files = model.files()
    run.publish(raw=files.raw, tensors={WEIGHTS: files.tensors}, json={**files.json, RECORD: record}, into=into)
