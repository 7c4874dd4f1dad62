import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genkit.errors import InputError, UsageError
from genkit.runtime.device import resolve
from genkit.runtime.manager import Runtime
from genkit.text.config import GPTConfig
from genkit.text.evalconfig import EvalConfig
from genkit.text.evaluate import evaluate, evaluate_model, sliding_loss, windows
from genkit.text.heldout import Chunk
from genkit.text.losses import IGNORE
from genkit.text.models.gpt import GPT
from genkit.text.models.store import load_model
from genkit.text.tokenizer import Tokenizer

CONFIG = GPTConfig(vocab_size=16, block_size=8, n_layer=1, n_head=1, n_kv_head=1, n_embd=8, head_dim=8, n_inner=16)
RNG = np.random.default_rng(0)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(resolve("cpu", "fp32", task="eval"))


@pytest.fixture
def model() -> GPT:
    """Its hidden states depend on what comes before, which those of a new model do not."""
    torch.manual_seed(0)
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.4)
    return model


# While training.


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary(runtime: Runtime) -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        model.embed.weight.zero_()  # every logit is zero
    tokens = np.arange(100, dtype=np.uint16) % 16
    found = evaluate(model, tokens, runtime, bytes_per_token=2.0, max_tokens=10**6, batch_size=5)
    assert found["val_loss"] == pytest.approx(math.log(16), abs=1e-5)
    assert found["val_ppl"] == pytest.approx(16, rel=1e-4)
    assert found["val_bpb"] == pytest.approx(2.0, abs=1e-5)  # 4 bits a token of 2 bytes
    assert model.training


