"""JSON schemas as GBNF, the grammars of llama.cpp.

What the grammar writes is valid under the schema. It does not write everything that
is: members come in the schema's order, and members it does not name are left out. A
keyword that is not enforced is refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

from genkit.errors import UsageError
from genkit.text.constraints.numerals import decimal, whole
from genkit.text.constraints.pattern import expression, literal

_ANNOTATIONS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "$schema", "$id", "$comment", "$defs", "definitions",
}  # fmt: skip
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_KEYWORDS: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "number": _BOUNDS, "integer": _BOUNDS, "boolean": set(), "null": set(),
}  # fmt: skip
_LIMIT = 1000

# numbers stay within what a double holds; escapes leave half surrogate pairs out
_BASE = r"""
space ::= " "?
char ::= [^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cefA-CEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))
string ::= "\"" char* "\""
unsigned ::= "0" | [1-9] [0-9]{0,14}
integer ::= "-"? unsigned
number ::= "-"? fraction
fraction ::= unsigned ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
member ::= string ":" space value
object ::= "{" space (member ("," space member)*)? space "}"
array ::= "[" space (value ("," space value)*)? space "]"
"""


def schema_to_gbnf(text: str) -> str:
    """A grammar of JSON that is valid under the schema `text`.

    Raises:
        UsageError: not JSON, not a schema, or one with a keyword that is not enforced.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--json-schema is not JSON: {error}") from error
    compiler = _Compiler(schema)
    try:
        root = compiler.rule(schema, "#")
    except RecursionError:
        raise UsageError("--json-schema is nested too deeply") from None
    return f"root ::= {root}\n" + "".join(f"{name} ::= {body}\n" for name, body in compiler.rules.items()) + _BASE


