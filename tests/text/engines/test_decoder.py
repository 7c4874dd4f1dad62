"""A row's logits have the same bits whatever decodes beside it, and the step can be recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from genkit.runtime.device import Placement
from genkit.runtime.manager import Runtime
from genkit.text.config import ARCHITECTURES, GenerationConfig, GPTConfig
from genkit.text.engines import TokenRequest, decoder
from genkit.text.engines import rows as engine_module
from genkit.text.engines.decoder import REACH, WIDTHS, Decoder, captured, exact_widths, for_decoding, reach
from genkit.text.engines.torch import TorchTextEngine
from genkit.text.models.gpt import GPT

VOCAB = 211
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "odd": {"n_inner": 112, "n_embd": 48, "head_dim": 6, "n_head": 8, "n_kv_head": 4, "vocab_size": 209},
    "grouped": {"n_head": 8, "n_kv_head": 1, "head_dim": 10},
    "wide": {"n_embd": 192, "n_inner": 512, "n_head": 4, "head_dim": 64, "n_kv_head": 1},
}


def build(arch: str = "qwen3", **changes: Any) -> GPT:
    shape = GPTConfig(
        arch=arch, vocab_size=VOCAB, block_size=700, n_layer=2, n_head=4, n_kv_head=4 if arch == "gpt2" else 2,
        n_embd=64, head_dim=16, n_inner=112, eos_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(shape, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.5, 0.3) if p.ndim == 1 else p.normal_(0, p.shape[1] ** -0.5)
    return model


@pytest.fixture(params=["fp32", "bf16"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime(Placement(device="cpu", precision=request.param, engine="torch", why="test")) as runtime:
        yield runtime


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def requests(n: int, seed: int = 0) -> list[TokenRequest]:
    draw = random.Random(seed)
    lengths = [*(draw.choice([2, 5, 30]) for _ in range(n - 2)), 250, 1]
    return [
        TokenRequest(
            [draw.randrange(1, 200) for _ in range(length)],
            GenerationConfig(
                max_new_tokens=draw.randint(1, 16), temperature=draw.choice([0.0, 1.0]), top_k=draw.choice([0, 9])
            ),
            seed=draw.randrange(99),
        )
        for length in lengths
    ]


def logits_of(engine: TorchTextEngine, wanted: list[TokenRequest], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What each row drew from, (steps, V)."""
    seen: list[list[Tensor]] = [[] for _ in wanted]
    draw = engine._draw

    def spy(logits: Tensor, rows: list[Any]) -> Any:
        for row, own in zip(rows, logits, strict=False):
            seen[row.index].append(own.clone())
        return draw(logits, rows)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_draw", spy)
        list(engine.generate(wanted))
    return [torch.stack(own) for own in seen]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_alone_has_the_bits_of_a_row_in_a_batch(
    shape: str, runtime: Runtime, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, wanted = TorchTextEngine(build(**SHAPES[shape]), runtime), requests(18)
    together = logits_of(engine, wanted, monkeypatch)
    for i in (0, 5, 16, 17):
        assert torch.equal(logits_of(engine, [wanted[i]], monkeypatch)[0], together[i])


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_order_company_and_the_moment_of_joining_do_not_matter(
    arch: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = build(arch), requests(30, seed=1)
    together = logits_of(TorchTextEngine(model, runtime), wanted, monkeypatch)
    few = TorchTextEngine(model, runtime)
    monkeypatch.setattr(engine_module, "CACHE_BYTES", few._model.config.n_layer * 600_000)  # rows wait for others
    order = random.Random(2).sample(range(30), 30)
    shuffled = logits_of(few, [wanted[i] for i in order], monkeypatch)
    for place, i in enumerate(order):
        assert torch.equal(shuffled[place], together[i])


def test_max_new_tokens_do_not_matter(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the row outgrows the slots that a step reads."""
    engine = TorchTextEngine(build(eos_id=None), runtime)
    short, long = (TokenRequest([5] * 250, GenerationConfig(temperature=0, max_new_tokens=n), seed=0) for n in (4, 270))
    (few,), (many,) = logits_of(engine, [short], monkeypatch), logits_of(engine, [long], monkeypatch)
    assert torch.equal(many[:4], few)
    fresh = TorchTextEngine(build(eos_id=None), runtime)
    both = logits_of(fresh, [long, short], monkeypatch)
    assert torch.equal(both[0], many)
    assert torch.equal(both[1], few)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_twin_computes_what_the_model_computes(arch: str, runtime: Runtime) -> None:
    model = build(arch)
    twin, ids = for_decoding(model, runtime), torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad(), runtime.autocast():
        torch.testing.assert_close(twin(ids), model(ids), atol=1e-5 if runtime.dtype == torch.float32 else 0.05, rtol=0)
    shared = {tensor.data_ptr() for tensor in model.parameters()}
    linear = [m.weight for m in twin.modules() if isinstance(m, torch.nn.Linear)]
    assert {w.dtype for w in linear} == {runtime.dtype}
    assert {w.data_ptr() in shared for w in linear} == {runtime.dtype == torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_width_that_rounds_differently_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        model = for_decoding(build(), runtime)
        assert exact_widths(model, runtime)[-1] == WIDTHS[-1]
        compute = Decoder._compute

        def rounding(self: Decoder, width: int, slots: int) -> None:
            compute(self, width, slots)
            if width in (4, 16):
                self.logits[0, 0] = self.logits[0, 0].nextafter(torch.tensor(torch.inf))

        widths = exact_widths(model, runtime)
        monkeypatch.setattr(Decoder, "_compute", rounding)
        assert exact_widths(model, runtime) == [width for width in widths if width not in (4, 16)]
        monkeypatch.setattr(decoder, "SMALL_PRODUCT", 1 << 30)
        assert exact_widths(model, runtime) == [WIDTHS[-1]]


def test_reach() -> None:
    assert [reach(n) for n in (1, REACH, REACH + 1, 2 * REACH, 2 * REACH + 1)] == [64, 64, 128, 128, 256]


# --- recording --------------------------------------------------------------------------------------


class FakeCuda:
    """Says what was called, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def Stream(self, device: torch.device) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.said.append("side waits"))

    def current_stream(self, device: torch.device) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.said.append("main waits"))

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.said.append("replay"))

    @contextlib.contextmanager
    def stream(self, side: Any) -> Iterator[None]:
        self.said.append("on side")
        yield

    @contextlib.contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        self.said.append("recording")
        yield
        self.said.append("recorded")


