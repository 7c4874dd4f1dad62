"""The llama.cpp engine against the torch model: greedy tokens, log-probabilities, distributions, grammars."""

from __future__ import annotations

import collections
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genkit.errors import InputError, UsageError
from genkit.files import write_json
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.engines import TokenEvent, TokenRequest, llamaserver
from genkit.text.engines.llamacpp import LlamaCppEngine
from genkit.text.gguf.convert import gguf_view
from genkit.text.models.gpt import GPT
from genkit.text.models.store import CONFIG, WEIGHTS, model_files
from genkit.text.sampling import Past, Rules, process
from genkit.text.tokenizer import Tokenizer, train_bpe, train_char
from genkit.training.weights import save_tensors

TEXT = '0123456789 The cat sat on the mat. {"a": [1, 2]} é ñ 漢字 😀\n'
LOUD = 0.3  # weights of this deviation keep the likeliest tokens apart


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def save(
    folder: Path, *, arch: str = "qwen3", kv: int = 2, tie: bool = True, char: bool = False, C: int = 64
) -> tuple[GPT, Tokenizer]:
    tokenizer = train_char([TEXT]) if char else train_bpe([TEXT * 20], 290)
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            arch=arch, vocab_size=tokenizer.vocab_size, block_size=64, n_layer=2, n_head=4, n_kv_head=kv, n_embd=C,
            head_dim=C // 4, n_inner=96, eos_id=tokenizer.eos_id, tie_embeddings=tie,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * LOUD)
    folder.mkdir()
    shape, _, tensors = model_files(model, {})
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, shape)
    tokenizer.save(folder)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "model"
    save(path)
    return path


@pytest.fixture
def engine(folder: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=1, threads=1)
    yield engine
    engine.close()


def rows(engine: LlamaCppEngine, *requests: TokenRequest) -> list[list[TokenEvent]]:
    found: dict[int, list[TokenEvent]] = collections.defaultdict(list)
    for event in engine.generate(requests):
        found[event.index].append(event)
    return [found[i] for i in range(len(requests))]


def tokens(engine: LlamaCppEngine, prompt: list[int], seed: int = 0, **settings: Any) -> list[int]:
    (row,) = rows(engine, TokenRequest(prompt, GenerationConfig(**settings), seed))
    return [event.token for event in row]


def greedy(model: GPT, prompt: list[int], count: int) -> tuple[list[int], list[float], str]:
    ids, logprobs = list(prompt), []
    with torch.no_grad():
        while len(logprobs) < count and len(ids) < model.config.block_size:
            best = model(torch.tensor([ids]))[0, -1].log_softmax(-1).max(-1)
            ids.append(int(best.indices))
            logprobs.append(float(best.values))
            if ids[-1] == model.config.eos_id:
                return ids[len(prompt) :], logprobs, "eos"
    return ids[len(prompt) :], logprobs, "length"


@pytest.mark.parametrize(
    ("arch", "kv", "tie", "char"),
    [("gpt2", 4, True, False), ("gpt2", 4, False, True), ("llama", 4, True, False), ("llama", 2, False, False),
     ("qwen3", 4, True, False), ("qwen3", 1, False, False), ("qwen3", 2, True, True)],
)  # fmt: skip
def test_greedy_tokens_and_logprobs_are_those_of_the_model(
    arch: str, kv: int, tie: bool, char: bool, tmp_path: Path
) -> None:
    model, _ = save(tmp_path / "m", arch=arch, kv=kv, tie=tie, char=char)
    engine = LlamaCppEngine(gguf_view(tmp_path / "m", "fp32"), threads=1)
    config = GenerationConfig(max_new_tokens=50, temperature=0, logprobs=2)
    prompts = [[1, 2, 3], [5], list(range(3, 33)), list(range(2, 65 - 32)) * 2 + [4]]
    prompts[-1] = prompts[-1][:63]  # room for one
    for prompt in prompts:
        (row,) = rows(engine, TokenRequest(prompt, config, 0))
        expected, logprobs, done = greedy(model, prompt, 50)
        assert [event.token for event in row] == expected
        assert [event.done for event in row] == [None] * (len(row) - 1) + [done]
        # ggml looks GELU up in a table of fp16
        assert [event.logprob for event in row] == pytest.approx(logprobs, abs=1e-2 if arch == "gpt2" else 1e-4)
        assert all(event.top[0] == (event.token, event.logprob) and len(event.top) == 2 for event in row)
    engine.close()


