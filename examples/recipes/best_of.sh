#!/usr/bin/env bash
# The three of sixteen continuations that the model itself finds likeliest, by mean log-probability.
set -euo pipefail
genkit text "The little fox" -n 16 --seed 1 --max-new-tokens 40 --stop . --logprobs 0 --format jsonl -q |
  jq -r '[(.logprobs | map(.logprob // -99) | add / length), .text] | @tsv' |
  sort -g -r | head -n 3
