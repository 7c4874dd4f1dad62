import pytest

from genkit.errors import UsageError
from genkit.text.config import GPTConfig
from genkit.text.models.gpt import count_parameters
from genkit.text.shape import model_shape, shape_line
from genkit.text.trainconfig import PRESETS, TextTrainConfig


def shape(vocab_size: int = 4096, **settings: object) -> GPTConfig:
    return model_shape(TextTrainConfig(**({"preset": "tiny"} | settings)), vocab_size=vocab_size, eos_id=0)


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 1.86), ("nano", 6.92), ("baby", 13.77), ("small", 91.26)])
def test_preset_sizes(preset: str, millions: float) -> None:
    assert count_parameters(shape(preset=preset)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_large_vocabularies_share_the_embedding_with_the_head() -> None:
    assert not shape(1 << 14).tie_embeddings
    assert shape((1 << 14) + 1).tie_embeddings
    assert shape(256, tie_embeddings=True).tie_embeddings
    assert not shape(1 << 15, tie_embeddings=False).tie_embeddings


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


@pytest.mark.parametrize(("trained", "end"), [(5_870_000, ""), (120_000, ", 0.12 M trained"), (512, ", 512 trained")])
def test_the_line_says_how_much_is_trained(trained: int, end: str) -> None:
    assert shape_line(shape(), 5_870_000, trained).endswith(f"5.87 M parameters{end}")
