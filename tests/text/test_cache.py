"""Decoding over a cache equals full passes, and a row's bits do not depend on what is around it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from genkit.errors import InputError
from genkit.text.config import ARCHITECTURES, GPTConfig
from genkit.text.models.cache import KVCache, attend_cached
from genkit.text.models.gpt import GPT

CPU = torch.device("cpu")


def noisy(arch: str = "qwen3", **changes: int) -> GPT:
    config = GPTConfig(
        arch=arch, vocab_size=97, block_size=300, n_layer=3, n_head=4, n_kv_head=4 if arch == "gpt2" else 2,
        n_embd=32, head_dim=12 if arch == "qwen3" else 8, n_inner=56,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(config, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3, 0.4)
    return model


def empty(model: GPT, rows: int, slots: int, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache.empty(model.config, rows, slots, device=CPU, dtype=dtype)


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kv", [1, 2, 4])
@torch.no_grad()
def test_ragged_rows_equal_full_passes(arch: str, kv: int) -> None:
    model = noisy(arch) if arch == "gpt2" else noisy(arch, n_kv_head=kv)
    ids, lengths, cache = tokens(3, 14), torch.tensor([4, 9, 1]), empty(model, 3, 256)
    logits = []
    for row, length in enumerate(lengths.tolist()):
        logits.append(
            model.logits(model.hidden(ids[row : row + 1, :length], cache.window(slice(row, row + 1), 9)))[0, -1:]
        )
    for step in range(5):
        positions = lengths + step
        hidden = model.hidden(ids.gather(1, positions.unsqueeze(1)), cache, positions)
        logits = [torch.cat([row, new]) for row, new in zip(logits, model.logits(hidden), strict=True)]
    for row, length in enumerate(lengths.tolist()):
        alone = model(ids[row : row + 1, : length + 5])[0, length - 1 :]
        torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_what_is_stored_is_what_was_computed() -> None:
    model, ids = noisy(), tokens(2, 6)
    whole, parts = empty(model, 2, 16), empty(model, 2, 16)
    model.hidden(ids, whole)
    model.hidden(ids[:, :4], parts)
    for position in (4, 5):
        model.hidden(ids[:, position : position + 1], parts, torch.tensor([position, position]))
    torch.testing.assert_close(parts.keys, whole.keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.values, whole.values, atol=1e-5, rtol=0)
    assert whole.keys[..., :6, :12].abs().min() > 0
    assert not whole.keys[..., 6:, :].any()
    assert not whole.keys[..., 12:].any()  # heads of 12 numbers lie 16 apart


@torch.no_grad()
def test_windows_share_memory_and_write_copies() -> None:
    model = noisy()
    cache, other = empty(model, 4, 32), empty(model, 2, 8)
    other.keys.fill_(1)
    other.values.fill_(2)
    cache.window(slice(1, 3), 16).write(other)
    assert cache.keys[:, 1:3, :, :8].eq(1).all()
    assert cache.values[:, 1:3, :, :8].eq(2).all()
    assert cache.keys.sum() == other.keys.numel()
    assert (cache.rows, cache.slots, other.rows, other.slots) == (4, 32, 2, 8)


def test_more_tokens_than_there_is_room_are_refused() -> None:
    model = noisy()
    with pytest.raises(InputError, match="18 tokens do not fit a context of 17"):
        model.hidden(tokens(3, 18), empty(model, 3, 17))


def test_memory_is_what_it_says() -> None:
    model = noisy()
    cache = empty(model, 3, 20, torch.bfloat16)
    assert cache.keys.nbytes + cache.values.nbytes == 3 * KVCache.row_bytes(model.config, 20, torch.bfloat16)


@pytest.mark.parametrize(
    ("n_kv", "group", "hd"), [(4, 1, 64), (2, 4, 16), (1, 7, 10), (3, 3, 6), (2, 2, 128), (1, 1, 2)]
)
def test_attention_to_a_cache(n_kv: int, group: int, hd: int) -> None:
    """Equal to torch's; and the same bits for other numbers of rows and slots, and at another place."""
    rows, slots, width = 8, 1024, -(-hd // 16) * 16
    torch.manual_seed(0)
    q = torch.randn(rows, n_kv * group, 1, hd)
    k, v = (torch.zeros(rows, n_kv, slots, width) for _ in range(2))
    k[..., :hd], v[..., :hd] = torch.randn(rows, n_kv, slots, hd), torch.randn(rows, n_kv, slots, hd)
    beyond = torch.arange(slots) > torch.randint(1, 64, (rows, 1, 1, 1))
    mask = torch.zeros(rows, 1, 1, slots).masked_fill(beyond, -torch.inf)
    whole = attend_cached(q, k, v, mask)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        q, k[..., :hd], v[..., :hd], attn_mask=mask, enable_gqa=True
    )
    torch.testing.assert_close(whole, theirs)
    for n in (1, 3, 8):
        for some in (64, 128, 256, 1024):
            part = attend_cached(q[:n], k[:n, :, :some], v[:n, :, :some], mask[:n, ..., :some])
            assert torch.equal(part, whole[:n]), (n, some)
    order = torch.randperm(rows)
    assert torch.equal(attend_cached(q[order], k[order], v[order], mask[order]), whole[order])
