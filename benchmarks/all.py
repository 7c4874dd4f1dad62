"""Every row of the table in the README.

    python benchmarks/all.py [--json] [--rounds N] [--llama-cpp DIR] [--nanogpt DIR --text FILE]
        [--update README.md]

--update puts the table between the two markers of that file.
"""

from __future__ import annotations

from pathlib import Path

import batch
import cold_image
import cold_text
import decode
import gpu
import latency
import train_gan
import train_text
from harness import Result, arguments, replace_between_markers, report


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--update", type=Path, metavar="FILE", help="a Markdown file whose table is replaced")
    args = parser.parse_args()
    results: list[Result] = []
    for benchmark in (cold_text, decode, batch, cold_image, latency, gpu, train_text, train_gan):
        results += benchmark.measure(args)
    text = report(results, args)
    print(text, end="")
    if args.update is not None and not args.json:
        args.update.write_text(replace_between_markers(args.update.read_text(), text))


if __name__ == "__main__":
    main()
