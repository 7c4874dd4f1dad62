"""Click options out of config classes, and the flags that every command shares.

A value comes from the flag, else from `GENKIT_<COMMAND>_<OPTION>`, else from the
`--config` file, else from the model's own settings, else from the config class.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from genkit.cli.terminal import Terminal
from genkit.config import (
    LARGEST_SEED,
    Config,
    Option,
    check_value,
    flag_name,
    options,
    range_text,
    suggest,
    value_type,
)
from genkit.errors import InputError, UsageError
from genkit.runtime.device import ENGINES, PRECISIONS, Task

C = TypeVar("C", bound=Config)
Decorator = Callable[[Any], Any]

_GENERAL = "General"


class Value(click.ParamType[Any]):
    """Text or a TOML value to a field's value, under the field's own rule."""

    def __init__(self, kind: type, described: Option, flag: str) -> None:
        self.kind, self.described, self.flag = kind, described, flag
        self.name = kind.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parse = self.described.parse or self.kind
        if isinstance(value, str) and self.kind is not str:
            try:
                value = parse(value)
            except ValueError as error:
                own = str(error) if self.described.parse else f"{value!r} is not {_KINDS[self.kind]}"
                raise UsageError(f"{self.flag}: {own}") from None
        if self.kind is float and type(value) is int:
            value = float(value)
        if self.kind is str and type(value) in (int, float):  # as where a flag takes auto or a number
            value = str(value)
        if type(value) is not self.kind:
            raise UsageError(f"{self.flag}: {value!r} is not {_KINDS[self.kind]}")
        check_value(self.flag, value, self.described)
        return value

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return rv.split(os.pathsep) if self.described.metavar == "PATH" else rv.split("\n")


_KINDS = {int: "a whole number", float: "a number", str: "text"}


class SectionedOption(click.Option):
    """An option under a heading of `--help`, with its range beside its default."""

    def __init__(self, *args: Any, section: str, range_: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section, self.range = section, range_

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if self.range:
            extra["range"] = self.range
        return extra

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from genkit.cli.completion import by_metavar

        return by_metavar(ctx, self, incomplete)


class SectionedCommand(click.Command):
    """A command whose `--help` has sections, and examples at its end."""

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", _GENERAL), []).append(record)
        general = {_GENERAL: sections.pop(_GENERAL)}
        for section, records in (sections | general).items():
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nExamples:\n")
        for line in self.examples.strip().splitlines():
            formatter.write(f"  {line}\n" if line else "\n")


def option(*names: str, section: str, **kwargs: Any) -> Decorator:
    """`click.option` under a heading."""
    return click.option(*names, cls=SectionedOption, section=section, **kwargs)


def config_options(cls: type[Config], *, skip: Sequence[str] = ()) -> Decorator:
    """One option for each field that `cls` describes."""

    def decorate(function: Any) -> Any:
        for field, described in reversed([*options(cls)]):
            if field.name not in skip:
                function = _field_option(cls, field, described)(function)
        return function

    return decorate


def _field_option(cls: type[Config], field: Field[Any], described: Option) -> Decorator:
    flag, kind, default = flag_name(field), value_type(cls, field), field.default
    if kind is bool:
        names = f"{flag}/{described.off or '--no-' + flag[2:]}"
        return option(
            names, field.name, section=described.section, default=default, help=described.help, show_default=True
        )
    top = described.max if described.max is not None else described.below
    narrow = top is not None and top <= 10_000  # a wider range says nothing to a reader
    metavar = described.metavar or ("|".join(described.choices) if described.choices else None)
    return option(
        *filter(None, (described.short, flag)),
        field.name,
        section=described.section,
        type=Value(kind, described, flag),
        default=default,
        multiple=described.multiple,
        metavar=metavar,
        help=described.help,
        show_default=default not in (None, (), "", MISSING),
        range_=range_text(described) if narrow else None,
    )


def chosen(ctx: click.Context, cls: type[C], **more: Any) -> tuple[C, frozenset[str]]:
    """The config that the command line, the environment and `--config` add up to.

    Returns:
        the config, and the names of the fields that the user set in any of the
        three; what is not among them may come from the model.
    """
    names = {f.name for f in fields(cls)} & ctx.params.keys()
    set_by_user = frozenset(n for n in names if ctx.get_parameter_source(n) not in _DEFAULTED)
    return cls(**{n: ctx.params[n] for n in names} | more), set_by_user


_DEFAULTED = (ParameterSource.DEFAULT, None)


# What every command takes.


def command(name: str, examples: str, **kwargs: Any) -> Decorator:
    """A command with sections, examples and the general flags."""

    def decorate(function: Any) -> Any:
        for add in reversed(_general_options()):
            function = add(function)
        return click.command(name, cls=SectionedCommand, examples=examples, **kwargs)(function)

    return decorate


def _general_options() -> list[Decorator]:
    def switch(field: str) -> Any:
        def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
            if ctx.get_parameter_source(param.name or "") not in _DEFAULTED:
                setattr(ctx.ensure_object(Terminal), field, value)

        return callback

    common: dict[str, Any] = {"section": _GENERAL, "expose_value": False, "is_eager": True}
    return [
        option(
            "--config",
            type=click.Path(),
            metavar="FILE",
            callback=read_config,
            help="TOML file with a table of options for each command, such as [text].",
            **common,
        ),
        option("--json", is_flag=True, callback=switch("json"), help="Print results and errors as JSON.", **common),
        option("-q", "--quiet", is_flag=True, callback=switch("quiet"), help="Say nothing but errors.", **common),
        option(
            "-v",
            "--verbose",
            is_flag=True,
            callback=switch("verbose"),
            help="Say what was chosen, and how long it took.",
            **common,
        ),
        option("--debug", is_flag=True, callback=switch("debug"), help="Show tracebacks.", **common),
        option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            metavar="auto|always|never",
            callback=switch("color"),
            help="Colour on standard error. NO_COLOR and FORCE_COLOR count too.",
            show_default=True,
            **common,
        ),
    ]


def model_option(default: str) -> Decorator:
    return option(
        "-m",
        "--model",
        section="Model",
        default=default,
        metavar="MODEL",
        help="A bundled model's name, a run or model directory, a .safetensors or .gguf file, or hf:org/name.",
        show_default=True,
    )


def runtime_options(task: Task, *, also: tuple[str, ...] = ()) -> Decorator:
    """`--device`, `--precision` and `--engine`; `runtime.device.resolve` judges the values.

    Args:
        also: engines of another task that the command turns into.
    """

    def decorate(function: Any) -> Any:
        for flag, values, text in (
            ("--engine", "|".join(ENGINES[task] + also), "What runs the model."),
            ("--precision", "|".join(PRECISIONS), "Arithmetic; auto goes by the device."),
            ("--device", "auto|cpu|cuda[:N]|mps|xpu", "Where to run; auto takes the fastest."),
        ):
            add = option(flag, section="Device", default="auto", metavar=values, help=text, show_default=True)
            function = add(function)
        return function

    return decorate


def seed_option(function: Any) -> Any:
    """`--seed` of the sampling commands."""
    rule = Option(
        help="Sample i draws from seed + i. Default: a random one, told on standard error.", min=0, max=LARGEST_SEED
    )
    return option("--seed", section="Sampling", type=Value(int, rule, "--seed"), metavar="INT", help=rule.help)(
        function
    )


def read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Callback of `--config`: the file's table for this command becomes the defaults.

    Raises:
        InputError: no such file, or not TOML.
        UsageError: an unknown table or key, or a value that its option refuses.
    """
    if path is None:
        return
    import difflib

    from genkit.cli import COMMANDS

    tables = _load_toml(path)
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {key!r} stands outside a table", f"put it under [{ctx.info_name}]")
        if key not in COMMANDS:
            raise UsageError(f"{path}: no command has the name [{key}]", suggest(key, COMMANDS))
    known = {p.name: p for p in ctx.command.params if isinstance(p, click.Option) and p.name != param.name}
    defaults = {}
    for key, value in tables.get(ctx.info_name or "", {}).items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, [n for n in known if n], n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {ctx.command_path} --help"
            raise UsageError(f"{path}: [{ctx.info_name}] has no option {key}", hint)
        defaults[name] = _checked(path, key, value, known[name], ctx)
    ctx.default_map = defaults


def _checked(path: str, key: str, value: Any, param: click.Option, ctx: click.Context) -> Any:
    if isinstance(value, list) != param.multiple or isinstance(value, bool) != param.is_flag:
        kind = "a list" if param.multiple else "true or false" if param.is_flag else "a single value"
        raise UsageError(f"{path}: {key} = {value!r} is not {kind}")
    try:
        return param.type_cast_value(ctx, value)
    except (UsageError, click.UsageError) as error:
        message = error.message if isinstance(error, UsageError) else error.format_message()
        raise UsageError(f"{path}: {message}", getattr(error, "hint", None)) from None


def _load_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