def test_characters_torn_over_tokens_are_reported_token_by_token(engine: LlamaCppEngine) -> None:
    """Random weights write bytes that make no character; not one token is held back."""
    got = tokens(engine, [1], temperature=2.0, top_p=1.0, max_new_tokens=63)
    assert 0 < len(got) <= 63
    assert len(got) == 63 or got[-1] == engine.eos_id


SETTINGS = [
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 5, "top_p": 1.0},
    {"temperature": 1.0, "top_p": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 3.0},
    {"temperature": 1.0, "top_p": 1.0, "typical_p": 0.6},
    {"temperature": 1.2, "top_p": 0.9, "top_k": 20, "min_p": 0.02},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_distribution_is_the_reference_s(settings: dict[str, Any], folder: Path) -> None:
    """Chi-square of 600 first tokens against `process`, at one in a million."""
    from genkit.text.models.store import load_model

    prompt, count = [7, 8, 9, 8], 600
    config = GenerationConfig(max_new_tokens=1, **settings)
    model = load_model(folder).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt]))[:, -1].float()
    expected = process(logits, Rules(config), [Past(prompt, [])]).softmax(-1)[0].double()
    engine = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=8, threads=1)
    drawn = collections.Counter(e.token for e in engine.generate(TokenRequest(prompt, config, s) for s in range(count)))
    engine.close()
    assert all(expected[token] > 0 for token in drawn)
    large = [i for i in range(len(expected)) if expected[i] * count >= 5]
    pairs = [(drawn[i], float(expected[i]) * count) for i in large]
    rest = count - sum(e for _, e in pairs)
    if rest > 5:
        pairs.append((count - sum(o for o, _ in pairs), rest))
    if len(pairs) > 1:
        statistic, df = sum((o - e) ** 2 / e for o, e in pairs), len(pairs) - 1
        # Wilson and Hilferty's normal approximation
        z = ((statistic / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df))
        assert z < 4.75


def test_a_seed_decides_alone(engine: LlamaCppEngine) -> None:
    first = [tokens(engine, [1, 2], seed, max_new_tokens=20) for seed in (0, 1, 2**32 - 1, 2**63, 2**63 + 1)]
    again = [tokens(engine, [1, 2], seed, max_new_tokens=20) for seed in (0, 1, 2**32 - 1, 2**63, 2**63 + 1)]
    assert first == again
    assert first[0] != first[1]
    assert first[3] != first[4]


def test_samples_alone_are_those_of_a_batch_in_fp32(folder: Path, engine: LlamaCppEngine) -> None:
    config = GenerationConfig(max_new_tokens=20)
    requests = [TokenRequest([1 + i % 5] * (1 + i % 7), config, i) for i in range(40)]
    alone = [[e.token for e in row] for row in rows(engine, *requests)]
    batched = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=16, threads=1)
    assert [[e.token for e in row] for row in rows(batched, *requests)] == alone
    batched.close()


def test_rows_that_nobody_watches_are_the_same_rows(engine: LlamaCppEngine) -> None:
    for settings in ({}, {"logprobs": 2}, {"temperature": 0.0, "max_new_tokens": 60}, {"stop": ("zebra",)}):
        config = GenerationConfig(**{"max_new_tokens": 12, **settings})
        live, whole = (
            rows(engine, *(TokenRequest([1, 2], config, seed, live=live) for seed in range(6)))
            for live in (True, False)
        )
        assert whole == live
        assert {row[-1].done for row in whole} <= {"eos", "length"}


def test_small_models_take_idle_cores_or_a_server_a_core_and_large_ones_every_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(llamaserver, "cpu_count", lambda: 4)
    monkeypatch.setattr(llamaserver, "idle_cpus", lambda: 3)
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    small.write_bytes(b"")
    with large.open("wb") as file:
        file.truncate(1 << 30)
    assert [llamaserver.layout(small, rows) for rows in (1, 8, 16, 64)] == [(1, 3), (1, 3), (2, 1), (4, 1)]
    assert [llamaserver.layout(large, rows) for rows in (1, 64)] == [(1, 4), (1, 4)]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [llamaserver.layout(small, rows) for rows in (1, 16, 64)] == [(1, 2), (2, 1), (2, 1)]
    assert llamaserver.layout(large, 64) == (1, 2)


