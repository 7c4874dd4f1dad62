"""The first 128 tokens: a whole `genkit text` process against whole peer processes.

    python benchmarks/cold_text.py [--json] [--rounds N] [--llama-cpp DIR]

The bundled story model, everything from the start of the process to its end.
llama.cpp's `llama-completion` gets the same weights as GGUF, in the precision that
genkit takes; `transformers` gets the folder. Once greedily, all with the same settings,
and once with each program's own default settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from harness import Result, Row, genkit, in_turn, main, process, run, threads
from peers import PROMPT, STORY, TOKENS, TRANSFORMERS_SCRIPT, auto_precision, exported, llama_cpp, no_llama_cpp, script

GREEDY = ("--temperature", "0", "--repetition-penalty", "1")


def full_length_seed() -> int:
    """A seed whose story does not end before TOKENS tokens with the default settings."""
    for seed in range(100):
        args = (PROMPT, "--max-new-tokens", TOKENS, "--seed", seed)
        if finish(*map(str, args)) == "length":
            return seed
    raise SystemExit(f"no story of {TOKENS} tokens with a seed below 100")


def finish(*args: str) -> str:
    document = json.loads(run(genkit("text", *args, "--format", "json")))
    return str(document["samples"][0]["finish"])


def measure(args: argparse.Namespace) -> list[Result]:
    common = ("text", PROMPT, "--max-new-tokens", str(TOKENS), "--seed")
    if finish(PROMPT, "--max-new-tokens", str(TOKENS), *GREEDY) != "length":
        raise SystemExit(f"the greedy story ends before {TOKENS} tokens")
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        transformers = script(Path(folder), "sample.py", TRANSFORMERS_SCRIPT, STORY, PROMPT, TOKENS)
        output = Path(folder, "story.txt")
        for settings, flags, peer_flags in (
            ("greedy", ("0", *GREEDY), ("--temp", "0")),
            ("default settings", (str(full_length_seed()),), ("--seed", "1")),
        ):
            ours = {"genkit text": process(genkit(*common, *flags), output=output)}
            peers = {}
            for build, binary in llama_cpp(args, "llama-completion").items():
                command = (
                    binary,
                    "-m",
                    exported(auto_precision()),
                    "-p",
                    PROMPT,
                    "-n",
                    TOKENS,
                    "--ignore-eos",
                    "-no-cnv",
                )
                options = ("-t", threads(), *peer_flags)
                peers[f"llama-completion, {build}"] = process([str(a) for a in (*command, *options)], output=output)
            what = f"cold text, {TOKENS} tokens, {settings}"
            if not peers:
                results.append(no_llama_cpp(what))
            if settings == "greedy":
                peers["a transformers script"] = process(transformers, output=output)
            seconds = in_turn(ours | peers, args.rounds)
            for peer in peers:
                slow = "transformers" in peer
                reach = ">= 10" if slow else "<= 1.6"
                results.append(Row(what, peer, seconds["genkit text"], seconds[peer], "s", reach, inverse=slow))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
