"""`genkit audit`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from genkit import library
from genkit.cli.completion import by_metavar
from genkit.cli.options import chosen, command, config_options, option
from genkit.cli.sampling import open_model
from genkit.cli.terminal import Terminal, one_line, write, write_json
from genkit.errors import InputError, UsageError
from genkit.runtime.device import resolve
from genkit.text.safety.auditconfig import AuditConfig

if TYPE_CHECKING:
    from genkit.pipeline import TextPipeline
    from genkit.text.safety.audit import Comparison, Item
    from genkit.text.safety.compare import Difference
    from genkit.text.safety.templates import Template

_WIDEST = 5  # continuations that the table names
_LIMITS = (
    "What this does not show: whether the model is fair. It covers these sentences and words only; a small "
    "difference here may be a wide one elsewhere, and a wide one may come from how frequent, or how long in "
    "tokens, a word is. An interval tells of chance among these continuations, not of what was left out."
)

EXAMPLES = """
genkit audit story --prompts templates.jsonl
genkit audit hf:openai-community/gpt2 --prompts jobs.jsonl --json | jq .likelihood.differences
genkit audit run --prompts jobs.jsonl --classifier sentiment --label positive --samples 50
echo '{"template": "The {group} was", "groups": ["king", "queen"], "continuations": [" happy", " sad"]}' > t.jsonl
"""


@command("audit", EXAMPLES)
@click.argument("model", metavar="MODEL", shell_complete=by_metavar)
@config_options(AuditConfig)
@option(
    "--device",
    section="Device",
    default="auto",
    metavar="auto|cpu|cuda[:N]|mps|xpu",
    help="Where to run; auto takes the fastest.",
    show_default=True,
)
@click.pass_context
def audit(ctx: click.Context, /, model: str, device: str, **values: Any) -> None:
    """Compare what a MODEL says of different groups.

    --prompts holds templates, one a line: {"template": "The {group} worked as a", "groups":
    ["man", "woman"], "continuations": [" doctor", " nurse"]}. A group may have several words:
    {"groups": {"men": ["man", "boy"], "women": ["woman", "girl"]}}.

    For each group: the mean log-probability of the continuations in nats, computed in fp32
    from the model's own probabilities, their perplexity by the token, and the difference to
    the first group with a 95 % bootstrap interval over the continuations. Differences of
    opposite sign cancel in it, so their mean size stands beside it. With --classifier,
    also the mean probability of --label among continuations that the model writes at
    temperature 1; the classifier sees them without the prompt.

    This measures. It does not show that a model is fair, and it makes none fair.
    """
    terminal: Terminal = ctx.obj
    config, _ = chosen(ctx, AuditConfig)
    if not config.prompts:
        raise UsageError("--prompts is missing", f"see {ctx.command_path} --help")

    from genkit.text.safety.templates import read_templates

    templates = read_templates(config.prompts)
    continued = sum(len(template.continuations) for template in templates)
    if not continued and config.classifier is None:
        raise InputError(
            f"{templates[0].where} has no continuations", "add some, or name a --classifier for sampled ones"
        )
    _tell_joined(templates, terminal)
    folder = library.find(model)
    if library.kind(folder) != "text":
        raise InputError(f"{model} is an image model", "name a text model")
    if folder.is_file():
        raise InputError(f"{model}: a .gguf file is not audited", "name the model directory that it was made from")

    facts: dict[str, Any] = {
        "model": model,
        "prompts": list(config.prompts),
        "groups": list(templates[0].groups),
        "templates": len(templates),
        "seed": config.seed,
        "likelihood": None,
        "classifier": None,
        "limits": _LIMITS,
    }
    tables = []
    if continued:
        from genkit.text.safety.audit import compare_likelihoods, perplexities

        items = _likelihoods(terminal, model, folder, templates, device)
        found, by_token = compare_likelihoods(items, config.seed), perplexities(items)
        facts["likelihood"] = _facts(found) | {"perplexity": by_token, "continuations": [_item(i) for i in items]}
        title = f"log-probability of {len(items):,} continuations, nats"
        tables.append(_table(title, found, {"perplexity": by_token}) + _widest(items))
    if config.classifier is not None:
        found = _opinions(terminal, model, templates, config, device)
        more = {"classifier": config.classifier, "label": config.label, "samples": config.samples}
        facts["classifier"] = _facts(found) | more | {"max_new_tokens": config.max_new_tokens}
        tables.append(_table(f"probability of {config.label}, {config.samples:,} samples of each prompt", found, {}))
    if terminal.json:
        write_json(facts)
    else:
        write("\n".join(tables) + "\n" + _LIMITS + "\n")


def _tell_joined(templates: list[Template], terminal: Terminal) -> None:
    """Note a continuation that makes one word with the prompt, which is seldom meant."""
    for template in templates:
        for continuation in template.continuations:
            if not template.text[-1].isspace() and continuation[0].isalnum():
                terminal.note(
                    f"{template.where}: {one_line(continuation)!r} begins without a blank and joins the word before it"
                )


def _likelihoods(terminal: Terminal, model: str, folder: Path, templates: list[Template], device: str) -> list[Item]:
    if library.family(folder) not in ("gpt", "causal"):
        raise InputError(
            f"{model} is no causal language model, so continuations have no probability", "name one, such as story"
        )
    placed = resolve(device, "fp32", "torch", task="eval")
    terminal.detail(f"{folder} on {placed.device} ({placed.why})")

    from genkit.runtime.manager import Runtime, memory_guard
    from genkit.text.explain.open import open_subject
    from genkit.text.safety.audit import likelihoods

    runtime = Runtime(placed)
    with runtime.settings(), memory_guard("use --device cpu, or a smaller model"):
        return likelihoods(open_subject(folder, runtime.device), templates, runtime.device)


def _opinions(
    terminal: Terminal, model: str, templates: list[Template], config: AuditConfig, device: str
) -> Comparison:
    """What the classifier says of sampled continuations."""
    from genkit.pipeline import TextJob
    from genkit.text.batches.tasks import line_seed
    from genkit.text.config import GenerationConfig
    from genkit.text.safety.audit import compare_opinions, prompts_of
    from genkit.text.safety.judges import open_opinion

    drawing = GenerationConfig(n=config.samples, max_new_tokens=config.max_new_tokens, temperature=1.0, top_p=1.0)
    asked = list(prompts_of(templates))
    texts: dict[tuple[int, int], str] = defaultdict(str)
    with (
        open_opinion(str(config.classifier), str(config.label), "--", device=device) as opinion,
        open_model(terminal, model, "text", device=device, precision="auto", engine="auto") as opened,
    ):
        pipeline = cast("TextPipeline", opened)
        seeds = [line_seed(config.seed, 1 + number * 4096 + word) for number, _, _, word in asked]
        jobs = (TextJob(a[2], drawing, seed, live=False) for a, seed in zip(asked, seeds, strict=True))
        for event in pipeline.run(jobs):
            if event.error is not None:
                raise event.error
            texts[event.job, event.index] += event.text
        shares = opinion.shares([texts[key] for key in sorted(texts)])
    found: list[dict[str, list[float]]] = [defaultdict(list) for _ in templates]
    for (job, _), share in zip(sorted(texts), shares, strict=True):
        found[asked[job][0]][asked[job][1]].append(share)
    return compare_opinions([{g: sum(s) / len(s) for g, s in each.items()} for each in found], config.seed)


def _facts(found: Comparison) -> dict[str, Any]:
    return {
        "items": found.items,
        "means": found.means,
        "differences": {group: difference._asdict() for group, difference in found.differences.items()},
    }


def _item(item: Item) -> dict[str, Any]:
    return {"template": item.template, "continuation": item.continuation, "logprob": item.logprob}


def _table(title: str, found: Comparison, columns: dict[str, dict[str, float]]) -> str:
    """A line a group."""
    first, width = next(iter(found.means)), max(len(one_line(group)) for group in found.means) + 2
    heads = f"{'':<{width}}{'mean':>10}" + "".join(f"{name:>13}" for name in columns)
    lines = [title, f"{heads}  less {one_line(first)}"]
    for group, mean in found.means.items():
        cells = f"{one_line(group):<{width}}{mean:>10.4f}" + "".join(f"{of[group]:>13,.4g}" for of in columns.values())
        lines.append(cells + (f"  {_interval(found.differences[group])}" if group in found.differences else ""))
    return "\n".join(lines) + "\n"


def _interval(difference: Difference) -> str:
    if difference.low is None:
        return f"{difference.value:+.4f}  (one item has no interval)"
    span = f"{difference.low:+.4f} to {difference.high:+.4f}"
    return f"{difference.value:+.4f}  ({span}), {difference.apart:.4f} apart on average"


def _widest(items: list[Item]) -> str:
    """The continuations on which groups differ most."""
    gaps = []
    for item in items:
        first, *others = item.logprob
        gaps += [(item.logprob[group] - item.logprob[first], group, item) for group in others]
    gaps.sort(key=lambda gap: -abs(gap[0]))
    rows = [f"{gap:+.4f}  {group}: {item.template}{item.continuation}" for gap, group, item in gaps[:_WIDEST]]
    return "widest differences:\n" + "".join(f"{one_line(row)}\n" for row in rows)
