"""Tokens a second of one stream in an open process, against llama.cpp's bench tool.

    python benchmarks/decode.py [--json] [--rounds N] [--llama-cpp DIR]

`load("story").stream(..., live=False)` continues one prompt greedily by 128 tokens;
everything from the call to the last piece of text counts. `llama-bench` decodes 128 tokens from a GGUF
file of the same weights on as many threads, and neither samples nor makes text.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from harness import Result, Row, in_turn, main, run, threads
from peers import PROMPT, TOKENS, exported, llama_cpp, no_llama_cpp

from genkit import TextPipeline, load
from genkit.text.config import GenerationConfig

REPEATS = 5  # generations a round; the rate is that of all of them


def ours(pipeline: TextPipeline) -> Callable[[], float]:
    config = GenerationConfig(max_new_tokens=TOKENS, temperature=0, repetition_penalty=1)

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(REPEATS):
            *_, last = pipeline.stream(PROMPT, config, live=False)
            if last.finish != "length":
                raise SystemExit(f"the greedy story ends before {TOKENS} tokens")
        return REPEATS * TOKENS / (time.perf_counter() - started)

    return measure


def llama_bench(binary: Path, gguf: Path, *flags: str) -> Callable[[], float]:
    options = ("-p", 0, "-n", TOKENS, "-r", REPEATS, "-t", threads(), "-o", "json", *flags)

    def measure() -> float:
        return float(json.loads(run([str(a) for a in (binary, "-m", gguf, *options)]))[0]["avg_ts"])

    return measure


def measure(args: argparse.Namespace) -> list[Result]:
    results: list[Result] = []
    for precision, name in (("fp32", "f32"), ("int8", "q8_0")):
        what, gguf = f"warm decode, {name}", exported(precision)
        builds = llama_cpp(args, "llama-bench")
        peers = {f"llama-bench, {build}": llama_bench(binary, gguf) for build, binary in builds.items()}
        if not peers:
            results.append(no_llama_cpp(what))
        pipeline = cast(TextPipeline, load("story", device="cpu", precision=precision))
        with pipeline:
            rates = in_turn({"genkit": ours(pipeline)} | peers, args.rounds)
        for peer in peers:
            results.append(Row(what, peer, rates["genkit"], rates[peer], "tok/s", ">= 0.95"))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