class _Compiler:
    """Schemas to the right sides of rules; those that are referred to get a rule each."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.rules: dict[str, str] = {}
        self.names: dict[str, str] = {}

    def rule(self, schema: Any, where: str) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _refuse(where, f"{json.dumps(schema)} allows nothing or is no schema")
        kinds = schema.keys() - _ANNOTATIONS
        for alone, write in (
            ("$ref", self.reference),
            ("enum", self.enum),
            ("const", self.enum),
            ("anyOf", self.any_of),
        ):
            if alone in kinds:
                kinds -= {alone, "type"} if alone in ("enum", "const") else {alone}
                if kinds:
                    raise _refuse(where, f"{alone} beside {', '.join(sorted(kinds))}")
                return write(schema, where)
        types = schema.get("type", [name for name, own in _KEYWORDS.items() if own & kinds][:1] or list(_KEYWORDS))
        types = [types] if isinstance(types, str) else types
        if not isinstance(types, list) or not types or not all(t in _KEYWORDS for t in types):
            raise _refuse(where, f"type {json.dumps(types)}")
        known = set().union(*(_KEYWORDS[t] for t in types)) | {"type"}
        if unknown := kinds - known:
            raise _refuse(where, ", ".join(sorted(unknown)))
        if "type" not in kinds and not kinds:
            return "value"
        return _either([getattr(self, f"_{kind}")(schema, where) for kind in types])

    def reference(self, schema: dict[str, Any], where: str) -> str:
        target = schema["$ref"]
        if target not in self.names:
            found = self.root
            for part in self._path(target, where):
                found = found.get(part) if isinstance(found, dict) else None
            if found is None:
                raise _refuse(where, f"$ref {target!r}, which is not in the schema")
            self.names[target] = f"ref-{len(self.names)}"
            self.rules[self.names[target]] = self.rule(found, target)
        return self.names[target]

    def _path(self, target: Any, where: str) -> list[str]:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise _refuse(where, f"$ref {target!r}, as only those within the schema are followed")
        return [part.replace("~1", "/").replace("~0", "~") for part in target.split("/")[1:]]

    def enum(self, schema: dict[str, Any], where: str) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        types = schema.get("type")
        types = [types] if isinstance(types, str) else types
        if not isinstance(values, list) or not values:
            raise _refuse(where, "enum without values")
        kept = [v for v in values if types is None or any(_is(v, t) for t in types)]
        if not kept:
            raise _refuse(where, "no value of enum is of its type")
        return _either([literal(json.dumps(v, ensure_ascii=False)) for v in kept])

    def any_of(self, schema: dict[str, Any], where: str) -> str:
        if not isinstance(schema["anyOf"], list) or not schema["anyOf"]:
            raise _refuse(where, "anyOf without schemas")
        return _either([self.rule(s, f"{where}/anyOf/{i}") for i, s in enumerate(schema["anyOf"])])

    def _object(self, schema: dict[str, Any], where: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _refuse(where, "properties or required of another type")
        members = {name: self.rule(s, f"{where}/properties/{name}") for name, s in properties.items()
                   if s is not False or name in required}  # fmt: skip
        for name in required:
            if name not in members:
                members[name] = self.rule(more, f"{where}/required/{name}")
        if not members:
            if more is False:
                return '"{" space "}"'
            pair = f'string ":" space {self.rule(more, where + "/additionalProperties")}'
            return f'"{{" space ({pair} ("," space {pair})*)? space "}}"'
        pairs = [
            (f'{literal(json.dumps(n, ensure_ascii=False))} ":" space {r}', n in required) for n, r in members.items()
        ]
        return f'"{{" space {self._members(pairs)} space "}}"'

    def _members(self, pairs: list[tuple[str, bool]]) -> str:
        """Pairs in order, the optional ones there or not, with commas between; a rule for each rest."""
        rest, first = '""', '""'  # what follows when a pair was written already, and when none was
        for pair, required in reversed(pairs):
            name = f"rest-{len(self.rules)}"
            self.rules[name] = rest
            with_pair = f"{pair} {name}"
            begin = f"start-{len(self.rules)}"
            self.rules[begin] = first
            first = with_pair if required else f"({with_pair} | {begin})"
            rest = f'"," space {with_pair}' if required else f'("," space {with_pair} | {name})'
        return first

    def _array(self, schema: dict[str, Any], where: str) -> str:
        prefix, low, high = schema.get("prefixItems", []), schema.get("minItems", 0), schema.get("maxItems")
        if not isinstance(prefix, list) or not _is_size(low) or not (high is None or _is_size(high)):
            raise _refuse(where, "sizes or items of another type")
        rules = [self.rule(s, f"{where}/prefixItems/{i}") for i, s in enumerate(prefix)]
        more = schema.get("items", True)
        if more is False:
            high = len(rules) if high is None else min(high, len(rules))
        item = "" if more is False else self.rule(more, f"{where}/items")
        rules = (rules + [item] * (low - len(rules)))[:high]
        if len(rules) < low:
            raise _refuse(where, "more items than it allows")
        body = ""
        if high is None or high > len(
            rules
        ):  # as many items more as are allowed, the first without a comma if it leads
            left = "" if high is None else high - len(rules)
            body = f'("," space {item}){{0,{left}}}'
            if not rules:
                body = f'({item} ("," space {item}){{0,{"" if high is None else high - 1}}})?'
        for i in reversed(range(len(rules))):
            body = f'"," space {rules[i]} {body}' if i else f"{rules[i]} {body}"
            body = body if i < low else f"({body})?"
        return f'"[" space {body} space "]"'

    def _string(self, schema: dict[str, Any], where: str) -> str:
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if not _is_size(low) or not (high is None or _is_size(high)):
            raise _refuse(where, "lengths that are no sizes")
        if "pattern" in schema:
            if low or high is not None or not isinstance(schema["pattern"], str):
                raise _refuse(where, "pattern beside lengths")
            return f'"\\"" {expression(schema["pattern"], quoted=True, search=True)} "\\""'
        return f'"\\"" char{{{low},{"" if high is None else high}}} "\\""'

    def _number(self, schema: dict[str, Any], where: str) -> str:
        if not _BOUNDS & schema.keys():
            return "number"
        low, high = (self._bound(schema, where, side) for side in ("Minimum", "Maximum"))
        for value, _ in (low, high):
            if value is not None and (value != int(value) or abs(value) >= 10**9):
                raise _refuse(where, f"the bound {value} of numbers, as it is not whole or has over 9 digits,")
        found = decimal(*(v if v is None else int(v) for v, _ in (low, high)), above=low[1], below=high[1])
        return found or self._empty(where)

    def _integer(self, schema: dict[str, Any], where: str) -> str:
        if not _BOUNDS & schema.keys():
            return "integer"
        (low, above), (high, below) = (self._bound(schema, where, side) for side in ("Minimum", "Maximum"))
        least = low if low is None else math.floor(low) + 1 if above else math.ceil(low)
        most = high if high is None else math.ceil(high) - 1 if below else math.floor(high)
        return whole(least, most) or self._empty(where)

    def _empty(self, where: str) -> str:
        raise _refuse(where, "a range without numbers")

    def _bound(self, schema: dict[str, Any], where: str, side: str) -> tuple[int | float | None, bool]:
        """The tighter of the bounds on one side, and whether it is itself out."""
        found = [(schema[key], key.startswith("e")) for key in (side.lower(), f"exclusive{side}") if key in schema]
        for value, _ in found:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 10**15:
                raise _refuse(where, f"the bound {json.dumps(value)}")
        if not found:
            return None, False
        return (max if side == "Minimum" else min)(found, key=lambda b: (b[0], b[1] == (side == "Minimum")))

    def _boolean(self, schema: dict[str, Any], where: str) -> str:
        return "boolean"

    def _null(self, schema: dict[str, Any], where: str) -> str:
        return "null"


def _either(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else "(" + " | ".join(choices) + ")"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LIMIT


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None)}
    return kind in kinds and isinstance(value, kinds[kind])  # type: ignore[arg-type]


def _refuse(where: str, what: str) -> UsageError:
    return UsageError(f"--json-schema {where}: {what} cannot be enforced", "write it without")