def test_threads_change_nothing(folder: Path, engine: LlamaCppEngine) -> None:
    several = LlamaCppEngine(gguf_view(folder, "fp32"), threads=3)
    requests = [TokenRequest([1, 2, 3], GenerationConfig(max_new_tokens=8, logprobs=3), i) for i in range(4)]
    assert rows(several, *requests) == rows(engine, *requests)
    several.close()


def test_several_servers_share_the_rows(folder: Path, engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    requests = [TokenRequest([1 + i % 5], GenerationConfig(max_new_tokens=9), i) for i in range(50)]
    alone = [[e.token for e in row] for row in rows(engine, *requests)]
    shared = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=16)
    assert len(shared._servers) == 2
    assert [[e.token for e in row] for row in rows(shared, *requests)] == alone
    shared.close()


def test_requests_are_taken_as_places_become_free(folder: Path) -> None:
    engine = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=3, threads=1)
    taken = 0

    def endless() -> Iterator[TokenRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield TokenRequest([1], GenerationConfig(max_new_tokens=3, temperature=1.0), taken)

    ended = 0
    stream = engine.generate(endless())
    for event in stream:
        ended += event.done is not None
        assert taken <= ended + 3
        if ended == 10:
            break
    stream.close()
    assert not engine._rows
    engine.close()


def test_a_finished_row_has_no_more_events(engine: LlamaCppEngine) -> None:
    request = TokenRequest([1], GenerationConfig(max_new_tokens=60, temperature=1.0), 3)
    other = TokenRequest([2], GenerationConfig(max_new_tokens=5, temperature=1.0), 3)
    seen = []
    for event in engine.generate([request, other]):
        seen.append(event.index)
        if seen.count(0) == 4:
            request.finished = True
    assert seen.count(0) == 4
    assert 1 <= seen.count(1) <= 5


def test_errors_are_events_and_the_others_go_on(engine: LlamaCppEngine) -> None:
    fine = GenerationConfig(max_new_tokens=3)
    long, empty, grammar, good = rows(
        engine,
        TokenRequest([1] * 64, fine, 0),
        TokenRequest([], fine, 0),
        TokenRequest([1], GenerationConfig(grammar="root ::= missing"), 0),
        TokenRequest([1], fine, 0),
    )
    assert isinstance(long[0].error, InputError)
    assert "64 tokens and the model's context 64" in str(long[0].error)
    assert isinstance(empty[0].error, InputError)
    assert isinstance(grammar[0].error, UsageError)
    assert "missing" in str(grammar[0].error)
    assert [row[-1].done for row in (long, empty, grammar)] == ["error"] * 3
    assert good[-1].done in ("eos", "length")


def test_bias_decides(engine: LlamaCppEngine) -> None:
    config = GenerationConfig(max_new_tokens=8, temperature=0)
    (plain,) = rows(engine, TokenRequest([1], config, 0))
    (pushed,) = rows(engine, TokenRequest([1], config, 0, bias=(((9,), 1e4),)))
    assert [e.token for e in pushed] == [9] * 8
    (banned,) = rows(engine, TokenRequest([1], config, 0, bias=(((plain[0].token,), -math.inf),)))
    assert plain[0].token not in [e.token for e in banned]


PATTERNS = [
    "(yes|no)!?",
    "[a-c]{3,5}x*",
    r"\d{4}-\d{2}-\d{2}",
    ".{2,6}",
    r"[^\W\d]+ \S\D",
    "é漢?(cat|mat)+",
    r"\.\*\[",
    "[^a-z]{4}",
    "a|",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_ends_by_itself_matches_the_pattern(pattern: str, folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    engine = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=4, threads=1)
    config = GenerationConfig(max_new_tokens=60, temperature=1.5, top_p=1.0, regex=pattern)
    ended = 0
    for row in rows(engine, *(TokenRequest([1 + i], config, i) for i in range(12))):
        assert row[-1].error is None
        if row[-1].done == "eos":
            text = tokenizer.decode([e.token for e in row])
            ended += 1
            assert re.fullmatch(pattern, text), text
    assert ended
    engine.close()


SCHEMAS: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
    ({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5},
                                       "age": {"type": "integer", "minimum": 0}},
      "required": ["name", "age"], "additionalProperties": False},
     lambda v: list(v) == ["name", "age"] and len(v["name"]) <= 5 and type(v["age"]) is int and v["age"] >= 0),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
     lambda v: 2 <= len(v) <= 4 and all(type(x) is bool for x in v)),
    ({"enum": ["red", 3, None, "é\""]}, lambda v: v in ("red", 3, None, "é\"")),
    ({"properties": {"a": {"type": "null"}, "b": {"const": 1}, "c": {"type": "boolean"}}, "required": ["b"]},
     lambda v: v["b"] == 1 and set(v) <= {"a", "b", "c"} and v.get("a") is None),
    ({"type": "string", "pattern": "^[a-f\"\\\\]{2,4}$"}, lambda v: bool(re.fullmatch("[a-f\"\\\\]{2,4}", v))),
    ({"prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False},
     lambda v: len(v) <= 2 and all(type(x) is bool for x in v[:1]) and all(x is None for x in v[1:])),
    ({"$defs": {"t": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 1}]}},
      "$ref": "#/$defs/t"}, lambda v: v is None or len(v) <= 1),
    ({"type": ["integer", "null"]}, lambda v: v is None or type(v) is int),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "valid"), SCHEMAS)
