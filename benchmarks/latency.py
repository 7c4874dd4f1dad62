"""How long `genkit --help` takes, against the least a Click program can take and against peers' help.

    python benchmarks/latency.py [--json] [--rounds N]

The command lines of `transformers` and `llm` are peers where they are installed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from harness import Result, Row, Skipped, genkit, in_turn, main, process


def measure(args: argparse.Namespace) -> list[Result]:
    what, ours = "help", "genkit --help"
    contenders = {
        ours: process(genkit("--help")),
        'python -c "import click"': process([sys.executable, "-c", "import click"]),
    }
    results: list[Result] = []
    for command in ("transformers", "llm"):
        beside = Path(sys.executable).parent / command
        path = str(beside) if beside.exists() else shutil.which(command)
        if path:
            contenders[f"{command} --help"] = process([path, "--help"])
        else:
            results.append(Skipped(f"{what}, {command}", "it is not installed"))
    seconds = in_turn(contenders, args.rounds)
    rows = [
        Row(what, peer, seconds[ours], seconds[peer], "s", inverse="--help" in peer)
        for peer in contenders
        if peer != ours
    ]
    return rows + results


if __name__ == "__main__":
    main(__doc__, measure)
