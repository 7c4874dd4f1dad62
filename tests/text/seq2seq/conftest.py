"""Tiny encoder-decoders that read and write letters, and pairs to learn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SPECIALS = {
    "t5": ["<pad>", "</s>", "<unk>"],
    "bart": ["<s>", "<pad>", "</s>", "<unk>"],
    "marian": ["</s>", "<unk>", "<pad>"],
}


@pytest.fixture(scope="session")
def seq2seq_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`seq2seq_model("t5")`: a directory as `transformers` saves it, made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            from genkit.text.models.hub import quiet_transformers

            made[kind] = tmp_path_factory.mktemp(kind)
            with quiet_transformers():
                _save(kind, made[kind])
        return made[kind]

    return make


def _save(kind: str, folder: Path) -> None:
    import tokenizers
    import torch
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors

    vocab = {token: place for place, token in enumerate([*SPECIALS[kind], "\u2581", *"abcdefghijklmnopqrstuvwxyz"])}
    letters = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    begins = [("<s>", 0)] if kind == "bart" else []
    letters.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if kind == "bart" else "$A </s>", special_tokens=[("</s>", vocab["</s>"]), *begins]
    )
    ids: dict[str, Any] = {"pad_token_id": vocab["<pad>"], "eos_token_id": vocab["</s>"], "vocab_size": len(vocab)}
    torch.manual_seed(0)
    if kind == "t5":
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0, **ids
            )
        )
    else:
        of_config, of_model = {
            "bart": (transformers.BartConfig, transformers.BartForConditionalGeneration),
            "marian": (transformers.MarianConfig, transformers.MarianMTModel),
        }[kind]
        model = of_model(
            of_config(
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=24,
                bos_token_id=0,
                decoder_start_token_id=vocab["</s>" if kind == "bart" else "<pad>"],
                **ids,
            )
        )
    begin = {"bos_token": "<s>"} if kind == "bart" else {}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **begin
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def words() -> list[str]:
    """200 different words of two to five letters."""
    rng = random.Random(0)
    return sorted({"".join(rng.choices("abcdefgh", k=rng.randint(2, 5))) for _ in range(260)})[:200]


@pytest.fixture
def pairs_file(tmp_path: Path, words: list[str]) -> Path:
    """Words and what they are backwards."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"source": word, "target": word[::-1]}) + "\n" for word in words))
    return path