def test_what_ends_by_itself_is_json_of_the_schema(
    schema: dict[str, Any], valid: Callable[[Any], bool], folder: Path
) -> None:
    tokenizer = Tokenizer.load(folder)
    engine = LlamaCppEngine(gguf_view(folder, "fp32"), parallel=4, threads=1)
    config = GenerationConfig(max_new_tokens=60, temperature=1.0, top_p=1.0, json_schema=json.dumps(schema))
    ended = 0
    for row in rows(engine, *(TokenRequest([1 + i], config, i) for i in range(12))):
        if row[-1].done == "eos":
            ended += 1
            assert valid(json.loads(tokenizer.decode([e.token for e in row])))
    assert ended
    engine.close()


def test_what_the_tokens_cannot_spell_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "m", char=True)
    engine = LlamaCppEngine(gguf_view(tmp_path / "m", "fp32"), threads=1)
    (row,) = rows(engine, TokenRequest([3], GenerationConfig(regex="caZ", max_new_tokens=9), 0))
    assert row[-1].done == "error"
    assert isinstance(row[-1].error, InputError)
    engine.close()


PROGRAM = """
import os, sys, threading
from pathlib import Path
from genkit.text.config import GenerationConfig
from genkit.text.engines import TokenRequest
from genkit.text.engines.llamacpp import LlamaCppEngine
from genkit.text.gguf.convert import gguf_view
engine = LlamaCppEngine(gguf_view(Path(sys.argv[1]), "fp32"), parallel=2, threads=1)
requests = (TokenRequest([1], GenerationConfig(max_new_tokens=60, temperature=1.0, top_p=1.0), i) for i in range(10**9))
stream = engine.generate(requests)
"""
ENDS = {
    "held": ("next(stream)", 0, ""),
    "closed": ("next(stream); stream.close(); engine.close(); engine.close()", 0, ""),
    "raised": ("next(stream); raise SystemExit(3)", 3, ""),
    "signal": (
        "next(stream)\ntry:\n  os.kill(os.getpid(), 2)\n  list(stream)\nexcept KeyboardInterrupt:\n  sys.exit(130)",
        130,
        "",
    ),
    "term": ("next(stream); os.kill(os.getpid(), 15); list(stream)", -signal.SIGTERM, ""),
    "unused": ("", 0, ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_process_ends_at_once_and_silently(name: str, folder: Path) -> None:
    code, status, said = ENDS[name]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code, folder], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_handlers_of_signals_are_kept(folder: Path) -> None:
    code = "import signal; signal.signal(15, lambda *_: print('ours', flush=True)); signal.signal(2, signal.SIG_IGN)\n"
    code += PROGRAM + "os.kill(os.getpid(), 15); os.kill(os.getpid(), 2); next(stream)"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")


def test_a_file_that_llama_cpp_cannot_load_is_refused_silently(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    view = gguf_view(folder, "fp32")
    broken = tmp_path / "x.gguf"
    broken.write_bytes(view.read_bytes().replace(b"blk.1.attn_norm", b"blk.1.attn_nxrm"))
    with pytest.raises(InputError, match="cannot load"):
        LlamaCppEngine(broken)
    assert capfd.readouterr() == ("", "")
