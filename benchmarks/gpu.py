"""Decoding on one GPU: the GPT-2 124 M shape in bf16, batches of 1 and 64, against transformers.generate.

    python benchmarks/gpu.py [--json] [--rounds N]

Random weights, prompts of 32 tokens, 256 new ones, greedily, both open and warm. The
share of the memory's bandwidth says how near the hardware's limit a step is: it must
read every weight, and the keys and values so far, once; the bandwidth is that of a
large copy on the same GPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from harness import Result, Row, Skipped, in_turn, main

PROMPT, NEW = 32, 256


def measure(args: argparse.Namespace) -> list[Result]:
    from genkit.runtime.device import detect

    what, hardware = "GPT-2 124M, bf16", detect()
    if not hardware.cuda:
        return [Skipped(what, hardware.cuda_problem)]
    from transformers import GPT2Config

    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), GPT2Config(), "cuda", "bf16")
        return [contest.row(f"{what}, batch {batch}", batch, args.rounds) for batch in (1, 64)]


class Contest:
    """Both engines with the same random weights, open on the same device."""

    def __init__(self, folder: Path, shape: Any, device: str, precision: str) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        from genkit.runtime.device import resolve
        from genkit.runtime.manager import Runtime
        from genkit.text.engines.torch import TorchTextEngine
        from genkit.text.models.store import load_model

        torch.manual_seed(0)
        self.peer = GPT2LMHeadModel(shape)
        self.peer.save_pretrained(folder)
        self.shape, self.device = shape, torch.device(device)
        self.peer.to(self.device, torch.bfloat16 if precision == "bf16" else torch.float32).eval()
        runtime = Runtime(resolve(device, precision, "torch", task="text"))
        self.ours = TorchTextEngine(load_model(folder), runtime)

    def row(self, what: str, batch: int, rounds: int) -> Row:
        """Compare the rates of `batch` rows; ours is told as a share of the bandwidth too."""
        import numpy as np

        prompts = np.random.default_rng(0).integers(1, self.shape.vocab_size - 1, (batch, PROMPT)).tolist()
        rates = in_turn({"genkit": self._ours(prompts), "transformers": self._theirs(prompts)}, rounds)
        share = median(rates["genkit"]) / batch * self.step_bytes(batch) / self.bandwidth()
        note = f", {share:.0%} of the memory's bandwidth"
        return Row(what, "transformers.generate", rates["genkit"], rates["transformers"], "tok/s", ">= 5", note=note)

    def step_bytes(self, batch: int) -> float:
        """What one step must read: the weights but for the table of positions, and half the final cache."""
        size = next(self.peer.parameters()).element_size()
        weights = sum(p.numel() for p in self.peer.parameters()) - self.shape.n_positions * self.shape.n_embd
        cache = 2 * self.shape.n_layer * self.shape.n_embd * batch * (PROMPT + NEW / 2)
        return size * (weights + cache)

    def bandwidth(self) -> float:
        """Bytes a second that a large copy reads and writes."""
        import torch

        source = torch.empty(1 << (30 if self.device.type == "cuda" else 24), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        seconds = []
        for _ in range(10):
            started = self._now()
            target.copy_(source)
            seconds.append(self._now() - started)
        return 2 * source.numel() / min(seconds)

    def _now(self) -> float:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()

    def _ours(self, prompts: list[list[int]]) -> Callable[[], float]:
        from genkit.text.config import GenerationConfig
        from genkit.text.engines import TokenRequest

        config = GenerationConfig(max_new_tokens=NEW, min_new_tokens=NEW, temperature=0)

        def measure() -> float:
            started = self._now()
            tokens = sum(1 for _ in self.ours.generate([TokenRequest(ids, config, seed=0) for ids in prompts]))
            assert tokens == len(prompts) * NEW
            return tokens / (self._now() - started)

        return measure

    def _theirs(self, prompts: list[list[int]]) -> Callable[[], float]:
        import torch

        ids = torch.tensor(prompts, device=self.device)
        options: dict[str, Any] = {"min_new_tokens": NEW, "max_new_tokens": NEW, "do_sample": False}

        def measure() -> float:
            started = self._now()
            output = self.peer.generate(
                ids, attention_mask=torch.ones_like(ids), pad_token_id=self.shape.eos_token_id, **options
            )
            assert output.shape[1] == PROMPT + NEW
            return len(prompts) * NEW / (self._now() - started)

        return measure


if __name__ == "__main__":
    main(__doc__, measure)
