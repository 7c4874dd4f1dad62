"""Fixtures that several tests share: tiny models, and ways to run the command line."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import onnxruntime themselves report to nobody either

ROOT = Path(__file__).parents[1]
CORPUS = "The cat sat on the mat. The dog ran to the cat. A bird sang in the tree.\n" * 40


@pytest.fixture(autouse=True, scope="session")
def signals() -> None:
    """Tests that run in the background would inherit a SIGINT that is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests make goes into a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("OMP_NUM_THREADS", raising=False)  # torch has read it; llama.cpp would wait in busy loops
        yield


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


def clean_env(**more: str) -> dict[str, str]:
    """The environment without what changes genkit's behaviour."""
    changes = ("GENKIT_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(changes) or k == "GENKIT_CACHE"}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture
def run_genkit(tmp_path: Path) -> Callable[..., Result]:
    """Run `genkit ARGS` as a process in `tmp_path`; standard input is empty unless given."""

    def run(*args: str, input: bytes = b"", env: dict[str, str] | None = None, **more: Any) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "genkit", *args],
            input=input,
            env=clean_env(**(env or {})),
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            cwd=more.pop("cwd", tmp_path),
            **more,
        )
        return Result(done.returncode, done.stdout or b"", done.stderr.decode())

    return run


@pytest.fixture
def start_genkit(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `genkit ARGS` in `tmp_path` and go on; both outputs are pipes of text."""
    with ExitStack() as stack:

        def start(*args: str, **more: Any) -> subprocess.Popen[str]:
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            command = [sys.executable, "-m", "genkit", *args]
            process = subprocess.Popen(command, text=True, cwd=tmp_path, env=clean_env(), **(pipes | more))
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def start_ranks(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Start a script as `count` ranks of a job in `tmp_path`, which spares torchrun's own imports."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *, count: int = 2) -> list[subprocess.Popen[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            command = [sys.executable, "-c", script]
            started.append(subprocess.Popen(command, env=os.environ | shared | own, cwd=tmp_path, text=True, **pipes))
        return started[-count:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def told_by_ranks(start_ranks: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[str]]:
    """What each rank of a script printed; all must succeed."""

    def run(script: str, *, count: int = 2) -> list[str]:
        processes = start_ranks(script, count=count)
        told = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0] * count, told
        return [out for out, _ in told]

    return run


@pytest.fixture
def genkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Result]:
    """Run `genkit ARGS` inside this process, which spares the imports."""
    from genkit.cli import entry

    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - clean_env().keys():
        monkeypatch.delenv(name)

    def run(*args: str, input: bytes | io.BytesIO = b"") -> Result:
        stdin = io.BytesIO(input) if isinstance(input, bytes) else input
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
        capfdbinary.readouterr()
        code = entry(args)
        out, err = capfdbinary.readouterr()
        return Result(code, out, err.decode())

    return run


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: a character GPT with random weights and a context of 64."""
    import torch

    from genkit.files import write_json
    from genkit.text.config import GPTConfig
    from genkit.text.models.gpt import GPT
    from genkit.text.models.store import CONFIG, GENERATION, WEIGHTS, model_files
    from genkit.text.tokenizer import train_char
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "tiny-text"
    folder.mkdir()
    tokenizer = train_char([CORPUS])
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            vocab_size=tokenizer.vocab_size,
            block_size=64,
            n_layer=2,
            n_head=2,
            n_kv_head=1,
            n_embd=32,
            head_dim=16,
            n_inner=64,
            eos_id=tokenizer.eos_id,
        )
    )
    shape, generation, tensors = model_files(model, {"max_new_tokens": 12})
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, shape)
    write_json(folder / GENERATION, generation)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: a DCGAN for 32 pixels with random weights."""
    import torch

    from genkit.files import write_json
    from genkit.image.modelconfig import DCGANConfig
    from genkit.image.models.dcgan import Generator
    from genkit.image.models.store import CONFIG, WEIGHTS
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "tiny-image"
    folder.mkdir()
    torch.manual_seed(0)
    shape = DCGANConfig(size=32, nz=8, ngf=4, ndf=4)
    save_tensors(folder / WEIGHTS, Generator(shape).state_dict())
    write_json(folder / CONFIG, shape.to_dict())
    return folder


@pytest.fixture(scope="session")
def tiny_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: 32 pixels, transparency and three classes, with random weights."""
    import torch

    from genkit.files import write_json
    from genkit.image.modelconfig import PlusConfig
    from genkit.image.models.networks import generator_of
    from genkit.image.models.store import CONFIG, WEIGHTS
    from genkit.training.weights import save_tensors

    folder = tmp_path_factory.mktemp("models") / "tiny-classes"
    folder.mkdir()
    torch.manual_seed(0)
    shape = PlusConfig(size=32, channels=4, nz=8, ngf=4, ndf=4, classes=("apple", "cherry", "pear"))
    generator = generator_of(shape)
    for parameter in generator.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    save_tensors(folder / WEIGHTS, generator.state_dict())
    write_json(folder / CONFIG, shape.to_dict())
    return folder


