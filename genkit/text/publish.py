"""What a run shows of itself: samples on the way, and a model directory that any tool loads."""

from __future__ import annotations

from typing import Any

from genkit.files import read_json
from genkit.library import TOKENIZER, TOKENIZER_CONFIG
from genkit.runtime.manager import Runtime
from genkit.text.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, base_name
from genkit.text.config import GenerationConfig
from genkit.text.data import Corpus
from genkit.text.engines import TokenRequest
from genkit.text.engines.torch import TorchTextEngine
from genkit.text.models.gpt import GPT
from genkit.text.models.lora import ALL_LINEAR, merged, to_peft
from genkit.text.models.store import CONFIG, GENERATION, WEIGHTS, model_files
from genkit.text.tokenizer import Tokenizer
from genkit.text.trainconfig import TextTrainConfig
from genkit.training.log import MetricLogger
from genkit.training.record import RECORD, run_record
from genkit.training.rundir import BEST, RunDir
from genkit.training.state import TrainState
from genkit.training.weights import load_tensors

ADAPTER = "adapter"  # the folder of a run's adapter, beside the merged model
_SAMPLES, _SAMPLE_TOKENS = 2, 100


def sample(
    run: RunDir,
    model: GPT,
    tokenizer: Tokenizer,
    config: TextTrainConfig,
    runtime: Runtime,
    step: int,
    logger: MetricLogger,
) -> None:
    """Draw a few texts with fixed seeds, show the longest and keep all in `samples/`."""
    knobs = GenerationConfig(max_new_tokens=_SAMPLE_TOKENS)
    prompt = tokenizer.encode(config.sample_prompt) or [tokenizer.eos_id]
    requests = [TokenRequest(prompt, knobs, seed=i) for i in range(_SAMPLES)]
    ids: list[list[int]] = [[] for _ in requests]
    model.eval()
    for event in TorchTextEngine(merged(model), runtime).generate(requests):
        ids[event.index].append(event.token)
    model.train()
    texts = [config.sample_prompt + tokenizer.decode(row) for row in ids]
    run.publish(raw={f"step-{step:06d}.txt": ("\n---\n".join(texts) + "\n").encode()}, into="samples")
    logger.message(f"sample at step {step}: {max(texts, key=len)}")


def publish(
    run: RunDir,
    model: GPT,
    corpus: Corpus,
    config: TextTrainConfig,
    runtime: Runtime,
    state: TrainState,
    *,
    into: str = "",
) -> None:
    """Put the current model into the run's root, or its folder `into`, as a directory that any tool can load.

    A model with adapters is merged; they lie beside it, as peft reads them.
    """
    shape, generation, tensors = model_files(merged(model), {})
    record = run_record(
        kind="text",
        config=config.to_dict(),
        data={"fingerprint": corpus.fingerprint, "documents": corpus.documents, "bytes": corpus.bytes}
        | {"tokens": corpus.tokens_train + corpus.tokens_val, "license": config.data_license},
        placement=runtime.placement,
        unit="tokens",
        seen=state.seen,
        steps=state.step,
        seconds=state.elapsed,
        metrics=state.extra.get("metrics"),
    )
    record |= {key: state.extra[key] for key in ("base", "trained_before", "compressed") if key in state.extra}
    if config.lora:
        beside = f"{into}/{ADAPTER}" if into else ADAPTER
        _publish_adapter(run, model, config, record, into=beside)
        _publish_tokenizer(run, corpus.tokenizer, into=beside)
    run.publish(tensors={WEIGHTS: tensors}, json={CONFIG: shape, GENERATION: generation, RECORD: record}, into=into)
    _publish_tokenizer(run, corpus.tokenizer, into=into)


def _publish_tokenizer(run: RunDir, tokenizer: Tokenizer, *, into: str) -> None:
    raw = {TOKENIZER: tokenizer.to_json().encode()}
    run.publish(raw=raw, json={TOKENIZER_CONFIG: tokenizer.config()}, into=into)


def _publish_adapter(run: RunDir, model: GPT, config: TextTrainConfig, record: dict[str, Any], *, into: str) -> None:
    layers, tensors = to_peft(model)
    base, revision = base_name(str(config.init_from))
    described = adapter_config(
        base=base,
        revision=revision,
        rank=config.lora,
        alpha=config.alpha,
        dropout=config.lora_dropout,
        targets=sorted({name.rpartition(".")[2] for name in layers})
        if ALL_LINEAR in config.lora_targets
        else list(config.lora_targets),
        conv1d=model.config.arch == "gpt2",
    )
    run.publish(tensors={ADAPTER_WEIGHTS: tensors}, json={ADAPTER_CONFIG: described, RECORD: record}, into=into)


def crown(run: RunDir) -> tuple[int, dict[str, float]]:
    """Make the best model the one in the run's root, and its adapter the run's; returns its step and metrics."""
    best = run.path / BEST
    record = read_json(best / RECORD)
    run.publish(tensors={WEIGHTS: load_tensors(best / WEIGHTS)}, json={RECORD: record})
    adapter = best / ADAPTER
    if adapter.is_dir():
        tensors = {ADAPTER_WEIGHTS: load_tensors(adapter / ADAPTER_WEIGHTS)}
        run.publish(tensors=tensors, json={RECORD: read_json(adapter / RECORD)}, into=ADAPTER)
    return record["trained"]["steps"], record["metrics"]
