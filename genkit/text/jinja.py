"""Chat templates, compiled as `transformers` compiles them: sandboxed Jinja."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from genkit.errors import InputError


class Render(Protocol):
    """Messages to text, perhaps with what comes before an answer at its end."""

    def __call__(self, messages: Sequence[dict[str, str]], where: str, *, prompt: bool = False) -> str: ...


def compile_template(source: str, tokens: dict[str, str]) -> Render:
    """A function from messages to text.

    Args:
        tokens: names of special tokens that the template may use, and their text.

    Raises:
        InputError: not a template, or there is no jinja2; and the function, with `where`
            in the message, when the template refuses what it is given.
    """
    try:
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise InputError("conversations need the jinja2 package", "pip install jinja2") from error

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` says what the assistant wrote; here it only needs to parse."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form))
    try:
        template = environment.from_string(source)
    except (jinja2.TemplateError, SyntaxError, RecursionError) as error:  # or nested too deeply for Python
        raise InputError(f"the tokenizer's chat template is not valid Jinja: {error}") from error

    def render(messages: Sequence[dict[str, str]], where: str, *, prompt: bool = False) -> str:
        try:
            return template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **tokens
            )
        except Exception as error:  # whatever its expressions come to
            raise InputError(f"{where}: the chat template refuses the conversation: {error}") from error

    return render


def _to_json(value: Any, **options: Any) -> str:
    """Unlike Jinja's own filter, without escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, **{k: v for k, v in options.items() if k != "ensure_ascii"})
