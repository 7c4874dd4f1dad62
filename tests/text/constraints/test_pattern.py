"""Regular expressions and schemas as grammars; that llama.cpp obeys them is tested with the engine."""

from __future__ import annotations

import pytest

from genkit.errors import UsageError
from genkit.text.constraints.pattern import expression, intersect, merge, regex_to_gbnf, without
from genkit.text.constraints.schema import schema_to_gbnf


def test_sets_of_code_points() -> None:
    assert merge([(5, 9), (1, 3), (4, 4), (20, 30), (25, 26)]) == [(1, 9), (20, 30)]
    assert without([(1, 10), (20, 30)], [(0, 2), (5, 5), (9, 22), (30, 40)]) == [(3, 4), (6, 8), (23, 29)]
    assert intersect([(1, 10), (20, 30)], [(5, 25)]) == [(5, 10), (20, 25)]


@pytest.mark.parametrize(
    ("pattern", "grammar"),
    [
        ("ab", "[\\x61] [\\x62]"),
        ("a|b?", "([\\x61] | ([\\x62]){0,1})"),
        ("^[a-c]+$", "([\\x61-\\x63]){1,}"),
        (r"\d{2,3}", "([\\x30-\\x39]){2,3}"),
        ("", '""'),
    ],
)
def test_expressions(pattern: str, grammar: str) -> None:
    assert expression(pattern) == grammar
    assert regex_to_gbnf(pattern) == f"root ::= {grammar}"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "not a regular expression"),
        ("a(?=b)", "look-around"),
        (r"(a)\1", "back-references"),
        ("(?i)a", "flags"),
        ("a{2,5000}", "repetitions"),
        ("a^b", "anchors"),
        ("[^\\x00-\U0010ffff]", "without characters"),
        ("(?>a|ab)", "atomic"),
    ],
)
def test_what_no_grammar_can_say_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        regex_to_gbnf(pattern)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not JSON"),
        ("false", "allows nothing"),
        ('{"type": "frob"}', "frob"),
        ('{"type": "integer", "multipleOf": 3}', "multipleOf"),
        ('{"type": "string", "format": "date"}', "format"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"$ref": "http://a/b"}', "within the schema"),
        ('{"$ref": "#/$defs/a"}', "not in the schema"),
        ('{"type": "array", "minItems": 3, "maxItems": 2}', "more items"),
        ('{"type": "string", "enum": [1]}', "enum"),
        ('{"type": "string", "pattern": "(?=a)"}', "look-around"),
        ("[" * 100_000, "not JSON"),
        ('{"type":"array","items":' * 5000 + "true" + "}" * 5000, "JSON|nested"),
    ],
)
def test_schemas_that_cannot_be_enforced_are_refused(schema: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        schema_to_gbnf(schema)