def test_a_step_is_recorded_once_and_replayed() -> None:
    cuda = FakeCuda()
    step = captured(lambda: cuda.said.append("step"), torch.device("cuda", 0), cuda)
    warm_up = ["side waits", "on side", "step", "step", "step", "main waits"]
    assert cuda.said == [*warm_up, "recording", "step", "recorded"]
    cuda.said.clear()
    step()
    step()
    assert cuda.said == ["replay", "replay"]


def test_on_a_cpu_the_step_is_the_function() -> None:
    def step() -> None: ...

    assert captured(step, torch.device("cpu")) is step


def record(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    shapes: list[Any] = []

    def fake(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
        shapes.append(step.args)  # type: ignore[attr-defined]
        return step

    monkeypatch.setattr(decoder, "captured", fake)
    return shapes


def test_each_shape_is_recorded_once_until_the_memory_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = record(monkeypatch)
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        own = Decoder(for_decoding(build(), runtime), runtime, WIDTHS)
        for row in range(6):
            own.begin(row, [1, 2])
        places = own.logits.data_ptr(), own._cache.keys.data_ptr(), own._inputs.data_ptr()
        for rows in (6, 6, 3, 5, 2):
            own.step([1] * rows, [2] * rows)
        assert shapes == [(8, 64), (4, 64)]
        assert places == (own.logits.data_ptr(), own._cache.keys.data_ptr(), own._inputs.data_ptr())
        own.step([1], [64])  # moves to larger memory, where nothing is recorded yet
        own.step([1], [3])
        own.step([1] * 6, [3] * 6)
        assert shapes[2:] == [(4, 128), (4, 64), (8, 64)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_in_the_step_asks_for_a_value(arch: str) -> None:
    """On the meta device there are none, so a host that waits for one fails, as it would in a recording."""
    meta = SimpleNamespace(device=torch.device("meta"), dtype=torch.float32, autocast=contextlib.nullcontext)
    own = Decoder(for_decoding(build(arch).to("meta"), meta), meta, [4])
    with torch.inference_mode():
        own._fit(4, 300)
        own._compute(4, 256)
        own._compute(4, 512)
    assert own.logits.shape == (4, VOCAB)


def test_rows_move_and_are_selected() -> None:
    """What a row goes on with is its own past, wherever it came from."""
    with Runtime(Placement(device="cpu", precision="fp32", engine="torch", why="test")) as runtime:
        own = Decoder(for_decoding(build(), runtime), runtime, [4])
        prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        for row, prompt in enumerate(prompts):
            own.begin(row, prompt)
        own.step([10, 11, 12], [3, 3, 3])
        before = own.logits.clone()
        own.select([2, 0, 2], 3)
        own.step([12, 10, 12], [3, 3, 3])
        assert torch.equal(own.logits[:3], before[[2, 0, 2]])
        own.move(0, 1)
        own.step([12, 12], [3, 3])
        assert torch.equal(own.logits[:2], before[[2, 2]])
