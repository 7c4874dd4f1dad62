#!/usr/bin/env bash
# A picture says how it was drawn: draw the very same one again, and one of its kittens by itself.
set -euo pipefail
genkit image --n 9 --seed 40 --out grid.png -q
seeds=$(genkit info grid.png | sed -n 's/^seeds: //p')
genkit image --seeds "$seeds" --out again.png -q
cmp grid.png again.png && echo "seeds $seeds: the same bytes"
genkit image --seeds 44 --out middle.png -q
