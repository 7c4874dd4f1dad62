#!/usr/bin/env bash
# Continue every draft below a folder, two at a time; what has a continuation already is passed over.
set -euo pipefail
mkdir -p drafts/new && echo "The bear was cold. It" > drafts/bear.txt && echo "Tom had a hat. He" > "drafts/new/a hat.txt"
find drafts -name '*.txt' ! -name '*.next.txt' -print0 |
  xargs -0 -n 1 -P 2 sh -c '
    test -e "${1%.txt}.next.txt" ||
      tail -c 500 "$1" | genkit text --seed 1 --max-new-tokens 40 -q --output "${1%.txt}.next.txt"' -
find drafts -name '*.next.txt' -exec head -n 3 {} +
