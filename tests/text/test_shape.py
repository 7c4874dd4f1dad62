import pytest

from genkit.errors import UsageError
from genkit.text.config import PRESETS, TextTrainConfig
from genkit.text.models.gpt import count_parameters
from genkit.text.shape import auto_preset, model_shape


def shape(tokens: int = 10**7, device: str = "cpu", **settings: object) -> object:
    return model_shape(TextTrainConfig(**settings), vocab_size=4096, eos_id=0, tokens=tokens, device=device)


@pytest.mark.parametrize(
    ("tokens", "device", "preset"),
    [
        (10**6, "cpu", "tiny"),
        (10**8, "cpu", "nano"),
        (10**6, "cuda:0", "baby"),
        (10**8, "mps", "mini"),
        (10**9, "cuda:1", "small"),
    ],
)
def test_auto_goes_by_data_and_machine(tokens: int, device: str, preset: str) -> None:
    assert auto_preset(tokens, device) == preset


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 1.33), ("nano", 5.87), ("baby", 12.19), ("small", 88.1)])
def test_preset_sizes(preset: str, millions: float) -> None:
    assert count_parameters(shape(preset=preset)) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
def test_every_preset_fits_every_arch(preset: str, arch: str) -> None:
    made = shape(preset=preset, arch=arch)
    assert made.n_head * made.head_dim == made.n_embd
    assert made.bos_id == made.eos_id == 0


def test_flags_go_before_the_preset() -> None:
    made = shape(preset="tiny", n_layer=3, n_embd=96, n_head=4, n_kv_head=2, block_size=40)
    assert (made.n_layer, made.n_embd, made.n_head, made.n_kv_head, made.head_dim, made.block_size) == (
        3,
        96,
        4,
        2,
        24,
        40,
    )
    assert made.n_inner == 256


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_embd": 100, "n_head": 3}, "--n-head 3 does not divide --n-embd 100"),
        ({"n_head": 4, "n_embd": 128, "n_kv_head": 3}, "--n-kv-head 3 does not fit 4 heads"),
        ({"arch": "gpt2", "preset": "nano", "n_kv_head": 2}, "heads of gpt2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        shape(**settings)