@pytest.fixture(scope="session")
def hub_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`hub_checkpoint("t5")`: a tiny model with random weights and its tokenizer, as `transformers` saves them.

    Kinds: gpt2, llama, qwen3, gpt_neox, t5, bart, marian, bert, roberta, distilbert. Made once a session.
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            from genkit.text.models.hub import quiet_transformers

            folder = tmp_path_factory.mktemp("hub") / kind
            with quiet_transformers():
                _save_hub(kind, folder)
            made[kind] = folder
        return made[kind]

    return make


def _save_hub(kind: str, folder: Path) -> None:
    import torch
    import transformers

    tokenizer = _marian_tokenizer(folder) if kind == "marian" else _hub_tokenizer(kind)
    named = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **named}
    llama: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    bart: dict[str, Any] = {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    }  # fmt: skip
    bert: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }  # fmt: skip
    t = transformers
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "gpt2": (t.GPT2Config, t.GPT2LMHeadModel, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        "llama": (t.LlamaConfig, t.LlamaForCausalLM, llama),
        "qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM, {**llama, "head_dim": 8}),
        "gpt_neox": (t.GPTNeoXConfig, t.GPTNeoXForCausalLM, {k: v for k, v in llama.items() if "value" not in k}),
        "t5": (
            t.T5Config,
            t.T5ForConditionalGeneration,
            {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
        ),
        "bart": (
            t.BartConfig,
            t.BartForConditionalGeneration,
            {**bart, "decoder_start_token_id": ids["eos_token_id"], "forced_eos_token_id": ids["eos_token_id"]},
        ),
        "marian": (t.MarianConfig, t.MarianMTModel, {**bart, "decoder_start_token_id": ids["pad_token_id"]}),
        "bert": (t.BertConfig, t.BertForMaskedLM, bert),
        "roberta": (t.RobertaConfig, t.RobertaForMaskedLM, {**bert, "max_position_embeddings": 66}),
        "distilbert": (
            t.DistilBertConfig,
            t.DistilBertForMaskedLM,
            {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
        ),
    }
    of_config, of_model, shape = kinds[kind]
    torch.manual_seed(0)
    model = of_model(of_config(**shape, **ids))
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # wide enough that texts differ
            if parameter.ndim > 1 and "rel" not in name:
                parameter.normal_(0, 1.0 if kind == "marian" and "attn" in name else 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _hub_tokenizer(kind: str) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bert = kind in ("bert", "distilbert")
    names = {
        "t5": ["<pad>", "</s>", "<unk>"],
        "bart": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    }.get(kind, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if bert else ["<|endoftext|>"])
    if bert:
        model, trainer = Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer
        model.pre_tokenizer, model.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    else:
        model, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer
        model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = [] if bert else pre_tokenizers.ByteLevel.alphabet()
    learn = trainer(vocab_size=320, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([CORPUS], learn)
    around = {"t5": "$A </s>", "bart": "<s> $A </s>", "roberta": "<s> $A </s>"}.get(kind, "[CLS] $A [SEP]")
    if len(names) > 1:
        pair = around.replace("$A", f"$A:0 {around.split()[-1]} $B:1")
        model.post_processor = processors.TemplateProcessing(
            single=around, pair=pair, special_tokens=[(name, names.index(name)) for name in names]
        )
    if bert:
        roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), names, strict=True))
    elif kind == "t5":
        roles = dict(zip(("pad", "eos", "unk"), names, strict=True))
    elif len(names) > 1:
        roles = dict(zip(("bos", "pad", "eos", "unk", "mask"), names, strict=True))
    else:
        roles = {"bos": names[0], "eos": names[0], "pad": names[0]}
    special = {f"{role}_token": name for role, name in roles.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, model_max_length=64, **special)


def _marian_tokenizer(folder: Path) -> Any:
    """Pieces of sentencepiece for both sides, as Marian models have them."""
    import json

    import sentencepiece
    import transformers

    folder.mkdir(parents=True)
    for side in ("source", "target"):
        with (folder / f"{side}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(CORPUS.splitlines()), model_writer=file, vocab_size=26, minloglevel=2
            )
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "source.spm"))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    vocab = ["</s>", "<unk>", *(name for name in names if name not in ("<s>", "</s>", "<unk>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(vocab)}))
    return transformers.MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"), model_max_length=64
    )
