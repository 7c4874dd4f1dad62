#!/usr/bin/env bash
# Many short answers, held to a pattern, and what most of them say.
set -euo pipefail
genkit text "The dog saw the cat. The dog was" -n 25 --seed 1 --regex ' (happy|sad|angry|afraid)' -q |
  grep -v '^---$' | sort | uniq -c | sort -rn | tee votes.txt
winner=$(awk 'NR == 1 { print $2 }' votes.txt)
echo "most say: $winner"
