"""What `genkit chat` and `genkit text --chat` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genkit import library
from genkit.cli.options import option
from genkit.cli.terminal import Terminal
from genkit.errors import InputError

if TYPE_CHECKING:
    from genkit.pipeline import TextPipeline
    from genkit.text.dialogue import ChatForm


def chat_form(pipeline: TextPipeline, terminal: Terminal, model: str) -> ChatForm:
    """How the model is talked to.

    Raises:
        InputError: it is a file that tokenizes itself, or an encoder-decoder, or its template is not valid.
    """
    from genkit.text.dialogue import ChatForm

    if pipeline.tokenizer is None:
        raise InputError(f"{model}: a .gguf file is not talked to", "name the model directory that it was made from")
    if library.family(pipeline.path) == "seq2seq":
        raise InputError(f"{model} is a sequence-to-sequence model and holds no conversation", "genkit text runs it")
    form = ChatForm(pipeline.tokenizer, pipeline.path)
    if not form.own:
        terminal.note(
            f"{model} has no chat template and may not know how to answer; it sees ### User: and ### Assistant:"
        )
    return form


def chat_options(function: Any) -> Any:
    """`--chat` and `--system` of `genkit text`."""
    system = option("--system", section="Chat", metavar="TEXT", help="What the model is told before; implies --chat.")
    chat = option("--chat", section="Chat", is_flag=True, help="PROMPT is a question; write the model's answer.")
    return chat(system(function))


def said(question: str, system: str | None) -> list[dict[str, str]]:
    """A conversation of one question."""
    told = [] if system is None else [{"role": "system", "content": system}]
    return [*told, {"role": "user", "content": question}]
