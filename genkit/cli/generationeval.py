"""`genkit eval` of what a text model generates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from genkit import library
from genkit.cli.options import chosen
from genkit.cli.sampling import open_model
from genkit.cli.score import figures_json, figures_text, tell_blind_rouge
from genkit.cli.terminal import Terminal, write, write_json
from genkit.config import flag_name, options
from genkit.errors import InputError, UsageError
from genkit.text.evalconfig import EvalConfig
from genkit.text.metrics.config import GenerationEvalConfig


def is_about_generation(ctx: click.Context, folder: Path) -> bool:
    """Whether texts are to be generated: for --metric, and for models that make one text of another.

    Raises:
        UsageError: settings of the other kind of measurement.
    """
    generates = bool(ctx.params["metric"]) or library.family(folder) == "seq2seq"
    other = EvalConfig if generates else GenerationEvalConfig
    for field, _ in options(other):
        given = ctx.get_parameter_source(field.name) not in (ParameterSource.DEFAULT, None)
        if given and field.name not in ("data", "encoding_errors"):
            raise UsageError(
                f"{flag_name(field)} is not about what a model generates"
                if generates
                else f"{flag_name(field)} is about what a model generates",
                "leave it out, or leave out --metric" if generates else "add --metric bleu, for instance",
            )
    return generates


def evaluate_generation(ctx: click.Context, model: str, report: Callable[[float, str], None], **placement: str) -> None:
    """Print how far what `model` generates from the sources of --data is from their targets.

    Args:
        report: is told the share that is done, and a word on it.
        placement: device, precision and engine.

    Raises:
        InputError: data or model refused, or a source that does not fit the model.
    """
    terminal: Terminal = ctx.obj
    config, _ = chosen(ctx, GenerationEvalConfig)
    errors = ctx.params["encoding_errors"]

    from genkit.pipeline import TextJob, TextPipeline
    from genkit.text.metrics.measure import measure
    from genkit.text.pairs import read_pairs
    from genkit.text.settings import settle

    fields = {"source_field": config.source_field, "target_field": config.target_field}
    pairs = list(read_pairs(config.data, **fields, errors=errors))
    own: dict[str, Any] = {"n": 1, "temperature": 0.0, "stop": config.stop}
    own |= {k: v for k, v in (("max_new_tokens", config.max_new_tokens), ("num_beams", config.num_beams)) if v}
    texts, tokens, cut, done = [""] * len(pairs), 0, 0, 0
    with open_model(terminal, model, "text", **placement) as opened:
        pipeline = cast(TextPipeline, opened)
        settings = settle(own, pipeline.defaults())
        placed = pipeline.placed(settings)
        for event in pipeline.run(TextJob(pair.source, settings, live=False) for pair in pairs):
            if event.error is not None:
                raise InputError(f"{pairs[event.job].where}: {event.error.message}", event.error.hint)
            texts[event.job] += event.text
            if event.finish is not None:
                tokens, cut, done = tokens + event.tokens, cut + (event.finish == "length"), done + 1
                report(done / len(pairs), f"{done:,} of {len(pairs):,} texts")
    candidates = [text.strip() for text in texts]
    found = measure(config.metrics, candidates, [[pair.target.strip()] for pair in pairs])
    tell_blind_rouge(terminal, found, candidates)
    if terminal.json:
        facts = {"model": model, "data": config.data, "pairs": len(pairs), "metrics": figures_json(found)}
        facts |= {"tokens": tokens, "cut": cut, "settings": settings.to_dict()}
        write_json(facts | {"device": placed.device, "precision": placed.precision, "engine": placed.engine})
        return
    search = f"{settings.num_beams} beams" if settings.num_beams > 1 else "the likeliest token each time"
    write(figures_text(found))
    write(f"{len(pairs):,} pairs, {tokens:,} tokens by {model}, {search}; {cut:,} cut at {settings.max_new_tokens:,}\n")
