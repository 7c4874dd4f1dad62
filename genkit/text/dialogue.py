"""Conversations that wait for an answer: how a model is asked, and how its answer ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genkit.errors import InputError
from genkit.files import read_json
from genkit.library import CONFIG, GENERATION
from genkit.text.chat import TEMPLATE, ChatTemplate, Message
from genkit.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as its model is asked to go on with it.

    Attributes:
        ids: its tokens, up to where the answer begins.
        ends: tokens that end the answer besides the model's own end of text.
        stops: strings that do.
    """

    ids: tuple[int, ...]
    ends: frozenset[int]
    stops: tuple[str, ...]


class ChatForm:
    """How a model is talked to: by the template of its tokenizer, or by headings of plain text.

    Args:
        folder: of the model, whose end-of-text tokens count too.

    Attributes:
        own: whether the tokenizer has a template.

    Raises:
        InputError: the template is not valid.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        self.own = tokenizer.chat_template is not None
        self._tokenizer = tokenizer
        self._template = ChatTemplate(
            tokenizer.chat_template or TEMPLATE, specials=tokenizer.specials, bos=tokenizer.bos, eos=tokenizer.eos
        )
        marks, self._stops = self._template.endings()
        named = tokenizer.encode_rendered(marks)
        self._ends = frozenset(_end_tokens(folder)) | {ids[0] for ids, _ in named if len(ids) == 1}

    def prompt(self, messages: Sequence[Message], where: str) -> ChatPrompt:
        """What the model is given, so that it answers.

        Args:
            where: the conversation's name in messages.

        Raises:
            InputError: the template refuses it, or a content spells out a special token.
        """
        [(ids, _)] = self._tokenizer.encode_rendered([self._template.prompt(messages, where)])
        return ChatPrompt(tuple(ids), self._ends, self._stops)

    def clean(self, answer: str) -> str:
        """What the model said, as it is shown to it again: no name of a special token is in it."""
        return self._template.clean(answer).strip()


class Dialogue:
    """A conversation on its way.

    Args:
        context: tokens that the model sees, the answer's included.
        system: what the model is told before all else.

    Attributes:
        messages: all of it, in order.
        forgotten: how many of the oldest messages, behind the system's, the model is no longer shown.
    """

    def __init__(self, form: ChatForm, context: int, system: str | None = None) -> None:
        self._form, self._context = form, context
        self.messages: list[Message] = []
        self.forgotten = 0
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Begin anew."""
        self.messages = [{"role": "system", "content": system}] if system else []
        self.forgotten = 0

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None

    def ask(self, question: str, room: int) -> ChatPrompt:
        """Add what the user says; what the model is given.

        The oldest turns are left out until `room` tokens are free for the answer, or a
        quarter of the context, if that is less; never the system's message.

        Raises:
            InputError: the question alone does not fit, or the template refuses the
                conversation; it is then as it was before.
        """
        self.messages.append({"role": "user", "content": question})
        first = 1 if self.system is not None else 0
        most = self._context - min(room, self._context // 4)
        forgotten = self.forgotten
        try:
            while True:
                shown = [*self.messages[:first], *self.messages[first + forgotten :]]
                prompt = self._form.prompt(shown, "the conversation")
                if len(prompt.ids) <= most:
                    break
                if len(shown) <= first + 1:
                    raise InputError(
                        f"the question takes {len(prompt.ids):,} tokens, and the model's context of "
                        f"{self._context:,} leaves {most:,}",
                        "ask a shorter one, or lower --max-new-tokens",
                    )
                forgotten += next(n for n in range(1, len(shown)) if shown[first + n]["role"] == "user")
        except BaseException:
            self.messages.pop()
            raise
        self.forgotten = forgotten
        return prompt

    def answer(self, text: str) -> None:
        """Add what the model said; a question without an answer is taken back."""
        if text.strip():
            self.messages.append({"role": "assistant", "content": self._form.clean(text)})
        else:
            self.messages.pop()


def _end_tokens(folder: Path) -> Iterable[int]:
    """The end-of-text tokens that a model directory names."""
    for name in (CONFIG, GENERATION):
        held = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        yield from (id for id in (held if isinstance(held, list) else [held]) if type(id) is int)
