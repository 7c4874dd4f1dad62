"""Records that hold a conversation, and the template that makes text of them.

The text of a conversation is what `transformers`' `apply_chat_template` makes of it.
The loss counts on the answers alone, the mark that ends each one included.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from genkit.errors import InputError
from genkit.text.jinja import Render, compile_template

# For tokenizers without a template of their own. It needs no new tokens, and for models
# that were trained on plain text it reads like a document with headings.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\n\n' }}{% endif %}"
    "{{ '### ' + message['role'] | capitalize + ':\n' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ('\n\n' if messages else '') + '### Assistant:\n' }}{% endif %}"
)
ROLES = ("system", "user", "assistant")
_SHAPES = ({"messages"}, {"conversations"}, {"prompt", "completion"}, {"instruction", "output"})
FIELDS = frozenset({"input"}.union(*_SHAPES))

_SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}
_MARK = "\ufdd1"  # Unicode keeps it for internal use

Span = tuple[int, int]
Message = dict[str, str]


class Conversation(NamedTuple):
    """A whole document.

    Attributes:
        text: as the template renders it, without an end-of-text mark at its end.
        spans: where in `text` the answers are, each with its end mark, in order. One
            that goes beyond the end takes in the end-of-text mark that follows.
    """

    text: str
    spans: tuple[Span, ...]


def is_conversation(fields: Iterable[str]) -> bool:
    """Whether a record with these fields is a conversation, or a question and its answer."""
    names = set(fields)
    return any(names >= fields for fields in _SHAPES)


def messages_of(record: dict[str, Any], where: str) -> list[Message]:
    """The turns of a record: `role` and `content` each.

    It may be `messages` (role, content), `conversations` (from, value), `prompt` and
    `completion`, or `instruction`, perhaps `input`, and `output`.

    Args:
        where: file and line, for messages.

    Raises:
        InputError: not such a record, an unknown role, a content that is not text, or
            a conversation without an answer.
    """
    if (name := next((name for name in ("messages", "conversations") if name in record), None)) is not None:
        turns = record[name]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise InputError(f"{where}: {name} is not a list of objects", 'write [{"role": ..., "content": ...}, ...]')
        messages = [_message(turn, where) for turn in turns]
    elif "prompt" in record and "completion" in record:
        messages = _turns(record, ("prompt",), "completion", where)
    else:
        messages = _turns(record, ("instruction", "input"), "output", where)
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{where}: the conversation has no answer", "every one needs a message of the assistant")
    return messages


def question_of(messages: Any, where: str) -> list[Message]:
    """The turns of a conversation that waits for an answer.

    Raises:
        InputError: not a list of turns, or the last word is not the user's; as `messages_of`.
    """
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise InputError(f"{where}: messages is not a list of objects", 'write [{"role": ..., "content": ...}, ...]')
    turns = [_message(turn, where) for turn in messages]
    if turns[-1]["role"] != "user":
        raise InputError(f"{where}: the last message is the {turns[-1]['role']}'s", "end with one of the user")
    return turns


def _message(turn: dict[str, Any], where: str) -> Message:
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = _SPEAKERS.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise InputError(f"{where}: the role {role!r} is not one of {', '.join(ROLES)}", "leave such messages out")
    if isinstance(content, list):  # OpenAI's list of parts
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(part for part in parts if part) if all(isinstance(part, str) for part in parts) else content
    return {"role": role, "content": _text(content, "content", where)}


def _turns(record: dict[str, Any], asked: Sequence[str], answer: str, where: str) -> list[Message]:
    """A question, joined from the fields that are there, and its answer."""
    given = [_text(record[name], name, where) for name in asked if record.get(name) not in (None, "")]
    question = {"role": "user", "content": "\n\n".join(given)}
    return [question, {"role": "assistant", "content": _text(record[answer], answer, where)}]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {name} is {type(value).__name__}, not a string", "give text alone")
    return value


class ChatTemplate:
    """Renders conversations for training.

    Args:
        source: Jinja, as in a `tokenizer_config.json`.
        specials: the tokens that only the template may write.
        bos, eos: what `bos_token` and `eos_token` stand for in it.
    """

    def __init__(self, source: str, *, specials: Iterable[str], bos: str, eos: str) -> None:
        self.source = source
        self.eos = eos
        self._tokens = {"bos_token": bos, "eos_token": eos}
        ordered = sorted({*specials, eos}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered)))
        self._end_mark = re.compile(rf"\s*(?:{self._special.pattern})")

    @functools.cached_property
    def _render(self) -> Render:
        return compile_template(self.source, self._tokens)

    def conversation(self, record: dict[str, Any], where: str) -> Conversation:
        """The record as text, and where in it the answers are.

        An answer begins where the text leaves what the template gives as the prompt for
        it, and ends with the special token behind its content, if there is one.

        Raises:
            InputError: as `messages_of` and `compile_template`; a special token is spelled
                out in a content; or the template changes what was said.
        """
        messages = messages_of(record, where)
        self._check(messages, where, "take it out of the data")
        whole = self._render(messages, where)
        parts = self._render([_marked(message) for message in messages], where).split(_MARK)
        if len(parts) != len(messages) + 1 or "".join(parts) != whole:
            raise _unclear(where)
        text = whole.rstrip("\n").removesuffix(self.eos)
        spans = []
        stop = 0  # of the content before
        for number, message in enumerate(messages):
            before, stop = stop, stop + len(parts[number])
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:number], where, prompt=True)
            start = _common(whole, prompt)
            if not before <= start <= stop:
                raise _unclear(where)
            mark = self._end_mark.match(whole, stop)
            end = mark.end() if mark else stop
            spans.append((start, end if end < len(text) else len(text) + 1))
        return Conversation(text, tuple(spans))

    def prompt(self, messages: Sequence[Message], where: str) -> str:
        """The conversation up to where the next answer begins.

        Raises:
            InputError: as `compile_template`, or a special token is spelled out in a content.
        """
        self._check(messages, where, "say it another way")
        return self._render(messages, where, prompt=True)

    def clean(self, text: str) -> str:
        """`text` without the names of special tokens."""
        return self._special.sub("", text)

    def endings(self) -> tuple[list[str], tuple[str, ...]]:
        """What ends an answer: the names of special tokens, and strings with which the user's next turn begins.

        A template that takes no such conversation names none.
        """
        turns = [("user", "?"), ("assistant", _MARK), ("user", _MARK)]
        try:
            parts = self._render([{"role": role, "content": said} for role, said in turns], "").split(_MARK)
        except InputError:
            return [], ()
        between = parts[1] if len(parts) == 3 else ""
        marks = self._special.findall(between)
        plain = self._special.split(between)
        heading = next((text for text in plain if text.strip() and text.strip().lower() not in ROLES), "")
        stop = ("\n" if heading[:1] == "\n" else "") + heading.strip()
        return marks[:1], (stop,) if stop else ()

    def _check(self, messages: Sequence[Message], where: str, remedy: str) -> None:
        """Raise InputError for a content that a tokenizer would take for special tokens."""
        for message in messages:
            if (found := self._special.search(message["content"])) is not None:
                raise InputError(
                    f"{where}: the {message['role']} says {found[0]}, which is a special token of the tokenizer", remedy
                )


def _marked(message: Message) -> Message:
    """The message with a mark at the end of its content, where no trimming takes it off."""
    content = message["content"]
    end = len(content.rstrip())
    return {**message, "content": content[:end] + _MARK + content[end:]}


def _common(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    if a.startswith(b):
        return len(b)
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))


def _unclear(where: str) -> InputError:
    return InputError(
        f"{where}: the chat template changes what was said, so that answers cannot be told from the rest",
        "give the model another chat_template in its tokenizer_config.json",
    )
