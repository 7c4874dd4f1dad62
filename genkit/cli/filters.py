"""`--filter` of `genkit text`: texts that are rejected, and drawn anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genkit import library
from genkit.cli.options import chosen
from genkit.cli.sampling import weights_hash
from genkit.cli.terminal import Terminal
from genkit.errors import PartialError, UsageError
from genkit.text.safety.config import GIVEN_UP, FilterConfig

if TYPE_CHECKING:
    from genkit.pipeline import TextEvent, TextPipeline
    from genkit.pipeline.filtered import FilteredPipeline


def filter_config(ctx: click.Context) -> FilterConfig | None:
    """What is to be filtered; None if nothing is.

    Raises:
        UsageError: settings of a filter that is not there, or `--stream` beside one.
    """
    config, _ = chosen(ctx, FilterConfig)
    if not config.asked:
        for name in ("filter_threshold", "filter_attempts"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} is about a filter", f"add --filter WORD, or leave out {flag}")
        return None
    if ctx.params["stream"]:
        raise UsageError("--stream does not go with a filter", "a text is judged when it is whole; leave --stream out")
    return config


@contextmanager
def open_filter(
    config: FilterConfig | None, pipeline: TextPipeline, *, device: str
) -> Iterator[FilteredPipeline | None]:
    """`pipeline` behind the judges of `config`; raises as `open_judges`."""
    if config is None:
        yield None
        return
    from genkit.pipeline.filtered import FilteredPipeline
    from genkit.text.safety.judges import open_judges

    with open_judges(config, device=device) as judges:
        yield FilteredPipeline(pipeline, judges, attempts=config.filter_attempts)


def described(config: FilterConfig) -> dict[str, Any]:
    """The filter as the header of a batch keeps it: what changes it, changes this."""
    facts = config.to_dict()
    if config.filter_model is not None:
        facts["filter_model"] = weights_hash(library.find(config.filter_model)) or config.filter_model
    for name in ("filter", "filter_pattern"):
        facts[name] = [_content(text) for text in facts[name]]
    return facts


def _content(text: str) -> str:
    """The word itself, or the hash of the file that `@` names."""
    from genkit.files import sha256

    return f"@{sha256(text[1:])}" if text.startswith("@") else text


def filled(events: Iterable[TextEvent]) -> Iterator[TextEvent]:
    """The events of the texts that were not given up."""
    return (event for event in events if event.finish != GIVEN_UP)


def outcome(filtered: FilteredPipeline | None) -> dict[str, Any]:
    """How many texts were drawn and rejected, as JSON has it; nothing without a filter."""
    if filtered is None:
        return {}
    by = dict(sorted(filtered.rejected.items()))
    facts = {"drawn": filtered.drawn, "rejected": sum(by.values()), "by": by, "unfilled": filtered.unfilled}
    return {"filter": facts}


def tell_outcome(filtered: FilteredPipeline | None, terminal: Terminal) -> None:
    """Say how many texts were rejected."""
    if filtered is None:
        return
    rejected = sum(filtered.rejected.values())
    by = ", ".join(f"{count:,} by {name}" for name, count in sorted(filtered.rejected.items()))
    terminal.note(f"filter: {rejected:,} of {filtered.drawn:,} drawn texts rejected{f' ({by})' if by else ''}")


def check_filled(filtered: FilteredPipeline | None) -> None:
    """Raise PartialError if texts were given up."""
    if filtered is not None and filtered.unfilled:
        texts = "1 text was" if filtered.unfilled == 1 else f"{filtered.unfilled:,} texts were"
        raise PartialError(
            f"{texts} rejected as often as drawn, and left out",
            "raise --filter-attempts; with --temperature 0 or --num-beams nothing is drawn anew",
        )
