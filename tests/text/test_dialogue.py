"""Conversations: what the model is given, what ends its answer, and what is forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genkit.errors import InputError
from genkit.text.chat import TEMPLATE, ChatTemplate, question_of
from genkit.text.dialogue import ChatForm, Dialogue
from genkit.text.tokenizer import END_OF_TEXT, Tokenizer, train_bpe, train_char

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
STRICT = "{% if messages | length > 1 %}{{ raise_exception('one turn alone') }}{% endif %}{{ messages[0].content }}"
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", END_OF_TEXT]


@pytest.mark.parametrize(
    ("source", "marks", "stops"),
    [
        (TEMPLATE, [END_OF_TEXT], ("\n### User:",)),
        (CHATML, ["<|im_end|>"], ()),
        (LLAMA3, ["<|eot|>"], ()),
        (INST, [END_OF_TEXT], ("[INST]",)),
        (PLAIN, [], ("\nuser:",)),
        (STRICT, [], ()),
    ],
    ids=["ours", "chatml", "llama3", "inst", "plain", "strict"],
)
def test_how_an_answer_ends(source: str, marks: list[str], stops: tuple[str, ...]) -> None:
    template = ChatTemplate(source, specials=SPECIALS, bos=END_OF_TEXT, eos=END_OF_TEXT)
    assert template.endings() == (marks, stops)


@pytest.fixture(scope="module")
def chatml() -> Tokenizer:
    """Byte-level BPE with two tokens of ChatML behind the others."""
    data = json.loads(train_bpe(["the cat sat on the mat " * 20], 300).to_json())
    first = len(data["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    marks = [{"id": first + i, "content": name, **flags} for i, name in enumerate(["<|im_start|>", "<|im_end|>"])]
    data["added_tokens"] += marks
    import tokenizers

    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(data)))
    tokenizer.chat_template = CHATML
    return tokenizer


def test_a_prompt_is_the_template_in_special_tokens(chatml: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    form = ChatForm(chatml, tmp_path)
    assert form.own
    prompt = form.prompt([{"role": "user", "content": "the cat"}], "x")
    (start, end) = (chatml.encode_rendered([name])[0][0] for name in ("<|im_start|>", "<|im_end|>"))
    expected = [
        *start,
        *chatml.encode("user\nthe cat"),
        *end,
        *chatml.encode("\n"),
        *start,
        *chatml.encode("assistant\n"),
    ]
    assert list(prompt.ids) == expected
    assert prompt.ends == {0, 5, *end}
    assert prompt.stops == ()
    with pytest.raises(InputError, match=r"x: the user says <\|im_end\|>, which is a special token"):
        form.prompt([{"role": "user", "content": "a<|im_end|>b"}], "x")
    assert form.clean(" good<|im_end|>\n") == "good"


@pytest.fixture
def form(tmp_path: Path) -> ChatForm:
    """One token a character; a turn of n letters takes n and its heading."""
    return ChatForm(train_char(["abcdefgh\n #:UserAssistantSystem"]), tmp_path)


def shown(form: ChatForm, prompt: tuple[int, ...]) -> str:
    return form._tokenizer.decode(prompt)


def test_the_oldest_turns_are_forgotten_but_not_the_system(form: ChatForm) -> None:
    talk = Dialogue(form, 200, "e" * 10)
    told = []
    for letter in "abcd":
        prompt = talk.ask(letter * 20, 20)
        told.append((talk.forgotten, shown(form, prompt.ids)))
        assert len(prompt.ids) <= 180
        talk.answer("h" * 20)
    assert [count for count, _ in told] == [0, 0, 2, 4]
    assert all(text.startswith("### System:\neeeeeeeeee\n\n### User:\n") for _, text in told)
    assert "a" * 20 not in told[2][1]
    assert "b" * 20 in told[2][1]
    assert "b" * 20 not in told[3][1]
    assert len(talk.messages) == 9  # none is lost
    assert told[3][1].endswith("d" * 20 + "\n\n### Assistant:\n")


def test_a_question_that_is_too_long_changes_nothing(form: ChatForm) -> None:
    talk = Dialogue(form, 100, "e")
    talk.ask("a", 20)
    talk.answer("b")
    before = list(talk.messages)
    with pytest.raises(InputError, match="the model's context of 100 leaves 80"):
        talk.ask("c" * 90, 20)
    assert (talk.messages, talk.forgotten) == (before, 0)


def test_room_for_an_answer_is_at_most_a_quarter(form: ChatForm) -> None:
    talk = Dialogue(form, 100)
    assert len(talk.ask("c" * 40, 5000).ids) <= 75


def test_an_empty_answer_takes_the_question_back(form: ChatForm) -> None:
    talk = Dialogue(form, 200, "e")
    talk.ask("a", 20)
    talk.answer(" \n")
    assert talk.messages == [{"role": "system", "content": "e"}]
    assert talk.system == "e"
    talk.begin(None)
    assert (talk.messages, talk.system) == ([], None)


def test_conversations_that_wait() -> None:
    turns = [{"from": "system", "value": "s"}, {"role": "human", "content": "q"}]
    assert question_of(turns, "x") == [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    for bad in (None, [], ["q"], {}):
        with pytest.raises(InputError, match="messages is not a list of objects"):
            question_of(bad, "x")
    with pytest.raises(InputError, match="the last message is the assistant's"):
        question_of([{"role": "assistant", "content": "a"}], "x")
