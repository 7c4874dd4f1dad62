"""Flags, environment and config file add up to one config."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from genkit.cli import COMMANDS, main
from genkit.cli.options import SectionedOption, chosen, command, config_options
from genkit.config import Config, option, options, parse_count
from genkit.image.config import GANTrainConfig, ImageSampleConfig
from genkit.text.config import GenerationConfig
from genkit.text.trainconfig import TextTrainConfig

Run = Callable[..., Any]
CONFIGS = {
    "text": GenerationConfig,
    "image": ImageSampleConfig,
    "train-text": TextTrainConfig,
    "train-gan": GANTrainConfig,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knobs(Config):
    size: int = option(3, "Size.", min=1, max=9)
    rate: float = option(0.5, "Rate.", above=0, max=1)
    mode: str = option("fast", "Mode.", choices=("fast", "slow"))
    count: int | None = option(None, "Count.", parse=parse_count)
    flip: bool = option(False, "Flip.")
    word: tuple[str, ...] = option((), "Words.", multiple=True)
    path: tuple[str, ...] = option((), "Paths.", multiple=True, metavar="PATH")


@pytest.fixture
def knobs(monkeypatch: pytest.MonkeyPatch, genkit: Run) -> Callable[..., Any]:
    """Run a command that prints its config and what the user set."""

    @command("text", "genkit text")
    @config_options(Knobs)
    @click.pass_context
    def show(ctx: click.Context, **values: Any) -> None:
        config, set_by_user = chosen(ctx, Knobs)
        click.echo(json.dumps([config.to_dict(), sorted(set_by_user)]))

    monkeypatch.setattr(type(main), "get_command", lambda *_: show)

    def run(*args: str) -> Any:
        done = genkit("text", *args)
        return json.loads(done.out) if done.code == 0 else done

    return run


def test_defaults_are_not_set_by_the_user(knobs: Run) -> None:
    assert knobs() == [json.loads(json.dumps(Knobs().to_dict())), []]


def test_flags(knobs: Run) -> None:
    flags = ["--size", "4", "--rate", "1", "--mode", "slow", "--count", "1.5k", "--flip", "--word", "a", "--word", "b"]
    config, given = knobs(*flags)
    assert config == {
        "size": 4,
        "rate": 1.0,
        "mode": "slow",
        "count": 1500,
        "flip": True,
        "word": ["a", "b"],
        "path": [],
    }
    assert given == ["count", "flip", "mode", "rate", "size", "word"]


def test_flag_beats_environment_beats_file_beats_default(
    knobs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text('[text]\nsize = 5\nrate = 0.25\nmode = "slow"\n')
    monkeypatch.setenv("GENKIT_TEXT_SIZE", "6")
    monkeypatch.setenv("GENKIT_TEXT_RATE", "0.75")
    config, given = knobs("--config", "c.toml", "--size", "7")
    assert (config["size"], config["rate"], config["mode"], config["flip"]) == (7, 0.75, "slow", False)
    assert given == ["mode", "rate", "size"]


def test_environment_names_the_config_file_and_lists(
    knobs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[text]\nflip = true\ncount = 7\n[train-gan]\nlr = 0.1\n")
    monkeypatch.setenv("GENKIT_TEXT_CONFIG", "c.toml")
    monkeypatch.setenv("GENKIT_TEXT_WORD", "one two\nthree")
    monkeypatch.setenv("GENKIT_TEXT_PATH", "a b:c")
    config, _ = knobs()
    assert (config["flip"], config["count"]) == (True, 7)
    assert (config["word"], config["path"]) == (["one two", "three"], ["a b", "c"])


@pytest.mark.parametrize(("toml", "word"), [("7", "7"), ("0.3", "0.3"), ("'7'", "7")])
def test_a_number_is_text_where_text_is_asked_for(knobs: Run, tmp_path: Path, toml: str, word: str) -> None:
    (tmp_path / "c.toml").write_text(f"[text]\nword = [{toml}]\n")
    config, _ = knobs("--config", "c.toml")
    assert config["word"] == [word]


@pytest.mark.parametrize(
    ("toml", "code", "message"),
    [
        ("[text]\nsise = 4", 2, "c.toml: [text] has no option sise (did you mean size?)"),
        ("[txt]\nsize = 4", 2, "c.toml: no command has the name [txt] (did you mean 'text'?)"),
        ("size = 4", 2, "c.toml: 'size' stands outside a table (put it under [text])"),
        ("[text]\nsize = 10", 2, "c.toml: --size 10 is out of range (use 1 <= x <= 9)"),
        ("[text]\nsize = 1.5", 2, "c.toml: --size: 1.5 is not a whole number"),
        ("[text]\nsize = true", 2, "c.toml: size = True is not a single value"),
        ("[text]\nsize = [1]", 2, "c.toml: size = [1] is not a single value"),
        ("[text]\nflip = 1", 2, "c.toml: flip = 1 is not true or false"),
        ("[text]\nword = 'a'", 2, "c.toml: word = 'a' is not a list"),
        ("[text]\nrate = nan", 2, "c.toml: --rate nan is out of range (use 0 < x <= 1)"),
        ("[text]\nconfig = 'x'", 2, "c.toml: [text] has no option config (see genkit text --help)"),
        ("[text\n", 3, "c.toml is not TOML: "),
    ],
)
def test_config_file_mistakes(knobs: Run, tmp_path: Path, toml: str, code: int, message: str) -> None:
    (tmp_path / "c.toml").write_text(toml)
    done = knobs("--config", "c.toml")
    assert done.code == code
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1


def test_missing_config_file(knobs: Run) -> None:
    done = knobs("--config", "none.toml")
    assert (done.code, done.err) == (3, "error: cannot read none.toml: No such file or directory\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--size", "ten"], "--size: 'ten' is not a whole number"),
        (["--size", "0"], "--size 0 is out of range (use 1 <= x <= 9)"),
        (["--rate", "inf"], "--rate inf is out of range (use 0 < x <= 1)"),
        (["--mode", "slwo"], "--mode 'slwo' is not one of fast, slow (did you mean 'slow'?)"),
        (["--count", "many"], "--count: 'many' is not a count; write 5000, 200k or 1.5M"),
    ],
)
def test_bad_values(knobs: Run, args: list[str], message: str) -> None:
    done = knobs(*args)
    assert (done.code, done.err) == (2, f"error: {message}\n")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_a_config_is_an_option(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    assert {field.name for field, _ in options(CONFIGS[name])} <= {p.name for p in found.params}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_sections_and_examples(genkit: Run, name: str) -> None:
    done = genkit(name, "--help")
    assert (done.code, done.err) == (0, "")
    examples = done.text.split("\nExamples:\n")[1]
    assert examples.count(f"genkit {name}") >= 2
    found = main.get_command(click.Context(main), name)
    assert found is not None
    for param in found.params:
        if isinstance(param, SectionedOption):
            assert f"\n{param.section}:\n" in done.text
            assert param.opts[-1] in done.text
            assert param.help


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_examples_in_help_are_valid_commands(genkit: Run, name: str | None) -> None:
    text = genkit(*filter(None, [name]), "--help").text.split("\nExamples:\n")[1].split("\n\n")[0]
    commands = [part.strip() for line in text.splitlines() for part in line.split(" | ") if "genkit " in part]
    assert len(commands) >= 2
    for line in commands:
        _, found, *args = shlex.split(line)
        command = main.get_command(click.Context(main), found)
        assert command is not None
        context = command.make_context(found, args)
        if found in CONFIGS:
            chosen(context, CONFIGS[found])


def test_help_shows_defaults_and_ranges(genkit: Run) -> None:
    text = " ".join(genkit("text", "--help").text.split())
    assert "--top-p FLOAT" in text
    assert "[default: 0.95; 0 < x <= 1]" in text
    assert "-h, --help" in text
