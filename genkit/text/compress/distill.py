"""A smaller model that learns from a larger one: a training run like any other, with another loss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.errors import InputError, UsageError
from genkit.runtime.manager import Runtime
from genkit.text.adapters import model_hash
from genkit.text.compress.directory import check_source, record_of
from genkit.text.compress.losses import distillation_loss
from genkit.text.compress.prune import narrowed, pruned_width
from genkit.text.compress.student import make_student, student_shape
from genkit.text.compressconfig import CompressConfig
from genkit.text.data import Corpus, prepare
from genkit.text.models.gpt import GPT
from genkit.text.models.store import check_usable, load_model
from genkit.text.start import Lesson, Start
from genkit.text.tokenizer import Tokenizer
from genkit.text.train import train_text
from genkit.training.log import MetricLogger, TrainReport
from genkit.training.record import read_record

DATA = "data"  # folder of a run with its tokens
CALIBRATION = 32_768  # tokens to measure the importance of neurons on
_AT_ONCE = 8192  # of them that go through the model together
COMMAND = "genkit compress"


def load_teacher(name: str, folder: Path) -> GPT:
    """The model that is compressed, in evaluation mode and without gradients.

    Raises:
        InputError: it cannot be compressed, or is damaged.
    """
    check_source(name, folder)
    teacher = load_model(folder)
    check_usable(folder, teacher, Tokenizer.load(folder))
    return teacher.eval().requires_grad_(False)


def calibration(corpus: Corpus, context: int, seed: int, device: torch.device) -> list[Tensor]:
    """Ids (B, T) of some of the training text, on `device`."""
    count = max(1, CALIBRATION // context)
    ids, _ = corpus.batch(block_size=context, batch_size=count, seed=seed, step=0)
    rows = max(1, _AT_ONCE // context)
    return [ids[start : start + rows].to(device) for start in range(0, len(ids), rows)]


def smaller(teacher: GPT, config: CompressConfig, batches: list[Tensor]) -> GPT:
    """What pruning leaves of the teacher, or the student of a distillation.

    Raises:
        UsageError: nothing would be left out, or the student would not be smaller.
    """
    if config.prune is None:
        return make_student(teacher, student_shape(teacher.config, str(config.distill_into)), batches)
    width = pruned_width(teacher.config.n_inner, config.prune)
    if width >= teacher.config.n_inner:
        raise UsageError(
            f"--prune {config.prune} leaves all {width} neurons of a layer, as widths are multiples of 32", "use more"
        )
    return narrowed(teacher, width, batches)


def distill(
    name: str,
    folder: Path,
    config: CompressConfig,
    runtime: Runtime,
    logger: MetricLogger,
    *,
    resume: bool = False,
    force: bool = False,
    started: float | None = None,
) -> TrainReport:
    """Train what `smaller` makes of the model in `folder` to predict as that one does, and leave a run directory.

    Errors and arguments are those of `train_text`.

    Args:
        name: of the model, for the record.
    """
    training = config.training()
    teacher = load_teacher(name, folder)
    tokenizer = Tokenizer.load(folder)
    if resume:
        _check_unchanged(name, folder, read_record(Path(config.out)))

    def start(resumed: Path | None) -> Start:
        if resumed is not None:
            return Start(load_model(resumed), tokenizer)
        data = Path(config.out) / DATA  # where the run looks for it
        data.mkdir(exist_ok=True)
        corpus = prepare(training, data, tokenizer)
        torch.manual_seed(config.seed)
        batches = calibration(corpus, teacher.config.block_size, config.seed, runtime.device)
        student = copy.deepcopy(smaller(teacher, config, batches))
        method = config.method() | {"teacher_weight": config.teacher_weight}
        return Start(student.requires_grad_(True), tokenizer, record_of(name, folder, method))

    def loss(student: GPT, ids: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            states = teacher.hidden(ids)  # (B, T, C')
        return distillation_loss(
            student.hidden(ids).flatten(0, 1),
            student.head_weight,
            states.flatten(0, 1),
            teacher.head_weight,
            targets.flatten(),
            config.teacher_weight,
        )

    teacher.to(runtime.device)
    lesson = Lesson(start, loss, COMMAND)
    return train_text(training, runtime, logger, resume=resume, force=force, started=started, lesson=lesson)


def _check_unchanged(name: str, folder: Path, record: dict[str, Any]) -> None:
    base = record.get("base")
    if not isinstance(base, dict) or base.get("sha256") != model_hash(folder):
        raise InputError(f"{name} is not what it was when this run began", "bring it back, or start anew with --force")
