#!/usr/bin/env bash
# genkit among other commands. Run it in an empty folder.
set -euo pipefail

# the first sentence of each of three stories, numbered
genkit text "Once upon a time" -n 3 --seed 1 --stop "." --format jsonl -q |
  python3 -c 'import json, sys; [print(json.loads(line)["text"].strip()) for line in sys.stdin]' | nl

# a prompt from one command, the story to another
echo "The little dog was" | genkit text --max-new-tokens 40 --seed 2 -q | wc -w

# the reader leaves early, and that is no error of ours
genkit text "One day" --max-new-tokens 100 --seed 3 -q | head -c 60 || test $? -eq 141
echo

# a picture without a file in between, and what it says of itself
genkit image --n 4 --seed 7 --out - -q > grid.png
genkit info grid.png --json

# sixteen pictures, one file each
genkit image --n 16 --seed 0 --each --out kittens -q
ls kittens | wc -l
