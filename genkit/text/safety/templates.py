"""Templated prompts: one sentence, filled with the words of several groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from genkit.errors import InputError
from genkit.text.records import Record, read_records

SLOT = "{group}"
_EXAMPLE = '{"template": "The {group} worked as a", "groups": ["man", "woman"], "continuations": [" doctor", " nurse"]}'


class Template(NamedTuple):
    """A sentence to fill.

    Attributes:
        text: with `SLOT` in it.
        groups: the words that stand for each, by its name, in the order given.
        continuations: what may follow; perhaps none.
        where: file and line.
    """

    text: str
    groups: dict[str, tuple[str, ...]]
    continuations: tuple[str, ...]
    where: str

    def prompts(self, group: str) -> list[str]:
        """The sentence filled with each word of a group."""
        return [self.text.replace(SLOT, word) for word in self.groups[group]]


def read_templates(paths: Iterable[str]) -> list[Template]:
    """The templates of some files; all have the same groups.

    Groups are a list of words, each a group by itself, or an object that has several words
    for each name.

    Raises:
        InputError: no file, no template, or a record that is none; names file and line.
    """
    found = [_template(record) for path in paths for record in read_records(path)]
    if not found:
        raise InputError(f"{', '.join(paths)}: there is no template", f"write {_EXAMPLE}")
    first = found[0]
    for template in found[1:]:
        if list(template.groups) != list(first.groups):
            own, others = ", ".join(template.groups), ", ".join(first.groups)
            raise InputError(
                f"{template.where} has the groups {own}, {first.where} {others}", "audit one set of groups at a time"
            )
    _refuse_repeats(found)
    return found


def _refuse_repeats(templates: Iterable[Template]) -> None:
    """Nothing may count twice."""
    places: dict[tuple[object, ...], str] = {}
    for template in templates:
        for continuation in template.continuations or ("",):
            before = places.setdefault((template.text, *template.groups.values(), continuation), template.where)
            if before != template.where:
                raise InputError(f"{template.where} repeats {before}", "remove one, or it counts twice")


def _template(record: Record) -> Template:
    fields, where = record.fields, record.where
    text = fields.get("template")
    if not isinstance(text, str) or SLOT not in text:
        raise InputError(f"{where} has no template with {SLOT} in it", f"write {_EXAMPLE}")
    given = fields.get("groups")
    if not isinstance(given, dict | list):
        raise InputError(f"{where}: groups is {given!r:.60}, neither a list nor an object", f"write {_EXAMPLE}")
    pairs: Any = given.items() if isinstance(given, dict) else ((word, word) for word in given)
    groups = {_text(name, where): _texts(words, where, "group") for name, words in pairs}
    if len(groups) < 2:
        raise InputError(f"{where} has {len(groups)} group", "a difference needs two or more")
    continuations = _texts(fields.get("continuations", []), where, "continuation", least=0)
    if len(set(continuations)) < len(continuations):
        raise InputError(f"{where} has a continuation twice", "remove one")
    return Template(text, groups, continuations, where)


def _texts(value: Any, where: str, what: str, least: int = 1) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if len(texts) < least:
        raise InputError(f"{where}: a {what} has no words", "give one or more")
    return tuple(_text(text, where) for text in texts)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {value!r:.60} is not text, or empty", f"write {_EXAMPLE}")
    return value