def losses_of(model: GPT, tokens: np.ndarray) -> np.ndarray:
    """(windows, 8): the loss of each target of the windows of eight that do not overlap."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    rows = torch.stack([ids[i : i + 9] for i in range(0, len(ids) - 8, 8)])
    with torch.no_grad():
        logp = model(rows[:, :-1]).log_softmax(-1)
    return -logp.gather(2, rows[:, 1:, None]).squeeze(2).numpy()  # type: ignore[no-any-return]


def test_it_is_the_mean_over_all_windows(model: GPT, runtime: Runtime) -> None:
    tokens = RNG.integers(0, 16, 41).astype(np.uint16)  # five windows of eight
    losses = losses_of(model, tokens)
    found = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=10**6, batch_size=2)
    assert found["val_loss"] == pytest.approx(losses.mean(), abs=1e-5)
    few = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=16, batch_size=2)
    assert few["val_loss"] == pytest.approx(losses[[0, -1]].mean(), abs=1e-5)


def test_what_the_mask_leaves_out_does_not_count(model: GPT, runtime: Runtime) -> None:
    tokens, mask = RNG.integers(0, 16, 41).astype(np.uint16), np.zeros(41, np.uint8)
    mask[[3, 4, 20, 30]] = 1  # in the windows 0, 2 and 3
    counted = losses_of(model, tokens).ravel()[[2, 3, 19, 29]]  # a target is one later than its input
    found = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=10**6, batch_size=2, mask=mask)
    assert found["val_loss"] == pytest.approx(counted.mean(), abs=1e-5)
    few = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=8, batch_size=2, mask=mask)
    assert few["val_loss"] == pytest.approx(counted[:2].mean(), abs=1e-5)
    with pytest.raises(InputError, match="no token of the validation text counts"):
        evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=8, batch_size=2, mask=mask * 0)


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 2), (3, 1), (4, 8), (7, 2)])
def test_ranks_share_the_windows_and_do_as_many_passes(
    model: GPT, runtime: Runtime, ranks: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = RNG.integers(0, 16, 41).astype(np.uint16)
    whole = evaluate(model, tokens, runtime, bytes_per_token=1.0, max_tokens=10**6, batch_size=2)
    sums, passes = torch.zeros(2), []
    real = model.loss

    def counted_loss(x: Tensor, y: Tensor) -> Tensor:
        passes[-1] += 1
        return real(x, y)

    def add(tensor: Tensor) -> Tensor:
        sums.add_(tensor)
        return tensor

    monkeypatch.setattr(model, "loss", counted_loss)
    for rank in range(ranks):
        passes.append(0)
        other: Any = SimpleNamespace(
            rank=rank, world_size=ranks, mean=add, device=runtime.device, autocast=runtime.autocast
        )
        try:
            evaluate(model, tokens, other, bytes_per_token=1.0, max_tokens=10**6, batch_size=batch_size)
        except ZeroDivisionError:
            assert rank >= 5  # there are five windows: alone, this rank has nothing to tell
    assert sums[1] == 40
    assert (sums[0] / sums[1]).item() == pytest.approx(whole["val_loss"], abs=1e-5)
    assert len(set(passes)) == 1


# The sliding window.


def in_chunks(tokens: np.ndarray, *sizes: int) -> Iterator[Chunk]:
    yield from ((part, part) for part in np.split(tokens, np.cumsum(sizes)))


def test_windows_by_hand() -> None:
    rows = [(x.tolist(), y.tolist()) for x, y in windows(in_chunks(np.arange(1, 8), 1, 0, 4), 0, 4, 2)]
    assert rows == [
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([2, 3, 4, 5], [IGNORE, IGNORE, 5, 6]),
        ([4, 5, 6], [IGNORE, IGNORE, 7]),
    ]


def test_what_does_not_count_is_no_target_but_seen() -> None:
    ids = np.arange(1, 10)
    rows = [(x.tolist(), y.tolist()) for x, y in windows([(ids, np.where(ids % 8 < 2, ids, IGNORE))], 0, 3, 2)]
    assert rows == [
        ([0, 1, 2], [1, IGNORE, IGNORE]),
        ([6, 7, 8], [IGNORE, 8, 9]),  # those between have no target
    ]


@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 16, 17, 50])
@pytest.mark.parametrize("stride", [1, 3, 4, 7, 8])
def test_every_token_is_a_target_once_and_behind_enough_others(length: int, stride: int) -> None:
    tokens = np.arange(1, length + 1)
    rows = list(windows(in_chunks(tokens, 2, 5), 0, 8, stride))
    targets = [t for _, y in rows for t in y.tolist() if t != IGNORE]
    assert targets == tokens.tolist()
    for number, (x, y) in enumerate(rows):
        assert len(x) == len(y) <= 8
        assert (y[y != IGNORE] == x[y != IGNORE] + 1).all()
        assert number == 0 or np.flatnonzero(y != IGNORE)[0] + 1 >= 8 - stride + 1


def test_windows_need_no_more_than_a_chunk_of_the_data() -> None:
    taken = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield np.zeros(10, np.int64), np.zeros(10, np.int64)

    rows = windows(chunks(), 0, 8, 4)
    next(rows)
    assert taken == 1


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_it_does_not_depend_on_the_batch(model: GPT, runtime: Runtime, stride: int, batch_size: int) -> None:
    tokens = RNG.integers(0, 16, 53)
    expected = []
    for place in range(53):  # each token after all that its window shows
        window = 0 if place < 8 else (place - 8) // stride + 1
        held = np.concatenate([[5], tokens])[window * stride : place + 1]
        with torch.no_grad():
            logp = model(torch.from_numpy(held)[None])[0, -1].log_softmax(-1)
        expected.append(-logp[tokens[place]].item())
    said: list[tuple[int, float]] = []
    found = sliding_loss(
        model,
        windows(in_chunks(tokens), 5, 8, stride),
        runtime,
        batch_size=batch_size,
        on_progress=lambda *now: said.append(now),
    )
    assert found == pytest.approx(np.mean(expected), abs=1e-5)
    assert said[-1] == (53, found)


def test_windows_that_do_not_overlap_are_those_of_training(model: GPT, runtime: Runtime) -> None:
    tokens = RNG.integers(0, 16, 40)
    one = sliding_loss(model, windows(in_chunks(tokens), 3, 8, 8), runtime, batch_size=2)
    stream = np.concatenate([[3], tokens]).astype(np.uint16)
    other = evaluate(model, stream, runtime, bytes_per_token=1.0, max_tokens=10**6, batch_size=3)
    assert one == pytest.approx(other["val_loss"], abs=1e-6)


def test_a_loss_that_is_no_number_is_refused(model: GPT, runtime: Runtime) -> None:
    with torch.no_grad():
        model.norm.weight.fill_(math.inf)
    with pytest.raises(InputError, match="the loss is not finite"):
        sliding_loss(model, windows(in_chunks(np.arange(10)), 3, 8, 8), runtime, batch_size=2)
    with pytest.raises(InputError, match="no token to score"):
        sliding_loss(model, windows([], 3, 8, 8), runtime, batch_size=2)


# Against transformers.


def sliding_window_recipe(model: Any, ids: Tensor, max_length: int, stride: int) -> float:
    """The usual loop over windows: labels of what an earlier window had are -100; a mean over tokens."""
    nats, count, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + max_length, ids.shape[1])
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss.item()
        counted = int((labels[:, 1:] != -100).sum())  # the model shifts them by one
        nats, count, before = nats + loss * counted, count + counted, end
        if end == ids.shape[1]:
            break
    return nats / count


@pytest.mark.parametrize("arch", ["gpt2", "qwen3", "llama"])
@pytest.mark.parametrize(("window", "stride"), [(15, 5), (15, 15), (10, 1)])
def test_transformers_says_the_same(arch: str, window: int, stride: int, runtime: Runtime, tmp_path: Path) -> None:
    import transformers

    shape = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0}
    wide = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 16}  # fmt: skip
    if arch == "gpt2":
        config: Any = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **shape)
        theirs: Any = transformers.GPT2LMHeadModel(config)
    else:
        name = arch.capitalize()
        theirs = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**wide, **shape))
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    theirs.eval().save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    tokens = RNG.integers(0, 40, 101)
    stream = torch.from_numpy(np.concatenate([[0], tokens]))[None]
    # a window of theirs holds the target of its last input as well
    expected = sliding_window_recipe(theirs, stream, window + 1, stride)
    found = sliding_loss(ours, windows(in_chunks(tokens, 30, 1), 0, window, stride), runtime, batch_size=4)
    assert found == pytest.approx(expected, abs=1e-5)


# Of files.


def test_a_model_measured_on_a_file(tiny_text: Path, runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat.\n<|endoftext|>\nThe dog ran to the tree.\n" * 6)
    tokenizer, model = Tokenizer.load(tiny_text), load_model(tiny_text)
    eos = tokenizer.eos_id
    ids = [*tokenizer.encode("The cat sat."), eos, *tokenizer.encode("The dog ran to the tree.\nThe cat sat."), eos]
    found = evaluate_model(EvalConfig(data=(str(tmp_path / "a.txt"),)), tiny_text, runtime)
    assert (found.documents, found.end_of_text, found.unknown) == (7, 7, 0)
    assert found.tokens == found.bytes + 7
    assert (found.window, found.stride, found.context_min) == (64, 32, 33)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / math.log(2) / found.bytes)
    short = evaluate_model(EvalConfig(data=(str(tmp_path / "a.txt"),), max_tokens=len(ids)), tiny_text, runtime)
    assert (short.tokens, short.end_of_text, short.documents) == (len(ids), 2, 2)
    with torch.no_grad():  # one window has all of them
        loss = model.loss(torch.tensor([[eos, *ids[:-1]]]), torch.tensor([ids])).item()
    assert short.loss == pytest.approx(loss, abs=1e-5)


def test_what_does_not_fit_is_refused(tiny_text: Path, runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat.")
    (tmp_path / "empty.txt").write_text("\n\n")
    data = (str(tmp_path / "a.txt"),)
    with pytest.raises(UsageError, match="--block-size 65 is more than the model's context"):
        evaluate_model(EvalConfig(data=data, block_size=65), tiny_text, runtime)
    with pytest.raises(UsageError, match="--stride 65 is more than the window of 64"):
        evaluate_model(EvalConfig(data=data, stride=65), tiny_text, runtime)
    with pytest.raises(UsageError, match="--stride 9 is more than the window of 8"):
        EvalConfig(data=data, block_size=8, stride=9)
    with pytest.raises(InputError, match=r"there is no text in .*empty\.txt"):
        evaluate_model(EvalConfig(data=(*data, str(tmp_path / "empty.txt"))), tiny_text, runtime)
    (tmp_path / "chat.jsonl").write_text('{"prompt": "Who?", "completion": ""}\n')
    with pytest.raises(InputError, match="all answers are empty"):
        evaluate_model(EvalConfig(data=(str(tmp_path / "chat.jsonl"),)), tiny_text, runtime)
