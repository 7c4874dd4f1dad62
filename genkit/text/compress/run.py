"""`compress`: a model made cheaper, and what that costs in quality."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from genkit import library
from genkit.errors import UsageError
from genkit.runtime.manager import Runtime, memory_guard
from genkit.text.compress.directory import (
    check_source,
    check_target,
    new_directory,
    record_of,
    write_companions,
    write_shape,
)
from genkit.text.compress.distill import DATA, calibration, distill, load_teacher, smaller
from genkit.text.compress.quantize import quantize_model
from genkit.text.compressconfig import CompressConfig
from genkit.text.data import prepare
from genkit.text.evalconfig import EvalConfig
from genkit.text.evaluate import evaluate, evaluate_model
from genkit.text.models.gpt import GPT
from genkit.text.models.layout import to_hf_state
from genkit.text.models.store import load_model
from genkit.text.sources import parse_sources
from genkit.text.tokenizer import Tokenizer
from genkit.training.log import MetricLogger, TrainReport
from genkit.training.weights import save_tensors

_AT_ONCE = 8192  # tokens of the text that go through a model together


@dataclass(frozen=True)
class Outcome:
    """What `compress` leaves behind.

    Attributes:
        before, after: bits per byte of the model and of what was made of it; None where no text was given.
        report: of the training run, if there was one.
    """

    before: float | None
    after: float | None
    report: TrainReport | None = None


def compress(
    name: str,
    folder: Path,
    config: CompressConfig,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    resume: bool = False,
    force: bool = False,
    started: float | None = None,
) -> Outcome:
    """Make the model in `folder` cheaper as `config` says, in `config.out`, and measure both.

    Args:
        name: of the model, for the record.
        resume, force, started: as `train_text`; without training, `force` replaces what an
            earlier compression left.

    Raises:
        UsageError: settings that contradict one another, or no smaller model would come out.
        InputError: a model that cannot be compressed, or data refused.
        OutputError: `config.out` cannot be written.
    """
    check_source(name, folder)
    out = Path(config.out)
    if out.resolve() == folder.resolve():
        raise UsageError(f"--out {out} is the model itself", "choose another --out")
    if config.trains:
        report = distill(name, folder, config, runtime, logger, resume=resume, force=force, started=started)
        before, after = (bits_per_byte(model, config, runtime, out / DATA) for model in (folder, out))
        return Outcome(before, after, report)
    check_target(out, force=force)
    with tempfile.TemporaryDirectory(prefix="genkit-") as held:
        data = Path(held)
        before = bits_per_byte(folder, config, runtime, data)  # first, as text that is refused must leave no model
        with new_directory(out, force=force) as made, memory_guard("use a smaller model"):
            _write(name, folder, made, config, runtime, data)
        return Outcome(before, bits_per_byte(out, config, runtime, data))


def _write(name: str, folder: Path, made: Path, config: CompressConfig, runtime: Runtime, data: Path) -> None:
    """The quantised or pruned model."""
    if config.quantize:
        load_teacher(name, folder)  # refuses weights that are not those of config.json
        shape = quantize_model(folder, made, config.quantize)
    else:
        pruned = _pruned(name, folder, config, runtime, data)
        save_tensors(made / library.WEIGHTS, to_hf_state(pruned), {"format": "pt"})
        shape = pruned.config.to_hf()
    write_companions(folder, made)
    write_shape(made, shape, record_of(name, folder, config.method()))


def _pruned(name: str, folder: Path, config: CompressConfig, runtime: Runtime, data: Path) -> GPT:
    model = load_teacher(name, folder)
    batches = []
    if config.data:
        corpus = prepare(config.training(), data, Tokenizer.load(folder))
        batches = calibration(corpus, model.config.block_size, config.seed, runtime.device)
    return smaller(model.to(runtime.device), config, batches)


@torch.no_grad()
def bits_per_byte(folder: Path, config: CompressConfig, runtime: Runtime, data: Path) -> float | None:
    """Of the model in `folder`, on `--val-data` or the share of `--data` held out; on all of `--data` to quantise.

    Args:
        data: where the tokens of `config.data` lie, or will.
    """
    if config.measured:
        paths = tuple(source.path for source in parse_sources(config.measured))
        settings = EvalConfig(data=paths, text_field=config.text_field, max_tokens=config.eval_tokens)
        return evaluate_model(settings, folder, runtime).bits_per_byte
    if not config.data:
        return None
    corpus = prepare(config.training(), data, Tokenizer.load(folder))
    if corpus.val is None:
        return None
    model = load_model(folder).to(runtime.device)
    found = evaluate(
        model,
        corpus.val,
        runtime,
        mask=corpus.val_mask,
        bytes_per_token=corpus.bytes_per_target,
        max_tokens=config.eval_tokens,
        batch_size=max(1, _AT_ONCE // model.config.block_size),
    )
    return found["val_bpb"]
