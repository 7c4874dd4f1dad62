"""What a line of a batch asks for, and which seed is its own.

A line is a prompt, or a JSON object with a `prompt`, an `id`, a `seed` and any setting of
`GenerationConfig` by its name; a JSON string is a prompt too. Instead of a prompt it may
have `messages`, a conversation that waits for an answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol

from genkit.config import LARGEST_SEED, suggest
from genkit.errors import GenkitError, InputError
from genkit.files import decode_utf8, unique_keys
from genkit.text.batches.lines import LONGEST, Line
from genkit.text.chat import Message, question_of
from genkit.text.config import GenerationConfig
from genkit.text.settings import settle

if TYPE_CHECKING:
    from genkit.text.dialogue import ChatPrompt

Form = Literal["text", "jsonl"]
FORMS: tuple[Form, ...] = ("text", "jsonl")
SUFFIXES: dict[str, Form] = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl"}

_SAMPLES = 4096  # seeds a line: the largest n
_PLACES = 1 << 41  # their product is 2**53, up to which every JSON reader keeps a number whole


class Task(NamedTuple):
    """What line `number` asks for: to continue a prompt, or to answer `messages`, which are made `asked`."""

    number: int
    id: str | int
    prompt: str
    config: GenerationConfig
    seed: int
    messages: list[Message] | None = None
    asked: ChatPrompt | None = None


class Asking(Protocol):
    """Makes of a conversation what its model is given; see `dialogue.ChatForm.prompt`."""

    def prompt(self, messages: list[Message], where: str) -> ChatPrompt: ...


class Refused(NamedTuple):
    """Why line `number` cannot be done."""

    number: int
    id: str | int
    error: GenkitError


def line_seed(seed: int, number: int) -> int:
    """The seed of line `number`, from 1, in a batch of `seed`.

    Each line has a range of 4,096 seeds to itself, one for each of its samples, so that no
    two samples of a batch are drawn from the same seed; where the ranges of a batch begin
    is a hash of its seed, so that those of two batches do not meet either.
    """
    begin = int.from_bytes(hashlib.blake2b(seed.to_bytes(8), digest_size=8).digest())
    return (begin + number) % _PLACES * _SAMPLES


def guess_form(first: Line | None) -> Form:
    """What a stream holds, by its first line: JSON if that is an object or a whole string."""
    data = (first.data or b"").strip() if first else b""
    if data.startswith(b"{"):
        return "jsonl"
    try:
        return "jsonl" if data.startswith(b'"') and isinstance(json.loads(data), str) else "text"
    except ValueError:
        return "text"


class LineReader:
    """Makes tasks of lines.

    Args:
        own, recommended: what `settle` takes; a line's settings count as the user's own.
        seed: of the batch.
        asking: gives the model's form of a conversation, when the first one comes.
        chat: a prompt is what a user says, after `system`.
    """

    def __init__(
        self,
        form: Form,
        own: Mapping[str, Any],
        recommended: Mapping[str, Any],
        seed: int,
        *,
        asking: Callable[[], Asking] | None = None,
        chat: bool = False,
        system: str | None = None,
    ) -> None:
        self.form, self.own, self.recommended, self.seed = form, own, recommended, seed
        self._asking, self._chat, self._system = asking, chat, system
        self.config = settle(own, recommended)
        self._ids: set[str | int] = set()

    def read(self, line: Line) -> Task | Refused:
        """What `line` asks for, or why it is refused. Each line is to be read once."""
        called: str | int = line.number
        try:
            if line.data is None:
                raise InputError(f"longer than {LONGEST >> 20} MiB")
            asked = {k: v for k, v in _parse(line.data, self.form).items() if v is not None}
            if self.form == "jsonl":
                called = self._take_id(asked.pop("id", line.number))
            return self._task(line.number, called, asked)
        except GenkitError as error:
            return Refused(line.number, called, error)

    def _take_id(self, value: Any) -> str | int:
        if type(value) not in (str, int):
            raise InputError(f"id {_short(value)} is neither text nor a whole number")
        if value in self._ids:
            raise InputError(f"id {_short(value)} has occurred before", "give each line an id of its own")
        self._ids.add(value)
        return value  # type: ignore[no-any-return]

    def _task(self, number: int, called: str | int, asked: dict[str, Any]) -> Task:
        fields = GenerationConfig.__dataclass_fields__
        if strange := asked.keys() - {"prompt", "messages", "seed"} - fields.keys():
            name = min(strange)
            hint = suggest(name, ["prompt", "messages", "id", "seed", *fields])
            hint = hint or "a line has prompt or messages, id, seed and settings such as top_k"
            raise InputError(f"unknown field {_short(name)}", hint)
        prompt, seed = asked.pop("prompt", None), asked.pop("seed", line_seed(self.seed, number))
        messages = self._messages(asked.pop("messages", None), prompt)
        conversation = None if messages is None else self._conversation(messages)
        if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seed {_short(seed)} is not a whole number from 0 to {LARGEST_SEED}")
        if not asked:
            return Task(number, called, prompt or "", self.config, seed, messages, conversation)
        if isinstance(asked.get("json_schema"), dict):
            asked["json_schema"] = json.dumps(asked["json_schema"], ensure_ascii=False)
        try:
            config = settle({**self.own, **asked}, self.recommended)
            return Task(number, called, prompt or "", config, seed, messages, conversation)
        except OverflowError as error:
            raise InputError(str(error)) from None

    def _messages(self, messages: Any, prompt: Any) -> list[Message] | None:
        """The conversation that a line means; None where it is a prompt to go on with."""
        if messages is not None and prompt is not None:
            raise InputError("a line has a prompt or messages, not both", "leave one of them out")
        if messages is not None:
            said = question_of(messages, "the conversation")
        elif type(prompt) is not str:
            raise InputError("there is no prompt" if prompt is None else f"prompt {_short(prompt)} is not text")
        elif self._chat:
            said = [{"role": "user", "content": prompt}]
        else:
            return None
        system = [] if self._system is None or said[0]["role"] == "system" else [self._system]
        return [*({"role": "system", "content": text} for text in system), *said]

    def _conversation(self, messages: list[Message]) -> ChatPrompt:
        if self._asking is None:
            raise InputError("this model does not take conversations", "give a prompt")
        return self._asking().prompt(messages, "the conversation")


def _parse(data: bytes, form: Form) -> dict[str, Any]:
    text = decode_utf8(data)
    if form == "text":
        return {"prompt": text.removesuffix("\r")}
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except UnicodeEncodeError:
        raise InputError("half a surrogate pair is no character") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from None
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InputError(f"a JSON {type(value).__name__}", "write an object with a prompt, or a string")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
