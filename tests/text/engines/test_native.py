"""The native engine against torch: the same tokens from the same seeds, and rows that keep their bits in company."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkit.errors import InputError, ResourceError
from genkit.files import write_json
from genkit.runtime.device import Placement, native_library
from genkit.runtime.manager import Runtime
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.engines import TokenEvent, TokenRequest, lacks
from genkit.text.engines.native import NativeEngine
from genkit.text.engines.torch import TorchTextEngine
from genkit.text.models.gpt import GPT
from genkit.text.models.store import CONFIG, WEIGHTS, model_files
from genkit.text.native import build, library
from genkit.text.native.weights import Weights
from genkit.training.weights import save_tensors

pytestmark = pytest.mark.skipif(not native_library().exists(), reason="there was no C compiler")

VOCAB, BLOCK, EOS = 61, 48, 0
RANDOM = GenerationConfig(temperature=1.0, top_p=0.9, max_new_tokens=16)
# odd sizes: none is a multiple of a vector, nor of what a thread takes
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"n_kv_head": 2},
    "llama": {"arch": "llama", "n_kv_head": 1, "tie_embeddings": False, "rope_theta": 500.0},
    "gpt2": {"arch": "gpt2", "n_kv_head": 4, "head_dim": 9, "n_embd": 36, "norm_eps": 1e-5},
    "odd": {"n_head": 3, "n_kv_head": 3, "head_dim": 6, "n_embd": 37, "n_inner": 53},
    "wide": {"n_head": 2, "n_kv_head": 1, "head_dim": 72, "n_embd": 96, "n_inner": 200},
}  # fmt: skip


def build_model(**changes: Any) -> GPT:
    """Random weights, far enough from zero that what comes next depends on what came before."""
    base = GPTConfig(
        vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, head_dim=8, n_inner=48,
        eos_id=EOS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(base, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.5, 0.3) if p.ndim == 1 else p.normal_(0, 0.3)
    return model


def save(folder: Path, model: GPT, precision: str = "fp32") -> Weights:
    folder.mkdir(exist_ok=True)
    shape, _, tensors = model_files(model, {})
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, shape)
    return Weights(folder, model.config, precision)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return save(tmp_path_factory.mktemp("native") / "model", build_model())


@pytest.fixture
def engine(weights: Weights) -> Iterator[NativeEngine]:
    engine = NativeEngine(weights, parallel=64, threads=2)
    yield engine
    engine.close()


def request(prompt: list[int], seed: int = 0, **changes: Any) -> TokenRequest:
    return TokenRequest(prompt, RANDOM.replace(**changes), seed)


def rows(engine: Any, requests: list[TokenRequest]) -> list[list[TokenEvent]]:
    found: list[list[TokenEvent]] = [[] for _ in requests]
    for event in engine.generate(requests):
        found[event.index].append(event)
    return found


def tokens(engine: Any, requests: list[TokenRequest]) -> list[list[int]]:
    return [[event.token for event in row] for row in rows(engine, requests)]


PROMPTS = [[5], [3, 9, 27], list(range(1, 30)), [7, 7, 7, 7]]
KNOBS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"top_p": 1.0},
    {"temperature": 0.6, "top_p": 0.95},
    {"top_p": 1.0, "top_k": 5},
    {"top_p": 0.8, "top_k": 12, "min_p": 0.05},
    {"top_p": 1.0, "typical_p": 0.7},
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.7, "presence_penalty": -0.4},
    {"min_new_tokens": 12, "repetition_penalty": 0.8},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_draws_what_torch_draws(tmp_path: Path, runtime: Runtime, shape: str) -> None:
    model = build_model(**SHAPES[shape])
    native, reference = (
        NativeEngine(save(tmp_path / "m", model), parallel=3, threads=2),
        TorchTextEngine(model, runtime),
    )
    wanted = [request(prompt, seed, **knobs) for seed, (prompt, knobs) in enumerate(itertools.product(PROMPTS, KNOBS))]
    found = tokens(native, wanted)
    assert found == tokens(reference, wanted)
    assert len({tuple(row) for row in found}) > len(PROMPTS)
    native.close()


def test_each_row_has_its_own_seed_as_numpy_draws(engine: NativeEngine) -> None:
    """A model that finds all tokens alike shows the numbers themselves."""
    for seed in (0, 1, 2**63 + 11):
        flat = TokenRequest([3], RANDOM.replace(temperature=100.0, top_p=1.0, max_new_tokens=9, min_new_tokens=9), seed)
        stream = np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))
        (row,) = rows(engine, [flat])
        wanted = [round(1 + stream.random() * (VOCAB - 1)) for _ in row]  # the end of the text is held back
        assert np.abs(np.subtract([event.token for event in row], wanted)).max() <= 4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("told", [3, None])  # with log-probabilities each step comes back by itself
def test_a_row_keeps_its_bits_in_company_and_on_any_number_of_threads(
    tmp_path: Path, precision: str, told: int | None
) -> None:
    weights = save(tmp_path / "m", build_model(), precision)
    wanted = [request(PROMPTS[i % 4], seed=i, logprobs=told, max_new_tokens=1 + i % 40) for i in range(70)]
    for one in wanted:
        one.live = False
    alone = NativeEngine(weights, threads=1)
    expected = [rows(alone, [one])[0] for one in wanted]
    alone.close()
    for parallel, threads in ((64, 1), (64, 2), (5, 3), (1, 2), (2, 4)):
        engine = NativeEngine(weights, parallel=parallel, threads=threads)
        for row, other in zip(rows(engine, wanted), expected, strict=True):
            assert [dataclasses.replace(event, index=0) for event in row] == other
        engine.close()


def test_rows_that_nobody_watches_write_what_watched_ones_write(engine: NativeEngine) -> None:
    wanted = [request(PROMPTS[i % 4], seed=i, max_new_tokens=1 + 5 * i % 40) for i in range(30)]
    watched = rows(engine, wanted)
    for one in wanted:
        one.live = False
    assert rows(engine, wanted) == watched
    assert {row[-1].done for row in watched} == {"eos", "length"}
    forbidden = dataclasses.replace(wanted[0], bias=tuple(((token,), float("-inf")) for token in range(VOCAB)))
    stopped, seen = dataclasses.replace(wanted[5], seed=1), 0
    for event in engine.generate([forbidden, stopped]):
        seen += event.index == 1
        stopped.finished |= seen == 3
        assert (event.error is not None) == (event.index == 0)
    assert seen == 3


def test_int8_rounds_as_q8_0_does() -> None:
    """Levels to the nearest of 127 steps, in groups of 32; what a product of rounded rows is, NumPy says."""
    values = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    values[1, :32] = 0
    levels, scales = np.empty((3, 64), np.int8), np.empty((3, 2), np.float32)
    library.library().gk_round(values.ctypes.data, levels.ctypes.data, scales.ctypes.data, 3, 64)
    groups = values.reshape(3, 2, 32)
    extreme = np.abs(groups).max(-1)
    np.testing.assert_array_equal(scales, extreme / np.float32(127))
    expected = groups * np.where(extreme == 0, 0, 127 / np.where(extreme == 0, 1, extreme))[..., None]
    assert np.abs(levels.reshape(3, 2, 32) - expected).max() <= 0.5 + 1e-4
    assert (levels[1, :32] == 0).all()
    assert np.abs(levels).max() == 127


def test_int8_is_near_fp32(tmp_path: Path, weights: Weights) -> None:
    """Most tokens of a model of random weights are the same, and their log-probabilities near."""
    model = build_model(n_embd=64, n_inner=96, head_dim=16)
    wanted = [request([4, 8], temperature=0, logprobs=0, max_new_tokens=1, min_new_tokens=1)] + [
        request([i, 2 * i % VOCAB, 7], temperature=0, logprobs=0, max_new_tokens=1, min_new_tokens=1) for i in range(60)
    ]
    exact, rounded = (
        [row[0] for row in rows(NativeEngine(save(tmp_path / precision, model, precision), parallel=8), wanted)]
        for precision in ("fp32", "int8")
    )
    same = [(a.logprob, b.logprob) for a, b in zip(exact, rounded, strict=True) if a.token == b.token]
    assert len(same) > 50
    differences = np.abs(np.subtract(*np.array(same, float).T))
    assert 0 < differences.mean() < 0.03


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_halves_are_read_as_what_they_are(tmp_path: Path, runtime: Runtime, stored: torch.dtype) -> None:
    model = build_model(**SHAPES["gpt2"])
    engine = NativeEngine(save(tmp_path / "m", model.to(stored)), threads=1)
    wanted = [request(prompt, temperature=0) for prompt in PROMPTS]
    assert tokens(engine, wanted) == tokens(TorchTextEngine(model.float(), runtime), wanted)
    engine.close()


def test_the_first_gpt2_files_have_shorter_names(tmp_path: Path, runtime: Runtime) -> None:
    model = build_model(**SHAPES["gpt2"])
    save(tmp_path / "m", model)
    _, _, tensors = model_files(model, {})
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_tensors(tmp_path / "m" / WEIGHTS, short, {"format": "pt"})
    engine = NativeEngine(Weights(tmp_path / "m", model.config), threads=1)
    assert tokens(engine, [request([1])]) == tokens(TorchTextEngine(model, runtime), [request([1])])
    engine.close()


def test_log_probabilities_are_the_models_own(engine: NativeEngine, weights: Weights) -> None:
    model, knobs = build_model(), {"repetition_penalty": 1.5, "temperature": 0.7}
    (row,) = rows(engine, [request([4, 8], seed=2, logprobs=5, **knobs)])
    with torch.no_grad():
        expected = model(torch.tensor([[4, 8] + [event.token for event in row]]))[0].log_softmax(-1)
    for i, event in enumerate(row):
        best = expected[1 + i].topk(5)
        assert event.logprob == pytest.approx(expected[1 + i, event.token].item(), abs=2e-5)
        assert [token for token, _ in event.top] == best.indices.tolist()
        assert [value for _, value in event.top] == pytest.approx(best.values.tolist(), abs=2e-5)
    (row,) = rows(engine, [request([4, 8], logprobs=0)])
    assert {event.top for event in row} == {()}
    (row,) = rows(engine, [request([4, 8], logprobs=100, max_new_tokens=1)])
    assert len(row[0].top) == VOCAB


def test_a_bias_forces_and_forbids(engine: NativeEngine, runtime: Runtime) -> None:
    wanted = request([4, 8], max_new_tokens=3)
    wanted.bias = (((9,), 900.0), ((EOS,), float("-inf")))
    assert tokens(engine, [wanted]) == [[9, 9, 9]]
    wanted = request([4, 8], repetition_penalty=1.4)
    wanted.bias = (((9,), 1.5), ((9,), -0.25), ((11,), -2.0))
    assert tokens(engine, [wanted]) == tokens(TorchTextEngine(build_model(), runtime), [wanted])
    wanted = request([4])
    wanted.bias = tuple(((token,), float("-inf")) for token in range(VOCAB))
    ((event,),) = rows(engine, [wanted])
    assert event.error is not None
    assert "leave no token" in event.error.message


def test_a_text_that_goes_on_counts_its_own_tokens(engine: NativeEngine, runtime: Runtime) -> None:
    wanted = request([4, 8, 15, 16, 23], seed=3, frequency_penalty=2.0, max_new_tokens=9, min_new_tokens=9)
    wanted.drawn = 3
    ((*_, last),) = found = rows(engine, [wanted])
    assert tokens(engine, [wanted]) == tokens(TorchTextEngine(build_model(), runtime), [wanted])
    assert (len(found[0]), last.done) == (6, "length")


def test_ends(engine: NativeEngine) -> None:
    ending = request([4])
    ending.bias = (((EOS,), 900.0),)
    ((event,),) = rows(engine, [ending])
    assert (event.token, event.done) == (EOS, "eos")
    ((*_, event),) = found = rows(engine, [request([4] * (BLOCK - 3), max_new_tokens=99, min_new_tokens=9)])
    assert (len(found[0]), event.done) == (3, "length")
    done = request([4])
    done.finished = True
    assert rows(engine, [done, request([5], max_new_tokens=1, min_new_tokens=1)])[0] == []


def test_a_row_that_is_ended_makes_room(weights: Weights) -> None:
    engine = NativeEngine(weights, parallel=1, threads=1)
    wanted = [request([i + 1], seed=i, min_new_tokens=16) for i in range(3)]
    seen = []
    for event in engine.generate(wanted):
        seen.append(event.index)
        wanted[event.index].finished = seen.count(event.index) == 2
    assert seen == [0, 0, 1, 1, 2, 2]
    engine.close()


def test_what_cannot_be_done_is_one_rows_error(engine: NativeEngine) -> None:
    wanted = [request([]), request([1] * BLOCK), request([VOCAB]), TokenRequest("text", RANDOM, 0), request([1])]
    *refused, well = rows(engine, wanted)
    messages = [row[0].error.message for row in refused if row[0].error]
    assert messages == [
        "the prompt has no tokens", f"the prompt has {BLOCK} tokens and the model's context {BLOCK}",
        f"token {VOCAB} of the prompt is not in the model's vocabulary of {VOCAB}",
        "the native engine reads token ids, not text",
    ]  # fmt: skip
    assert all(event.error is None for event in well)


def test_two_texts_may_be_read_in_turn(engine: NativeEngine) -> None:
    wanted = [request([3], seed=1, min_new_tokens=16), request([9], seed=2, min_new_tokens=16)]
    expected = tokens(engine, wanted)
    first, second = (engine.generate([one]) for one in wanted)
    both = [(a.token, b.token) for a, b in zip(first, second, strict=True)]
    assert [list(row) for row in zip(*both, strict=True)] == expected
    abandoned = engine.generate([wanted[0]])
    next(abandoned)
    abandoned.close()
    assert tokens(engine, wanted) == expected


def test_weights_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    model = build_model()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    engine = NativeEngine(save(tmp_path / "m", model), threads=1)
    with pytest.raises(InputError, match="not finite"):
        rows(engine, [request([1])])
    engine.close()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = build_model()
    save(tmp_path / "m", model)
    other = dataclasses.replace(model.config, n_inner=49)
    with pytest.raises(InputError, match=r"gate_proj.weight is \[48, 32\], not \[49, 32\]"):
        Weights(tmp_path / "m", other)
    with pytest.raises(InputError, match=r"the weights lack model.layers.2.self_attn.q_proj.weight"):
        Weights(tmp_path / "m", dataclasses.replace(model.config, n_layer=3))


def test_a_folder_in_parts_is_read(tmp_path: Path, runtime: Runtime) -> None:
    model = build_model()
    save(tmp_path / "m", model)
    _, _, tensors = model_files(model, {})
    names = sorted(tensors)
    for part, own in (("a", names[::2]), ("b", names[1::2])):
        save_tensors(tmp_path / f"m/{part}.safetensors", {name: tensors[name] for name in own}, {"format": "pt"})
    placed = {name: f"{'ab'[i % 2]}.safetensors" for i, name in enumerate(names)}
    write_json(tmp_path / "m/model.safetensors.index.json", {"weight_map": placed})
    (tmp_path / "m" / WEIGHTS).unlink()
    engine = NativeEngine(Weights(tmp_path / "m", model.config), threads=1)
    assert tokens(engine, [request([1])]) == tokens(TorchTextEngine(model, runtime), [request([1])])
    engine.close()


def test_knobs_that_look_at_texts_are_anothers() -> None:
    assert lacks("native", RANDOM.replace(num_beams=2)) == ("--num-beams",)
    assert lacks("native", RANDOM.replace(regex="a+")) == ("--regex",)
    assert lacks("native", RANDOM, (((1, 2), 1.0),)) == ("--logit-bias",)
    assert lacks("native", RANDOM.replace(min_new_tokens=1, frequency_penalty=1.0, logprobs=1), (((1,), 1.0),)) == ()


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "decode.so")
    assert build.compile_library() == "there is no C compiler"
    monkeypatch.setattr(library, "native_library", lambda: tmp_path / "decode.so")
    library.library.cache_clear()
    with pytest.raises(ResourceError, match="the native decoder cannot be loaded"):
        library.library()
    library.library.cache_clear()


def test_its_source_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    strict = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    source = native_library().with_name("decode.c")
    done = subprocess.run([compiler, *strict, str(source)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_reads_and_writes_inside_its_memory(weights: Weights, tmp_path: Path) -> None:
    """Under the address sanitizer, in a process of its own, batches and long prompts run clean."""
    compiler = shutil.which("gcc") or pytest.skip("there is no gcc")
    checked = tmp_path / "checked.so"
    flags = ["-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-fsanitize=address,undefined", "-mavx2", "-mfma"]
    source = native_library().with_name("decode.c")
    made = subprocess.run([compiler, *flags, "-o", str(checked), str(source), "-lm", "-lpthread"], capture_output=True)
    if made.returncode:
        pytest.skip("this gcc has no sanitizers, or another processor")
    program = f"""
import dataclasses, pathlib, sys
from genkit.text.native import library
library.native_library = lambda: pathlib.Path({str(checked)!r})
from genkit.text.engines import TokenRequest
from genkit.text.engines.native import NativeEngine
from genkit.text.native.weights import Weights
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.files import read_json
folder = pathlib.Path({str(weights.folder)!r})
config = GPTConfig.from_hf(read_json(folder / "config.json"))
engine = NativeEngine(Weights(folder, config), parallel=7, threads=2)
knobs = GenerationConfig(max_new_tokens=20, top_k=9, typical_p=0.9, min_p=0.01, logprobs=100, repetition_penalty=1.1)
wanted = [TokenRequest([1 + i] * (1 + 5 * i), knobs, i) for i in range(9)]
print(sum(1 for event in engine.generate(wanted)))
engine.close()
"""
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    env = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(native_library().parents[3])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 9
