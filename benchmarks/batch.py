"""64 prompts x 128 tokens from a file, against batched decoding by llama.cpp and by transformers.

    python benchmarks/batch.py [--json] [--rounds N] [--llama-cpp DIR]

Ours is the whole process `genkit text --input prompts.txt --output out.jsonl`, imports
and loading included; its tokens are counted in the output. The peers are open
already, and only their batched generation counts: `llama-batched-bench` with the best
of several numbers of parallel sequences (it neither samples nor makes text), the
xllamacpp library, likewise, and `transformers` with all
prompts in one padded batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

from harness import Result, Row, environment, genkit, in_turn, main, process, run, threads
from peers import CONTEXT, STORY, TOKENS, Wheel, auto_precision, exported, llama_cpp, no_llama_cpp, script

COUNT = 64
NAMES = ("Lily", "Tom", "The old king", "A little dog", "Anna", "The fox", "Ben", "A brave girl", "Mia", "The bear",
         "An old woman", "Sam", "A cat", "The prince", "Sara", "A small bird")  # fmt: skip
DEEDS = ("went to the park", "found a red ball", "was very sad", "saw a big tree", "had a secret", "wanted to fly",
         "lived in a house", "liked to sing", "walked through the forest", "met a friend")  # fmt: skip
PARALLEL = (8, 16, 32, 64)
# reads lines, and after each prints how many seconds a batch took
TRANSFORMERS_SCRIPT = """\
import sys, time
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompts, tokens = sys.argv[1], open(sys.argv[2]).read().splitlines(), int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder)
for line in sys.stdin:
    started = time.perf_counter()
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    output = model.generate(
        **inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, repetition_penalty=1.0
    )
    tokenizer.batch_decode(output)
    print(time.perf_counter() - started, flush=True)
"""


def command(prompts: Path, output: Path) -> list[str]:
    flags = ("--max-new-tokens", TOKENS, "--temperature", 0, "--repetition-penalty", 1, "--seed", 0)
    return genkit("text", "--input", prompts, "--output", output, *map(str, flags))


def choose_prompts(folder: Path) -> list[str]:
    """COUNT prompts whose greedy stories do not end before TOKENS tokens, so that all do the same work."""
    candidates, output = folder / "candidates.txt", folder / "candidates.jsonl"
    candidates.write_text("".join(f"{name} {deed}\n" for name in NAMES for deed in DEEDS))
    run(command(candidates, output))
    results = [json.loads(line) for line in output.read_text().splitlines()]
    prompts = [result["prompt"] for result in results if result["samples"][0]["finish"] == "length"]
    if len(prompts) < COUNT:
        raise SystemExit(f"only {len(prompts)} of {len(results)} stories have {TOKENS} tokens")
    return prompts[:COUNT]


def ours(prompts: Path, output: Path) -> Callable[[], float]:
    """Tokens a second of the whole process, as its output counts them."""
    seconds = process(command(prompts, output))

    def measure() -> float:
        output.unlink(missing_ok=True)  # else finished prompts would be skipped
        elapsed = seconds()
        results = [json.loads(line) for line in output.read_text().splitlines()]
        return sum(int(result["samples"][0]["tokens"]) for result in results) / elapsed

    return measure


def batched_bench(binary: Path, gguf: Path) -> Callable[[], float]:
    """The best rate over PARALLEL, prompts of 8 tokens included."""
    size = ("-npp", 8, "-ntg", TOKENS, "-npl", ",".join(map(str, PARALLEL)), "-c", PARALLEL[-1] * CONTEXT)
    peer = [str(a) for a in (binary, "-m", gguf, *size, "-t", threads(), "--output-format", "jsonl")]

    def measure() -> float:
        results = [json.loads(line) for line in run(peer).splitlines() if line.startswith("{")]
        return max(float(r["pl"] * r["tg"] / r["t"]) for r in results)

    return measure


def wheel(gguf: Path, prompts: list[str], parallel: int) -> Callable[[], float]:
    def measure() -> float:
        with Wheel(gguf, parallel=parallel) as server:
            started = perf_counter()
            server.complete(prompts, TOKENS)
            return len(prompts) * TOKENS / (perf_counter() - started)

    return measure


@contextmanager
def transformers(folder: Path, prompts: Path) -> Iterator[Callable[[], float]]:
    peer, pipe = script(folder, "batch.py", TRANSFORMERS_SCRIPT, STORY, prompts, TOKENS), subprocess.PIPE
    with subprocess.Popen(peer, stdin=pipe, stdout=pipe, text=True, env=environment()) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        talk, listen = child.stdin, child.stdout

        def measure() -> float:
            print("go", file=talk, flush=True)
            return COUNT * TOKENS / float(listen.readline())

        yield measure


def measure(args: argparse.Namespace) -> list[Result]:
    what = f"{COUNT} prompts x {TOKENS} tokens"
    gguf = exported(auto_precision())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prompts, path = choose_prompts(folder), folder / "prompts.txt"
        path.write_text("".join(prompt + "\n" for prompt in prompts))
        builds = llama_cpp(args, "llama-batched-bench")
        peers = {f"llama-batched-bench, {build}": batched_bench(binary, gguf) for build, binary in builds.items()}
        results: list[Result] = [] if peers else [no_llama_cpp(what)]
        best = max(PARALLEL, key=lambda parallel: wheel(gguf, prompts, parallel)())
        peers[f"xllamacpp alone, {best} at once"] = wheel(gguf, prompts, best)
        peers["transformers"] = stack.enter_context(transformers(folder, path))
        rates = in_turn({"genkit": ours(path, folder / "out.jsonl")} | peers, args.rounds)
    for peer in peers:
        reach = ">= 3" if peer == "transformers" else ">= 1" if "bench" in peer else None
        results.append(Row(what, peer, rates["genkit"], rates[peer], "tok/s", reach))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
