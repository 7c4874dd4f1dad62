"""What the settings that are left open become."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from genkit.errors import UsageError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text import recipe
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import count_parameters
from genkit.text.recipe import LEFT_OPEN, as_begun, auto_epochs, auto_preset, budget_of, settle
from genkit.text.shape import model_shape
from genkit.text.trainconfig import PRESETS, TextTrainConfig
from genkit.training.schedule import Budget

GIGA = 1e9
HUB = GPTConfig(
    arch="gpt2", vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_kv_head=12, n_embd=768, head_dim=64,
    n_inner=3072,
)  # fmt: skip


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(resolve("cpu", "fp32", task="train-text")) as entered:
        yield entered


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose matrix products run at 900 GFLOP/s, as two cores with bf16."""
    monkeypatch.setattr(recipe, "matmul_rate", lambda runtime: 900 * GIGA)


def settled(runtime: Runtime, *, tokens: int, vocab_size: int = 4096, **settings: object) -> TextTrainConfig:
    config = TextTrainConfig(**settings)  # type: ignore[arg-type]
    return settle(config, given=None, vocab_size=vocab_size, tokens=tokens, runtime=runtime)


@pytest.mark.usefixtures("speed")
@pytest.mark.parametrize(
    ("minutes", "tokens", "vocab_size", "preset"),
    [
        (2, 1_000_000, 66, "tiny"),
        (10, 9_000_000, 4096, "tiny"),  # nano would not see a token for each parameter
        (60, 9_000_000, 4096, "nano"),
        (60 * 24, 500_000_000, 8192, "mini"),
        (60 * 24 * 30, 500_000_000, 8192, "small"),
        (60 * 24 * 30, 300_000, 66, "tiny"),  # so little text is soon known by heart
        (60 * 24 * 30, 1_000_000, 66, "tiny"),
        (60 * 24 * 30, 10_000_000, 66, "baby"),
    ],
)
def test_the_preset_goes_by_budget_and_data(
    runtime: Runtime, minutes: int, tokens: int, vocab_size: int, preset: str
) -> None:
    assert settled(runtime, tokens=tokens, vocab_size=vocab_size, budget=60.0 * minutes).preset == preset


@pytest.mark.usefixtures("speed")
def test_tokens_and_steps_are_budgets_too(runtime: Runtime) -> None:
    much = 10**9
    nano = count_parameters(model_shape(TextTrainConfig(preset="nano"), vocab_size=4096, eos_id=None))
    assert settled(runtime, tokens=much, steps=10).preset == "tiny"
    assert settled(runtime, tokens=much, steps=100_000).preset == "small"
    assert settle_tokens(runtime, 4 * nano) == "nano"
    assert settle_tokens(runtime, 4 * nano - 16384) == "tiny"


def test_larger_batches_see_more_tokens_in_as_many_steps() -> None:
    def chosen(per_width: int) -> str:
        return auto_preset(TextTrainConfig(steps=2000), 1e10, per_width=per_width, vocab_size=66, tokens=10**9)

    assert (chosen(32), chosen(64)) == ("tiny", "baby")


def settle_tokens(runtime: Runtime, tokens: int) -> str:
    config = TextTrainConfig(tokens=tokens)
    return settle(config, given=None, vocab_size=4096, tokens=10**9, runtime=runtime).preset


@pytest.mark.usefixtures("speed")
def test_what_the_user_sets_stays(runtime: Runtime) -> None:
    chosen = {"preset": "nano", "optimizer": "adamw", "lr": 5e-4, "batch_size": 3, "compile": False}
    found = settled(runtime, tokens=10**6, budget=7200.0, **chosen)
    assert {name: getattr(found, name) for name in chosen} == chosen
    assert settled(runtime, tokens=10**6, budget=60.0, n_head=2).preset == "tiny"  # 2 heads do not fit every preset


@pytest.mark.usefixtures("speed")
def test_batches_hold_32_tokens_for_each_number_of_the_width(runtime: Runtime) -> None:
    for preset, shape in PRESETS.items():
        found = settled(runtime, tokens=10**6, preset=preset, budget=60.0)
        assert found.batch_size * shape.block_size == pytest.approx(32 * shape.n_embd, rel=0.35)
        assert found.batch_size >= 4
    assert settled(runtime, tokens=10**6, preset="tiny", block_size=64, budget=60.0).batch_size == 64
    assert settled(runtime, tokens=10**6, preset="tiny", accumulate=3, budget=60.0).batch_size == 30


@pytest.mark.usefixtures("speed")
def test_long_runs_are_compiled(runtime: Runtime) -> None:
    assert not settled(runtime, tokens=10**8, budget=480.0).compile
    assert settled(runtime, tokens=10**8, budget=600.0).compile
    assert not settled(runtime, tokens=10**8, steps=100).compile
    assert settled(runtime, tokens=10**8, steps=10**6).compile


@pytest.mark.usefixtures("speed")
def test_fine_tuning_is_gentle(runtime: Runtime) -> None:
    def tuned(given: GPTConfig, **settings: object) -> TextTrainConfig:
        config = TextTrainConfig(init_from="m", **settings)  # type: ignore[arg-type]
        return settle(config, given=given, vocab_size=50257, tokens=10**6, runtime=runtime)

    full = tuned(HUB)
    assert (full.optimizer, full.lr, full.batch_size, full.preset) == ("adamw", pytest.approx(1e-4), 8, "auto")
    assert tuned(HUB, lora=8).lr == pytest.approx(1e-3)
    assert tuned(HUB, block_size=256).batch_size == 32


def test_little_text_is_seen_a_few_times() -> None:
    plain, dropping = TextTrainConfig(), TextTrainConfig(dropout=0.2)
    assert auto_epochs(plain, 10**6, 10**6) == 12
    assert auto_epochs(plain, 250_000, 10**6) == 6
    assert auto_epochs(dropping, 250_000, 10**6) == pytest.approx(18)
    assert (auto_epochs(plain, 1, 10**9), auto_epochs(plain, 10**12, 1)) == (3, 40)


def test_a_budget_of_time_ends_with_the_epochs_too() -> None:
    assert budget_of(TextTrainConfig(budget=60.0, max_epochs=0.5), 1001) == Budget(seconds=60.0, units=501)
    assert budget_of(TextTrainConfig(budget=60.0), 1000) == Budget(seconds=60.0)  # not settled yet
    assert budget_of(TextTrainConfig(tokens=10**9), 1000) == Budget(units=10**9)
    with pytest.raises(UsageError, match="--budget and --steps both"):
        budget_of(TextTrainConfig(budget=60.0, steps=3), 1)


def test_the_rate_of_matrix_products_is_measured(runtime: Runtime) -> None:
    assert GIGA < recipe.matmul_rate(runtime) < 1e6 * GIGA


@pytest.mark.usefixtures("speed")
def test_a_resumed_run_takes_what_was_settled_when_it_began(runtime: Runtime) -> None:
    began = settled(runtime, tokens=10**6, budget=60.0)
    assert all(getattr(began, name) != left for name, left in LEFT_OPEN.items())
    record = {"config": began.to_dict()}
    assert as_begun(TextTrainConfig(budget=7200.0), record) == began.replace(budget=7200.0)
    assert as_begun(TextTrainConfig(lr=0.5), record).lr == 0.5
    assert as_begun(TextTrainConfig(), {}) == TextTrainConfig()
    with pytest.raises(UsageError):
        as_begun(TextTrainConfig(), {"config": {"optimizer": "sgd"}})
