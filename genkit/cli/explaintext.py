"""`genkit explain` of a text model."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit.cli.terminal import Terminal, write, write_json
from genkit.errors import UsageError
from genkit.runtime.device import resolve
from genkit.text.explainconfig import ExplainConfig

if TYPE_CHECKING:
    from genkit.text.explain.attribution import Attribution
    from genkit.text.explain.look import Look, Target
    from genkit.text.explain.subject import Subject
    from genkit.text.explain.surprise import Candidate

_RED = 10.0  # bits of surprise from which a token is as red as can be
_INEXACT = 0.05  # share of a difference by which attributions may miss it before this is told


def explain_text(
    terminal: Terminal,
    model: str,
    folder: Path,
    text: str,
    config: ExplainConfig,
    *,
    aimed: str | None,
    clobber: bool,
    device: str,
) -> None:
    """Read `text` with the model in `folder`; draw and print what is asked for.

    Args:
        aimed: a flag that says what an attribution explains, if there was one.

    Raises:
        UsageError, InputError: as `open_subject`, `look` and `find_target`; no such layer or head.
        ResourceError: no such device, too little memory, or a package is missing.
        OutputError: a picture cannot be written.
    """
    placed = resolve(device, "fp32", "torch", task="eval")
    terminal.detail(f"{folder} on {placed.device} ({placed.why})")

    from genkit.files import write_bytes
    from genkit.runtime.manager import Runtime, memory_guard
    from genkit.text.explain.look import find_target, look
    from genkit.text.explain.open import open_subject
    from genkit.text.explain.pictures import attention_picture, attribution_picture

    runtime = Runtime(placed)
    with runtime.settings(), memory_guard("give a shorter text, or use --device cpu"):
        subject = open_subject(folder, runtime.device)
        if aimed and config.attribution is None and subject.kind != "classifier":
            raise UsageError(f"{aimed} is about an attribution, and none is drawn", "add --attribution FILE.png")
        seen = look(subject, text, config.top, runtime.device)
        target, found = None, None
        if config.attribution is not None or subject.kind == "classifier":
            from genkit.text.explain.attribution import attribute

            target = find_target(subject, seen, config.target, config.position)
            found = attribute(subject, target, config.steps, runtime.device)
        facts = {"model": model, "kind": subject.kind, "text": text, **_facts(subject, seen)}
        if config.attention is not None:
            data, facts["attention"] = attention_picture(subject, seen.tokens, config, runtime.device)
            write_bytes(config.attention, data, clobber=clobber)
        if target is not None and found is not None:
            facts["attribution"] = _attributed(target, found, seen, config)
            if config.attribution is not None:
                data = attribution_picture(target, found, seen.tokens, config.attribution)
                write_bytes(config.attribution, data, clobber=clobber)
    if terminal.json:
        write_json(facts)
        return
    write(_heat(subject, seen, target, found) if terminal.colored(sys.stdout) else _table(subject, seen, target, found))
    for path in (config.attention, config.attribution):
        if path is not None:
            terminal.note(f"wrote {path}")
    if found is not None and abs(found.error) > _INEXACT * max(abs(found.difference), 0.1):
        terminal.note(f"the attributions miss their sum by {found.error:+.3f}: raise --steps")


def _facts(subject: Subject, seen: Look) -> dict[str, Any]:
    """What a look found, as JSON has it."""
    from genkit.text.explain.surprise import Reading

    facts: dict[str, Any] = {"tokens": []}
    own = seen.tokens.own
    for number, at in enumerate(own):
        token: dict[str, Any] = {"token": seen.tokens.pieces[at], "id": seen.tokens.ids[at]}
        if seen.places:
            place = seen.places[number]
            if isinstance(place, Reading):
                token |= {"probability": place.probability, "logprob": place.logprob, "rank": place.rank}
            token |= {"entropy": place.entropy, "top": _named(subject, place.top)}
        facts["tokens"].append(token)
    scored = [place for place in seen.places if isinstance(place, Reading)]
    if scored:
        facts["loss"] = -sum(place.logprob for place in scored) / len(scored)
        facts["perplexity"] = math.exp(min(facts["loss"], 700))
    if seen.next is not None:
        facts["next"] = {"entropy": seen.next.entropy, "top": _named(subject, seen.next.top)}
    if seen.labels:
        facts["labels"] = [{"label": subject.labels[c.id], "probability": c.probability} for c in seen.labels]
    return facts


def _named(subject: Subject, found: tuple[Candidate, ...]) -> list[dict[str, Any]]:
    return [{"token": subject.name(c.id), "id": c.id, "probability": c.probability} for c in found]


def _attributed(target: Target, found: Attribution, seen: Look, config: ExplainConfig) -> dict[str, Any]:
    return {
        "target": target.name,
        "id": target.id,
        "position": target.position,
        "tokens": [
            {"token": seen.tokens.pieces[at], "value": value}
            for at, value in zip(target.own, found.values, strict=True)
        ],
        "difference": found.difference,
        "error": found.error,
        "steps": config.steps,
        "file": config.attribution,
    }


def _table(subject: Subject, seen: Look, target: Target | None, found: Attribution | None) -> str:
    """A row a token."""
    from genkit.cli.ui import columns
    from genkit.text.explain.surprise import Reading

    tokens = seen.tokens
    spoken = dict(zip(target.own, found.values, strict=True)) if target and found else {}
    heads = ["", "token"]
    if seen.places:
        heads += ["probability", "rank", "entropy"]
    if spoken:
        heads += ["attribution"]
    if seen.places:
        heads += ["likeliest"]
    rows = [heads]
    for number, at in enumerate(tokens.own):
        row = [str(number), _quoted(tokens.pieces[at])]
        place = seen.places[number] if seen.places else None
        if place is not None:
            row += [f"{place.probability:.4f}", f"{place.rank:,}"] if isinstance(place, Reading) else ["-", "-"]
            row += [f"{place.entropy:.2f}"]
        if spoken:
            row += [f"{spoken[at]:+.3f}" if at in spoken else "-"]
        if place is not None:
            row += [_list(subject, place.top)]
        rows.append(row)
    return columns(rows, {1, len(heads) - 1}) + _summary(subject, seen, target, found)


def _heat(subject: Subject, seen: Look, target: Target | None, found: Attribution | None) -> str:
    """The text in colours."""
    from genkit.cli.ui import BARS, Cell, heat
    from genkit.text.explain.surprise import Reading

    tokens = seen.tokens
    shown = ""
    if seen.places:
        cells = []
        for at, place in zip(tokens.own, seen.places, strict=True):
            surprise = place.surprise if isinstance(place, Reading) else 0.0
            bar = BARS[min(int(place.entropy), len(BARS) - 1)]
            cells.append(Cell(tokens.pieces[at], min(surprise / _RED, 1.0), bar))
        scale = [Cell(f" {bits} ", bits / _RED) for bits in (0, 2, 4, 6, 8)] + [Cell(" 10+ ", 1.0)]
        bars = Cell(f"   entropy: {BARS[0]} under 1 bit, {BARS[3]} 3, {BARS[-1]} 7 or more", 0.0)
        shown = heat(cells, [Cell("surprise in bits:", 0.0), *scale, bars])
    if target is not None and found is not None:
        most = max((abs(value) for value in found.values), default=0.0) or 1.0
        cells = [Cell(tokens.pieces[at], value / most) for at, value in zip(target.own, found.values, strict=True)]
        scale = [Cell(f" {share * most:+.2f} ", share) for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        shown += ("\n" if shown else "") + heat(cells, [Cell(f"speaks for {_quoted(target.name)}:", 0.0), *scale])
    return shown + _summary(subject, seen, target, found)


def _summary(subject: Subject, seen: Look, target: Target | None, found: Attribution | None) -> str:
    from genkit.text.explain.surprise import Reading

    rows = {}
    scored = [place for place in seen.places if isinstance(place, Reading)]
    if scored:
        loss = -sum(place.logprob for place in scored) / len(scored)
        rows["loss"] = f"{loss:.4f} nats a token, perplexity {math.exp(min(loss, 700)):.4g}"
    if seen.next is not None:
        rows["next"] = f"{_list(subject, seen.next.top)}; entropy {seen.next.entropy:.2f} bits"
    if seen.labels:
        rows["labels"] = ", ".join(f"{subject.labels[c.id]} {c.probability:.4f}" for c in seen.labels)
    if target is not None and found is not None:
        rows["target"] = f"{_quoted(target.name)}: the text moves its logit by {found.difference:+.3f}"
    return "\n" + "".join(f"{name:<8}{value}\n" for name, value in rows.items())


def _list(subject: Subject, found: tuple[Candidate, ...]) -> str:
    return ", ".join(f"{_quoted(subject.name(c.id))} {c.probability:.3f}" for c in found)


def _quoted(text: str) -> str:
    from genkit.text.explain.spoken import lasting

    return lasting(json.dumps(text, ensure_ascii=False))
