"""What each step trains on: every block, in an order that the seed alone decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from genkit.errors import InputError
from genkit.text.blocks import Blocks, Segment
from genkit.text.losses import IGNORE


def batch(tokens: np.ndarray, **where: int) -> tuple[torch.Tensor, torch.Tensor]:
    return Blocks(tokens).batch(**where)


def epoch(tokens: np.ndarray, block_size: int, number: int, seed: int = 0) -> torch.Tensor:
    blocks = len(tokens) // block_size
    return torch.cat(
        [
            batch(tokens, block_size=block_size, batch_size=1, seed=seed, step=number * blocks + i)[0]
            for i in range(blocks)
        ]
    )


def test_targets_are_the_next_tokens() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    x, y = batch(tokens, block_size=16, batch_size=40, seed=1, step=5)
    assert x.shape == y.shape == (40, 16)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal((x + 1) % 100, y)
    assert x.is_contiguous()
    assert y.is_contiguous()


@pytest.mark.parametrize(("length", "block_size"), [(96, 16), (100, 16), (17, 16), (33, 16), (9, 8)])
def test_an_epoch_takes_every_token_at_most_once(length: int, block_size: int) -> None:
    tokens = np.arange(length, dtype=np.uint32)
    for number in range(5):
        seen = epoch(tokens, block_size, number).flatten().tolist()
        assert len(seen) == len(set(seen)) == length // block_size * block_size


def test_epochs_cut_and_order_anew() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    epochs = [epoch(tokens, 10, number) for number in range(3)]
    firsts = [set((e[:, 0] % 10).tolist()) for e in epochs]
    assert all(len(first) == 1 for first in firsts)  # one grid an epoch
    assert len({first.pop() for first in firsts}) > 1
    assert not torch.equal(epochs[0].argsort(0)[:, 0], epochs[1].argsort(0)[:, 0])


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    tokens = np.arange(5000, dtype=np.uint16)

    def at(step: int, seed: int = 3, size: int = 8) -> torch.Tensor:
        return batch(tokens, block_size=32, batch_size=size, seed=seed, step=step)[0]

    forward = [at(step) for step in range(60)]
    assert all(torch.equal(at(step), forward[step]) for step in reversed(range(60)))
    assert not torch.equal(at(0, seed=4), forward[0])
    assert torch.equal(torch.cat([at(2 * i, size=4) for i in range(2)]), torch.cat([at(0, size=4), at(2, size=4)]))
    # the size of a batch only groups the same sequence
    assert torch.equal(torch.cat(forward), torch.cat([at(step, size=16) for step in range(30)]))


def test_batches_stay_what_they_were() -> None:
    """A resumed run must see the same data also after an upgrade."""
    x, _ = batch(np.arange(1000, dtype=np.uint16), block_size=10, batch_size=5, seed=0, step=7)
    assert x[:, 0].tolist() == [684, 874, 294, 824, 424]


def test_seeds_of_64_bits() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    assert batch(tokens, block_size=8, batch_size=2, seed=(1 << 63) - 1, step=10**9)[0].shape == (2, 8)


def test_text_shorter_than_a_block_is_refused() -> None:
    tokens = np.arange(20, dtype=np.uint16)
    assert batch(tokens, block_size=19, batch_size=1, seed=0, step=0)[0].shape == (1, 19)
    with pytest.raises(InputError, match="has 20 tokens, too few for a context of 20") as caught:
        batch(tokens, block_size=20, batch_size=1, seed=0, step=0)
    assert "--block-size 19 or less" in str(caught.value.hint)
    with pytest.raises(InputError) as caught:
        batch(tokens[:5], block_size=20, batch_size=1, seed=0, step=0)
    assert caught.value.hint == "give more text"


# ---- weights -----------------------------------------------------------------

SEGMENTS = (Segment(0, 300, 3.0), Segment(300, 1000, 1.0), Segment(1000, 1600, 0.5))


def firsts(blocks: Blocks, epoch: int, seed: int = 0) -> list[int]:
    """Where the blocks of an epoch begin, tokens being 0, 1, 2 ..."""
    each = blocks.per_epoch(10)
    return blocks.batch(block_size=10, batch_size=each, seed=seed, step=epoch)[0][:, 0].tolist()


def test_an_epoch_sees_each_segment_as_often_as_its_weight_says() -> None:
    blocks = Blocks(np.arange(1600, dtype=np.uint16), SEGMENTS)
    assert blocks.per_epoch(10) == 90 + 70 + 30
    for epoch in range(4):
        seen = Counter(int(np.searchsorted([300, 1000], first, side="right")) for first in firsts(blocks, epoch))
        assert seen == {0: 90, 1: 70, 2: 30}


def test_a_fraction_takes_other_blocks_in_each_epoch() -> None:
    blocks = Blocks(np.arange(1600, dtype=np.uint16), SEGMENTS)
    for epoch in (0, 2, 4):  # two epochs are one pass
        both = [first for e in (epoch, epoch + 1) for first in firsts(blocks, e) if first >= 1000]
        assert len(set(both)) == 60
        assert len({first % 10 for first in both}) <= 2  # one grid, of which a block may lie over the end


def test_a_whole_weight_takes_every_block_as_often() -> None:
    blocks = Blocks(np.arange(1600, dtype=np.uint16), SEGMENTS)
    x, _ = blocks.batch(block_size=10, batch_size=190, seed=0, step=3)
    assert set(Counter(x[x < 300].tolist()).values()) == {3}
    assert set(Counter(x[(x >= 300) & (x < 1000)].tolist()).values()) == {1}


def test_segments_are_mixed_evenly() -> None:
    blocks = Blocks(np.arange(20_000, dtype=np.uint16), (Segment(0, 10_000, 1.0), Segment(10_000, 20_000, 1.0)))
    light = np.array(firsts(blocks, 0)) >= 10_000
    thirds = [part.mean() for part in np.array_split(light, 4)]
    assert all(abs(share - 0.5) < 0.1 for share in thirds)  # 500 draws: 4.5 standard deviations
    assert (np.array(firsts(blocks, 1)) >= 10_000).tolist() != light.tolist()


def test_weights_too_are_a_pure_function_of_seed_and_step() -> None:
    def at(step: int, seed: int = 5) -> list[int]:
        blocks = Blocks(np.arange(1600, dtype=np.uint16), SEGMENTS)  # nothing is remembered
        return blocks.batch(block_size=10, batch_size=7, seed=seed, step=step)[0].flatten().tolist()

    blocks = Blocks(np.arange(1600, dtype=np.uint16), SEGMENTS)
    steps = [blocks.batch(block_size=10, batch_size=7, seed=5, step=step)[0].flatten().tolist() for step in range(60)]
    assert [at(step) for step in (59, 27, 28, 0)] == [steps[59], steps[27], steps[28], steps[0]]
    assert at(0, seed=6) != steps[0]


def test_blocks_stay_within_their_segment() -> None:
    blocks = Blocks(np.arange(1600, dtype=np.uint16), SEGMENTS)
    x, y = blocks.batch(block_size=10, batch_size=400, seed=1, step=0)
    for row in torch.cat((x, y[:, -1:]), 1):
        assert len({int(np.searchsorted([300, 1000], int(token), side="right")) for token in row}) == 1


def test_a_segment_shorter_than_a_block_is_repeated_within_it() -> None:
    blocks = Blocks(np.arange(104, dtype=np.uint16), (Segment(0, 4, 2.0), Segment(4, 104, 1.0)))
    x, _ = blocks.batch(block_size=10, batch_size=11, seed=0, step=0)
    (short,) = [row.tolist() for row in x if row[0] < 4]
    assert short == [(short[0] + i) % 4 for i in range(10)]


# ---- masks -------------------------------------------------------------------


def test_targets_that_do_not_count_are_ignored() -> None:
    mask = (np.arange(1000) % 3 == 0).astype(np.uint8)
    x, y = Blocks(np.arange(1000, dtype=np.uint16), mask=mask).batch(block_size=10, batch_size=50, seed=0, step=0)
    following = (x + 1) % 1000
    assert torch.equal(y, torch.where(following % 3 == 0, following, IGNORE))


def test_the_mask_changes_no_order() -> None:
    tokens, everything = np.arange(1000, dtype=np.uint16), np.ones(1000, dtype=np.uint8)
    plain, masked = Blocks(tokens), Blocks(tokens, mask=everything)
    for step in range(20):
        for a, b in zip(
            *(m.batch(block_size=10, batch_size=9, seed=2, step=step) for m in (plain, masked)), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("place", [0, 1, 499, 998, 999])
@pytest.mark.parametrize("block_size", [8, 10, 300, 999])
def test_every_block_has_a_target(place: int, block_size: int) -> None:
    mask = np.zeros(1000, dtype=np.uint8)
    mask[place] = 1
    blocks = Blocks(np.arange(1000, dtype=np.uint16), mask=mask)
    for step in range(30):
        _, y = blocks.batch(block_size=block_size, batch_size=5, seed=0, step=step)
        assert (y != IGNORE).any(1).all()
        assert set(y[y != IGNORE].tolist()) == {place}


def test_blocks_without_a_target_give_their_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkit.text.blocks._AT_ONCE", 64)
    mask = np.zeros(4000, dtype=np.uint8)
    mask[:2000] = 1
    blocks = Blocks(np.arange(4000, dtype=np.uint16), mask=mask)
    for number in range(3):
        x, y = blocks.batch(block_size=10, batch_size=400, seed=0, step=number)
        assert (y != IGNORE).any(1).all()
        seen = Counter(x[:, 0].tolist())
        assert len(seen) in (200, 201)
        assert max(seen.values()) == 2
