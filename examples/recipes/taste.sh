#!/usr/bin/env bash
# A judge learns from examples what is wanted, here what happens outdoors; then it lets nothing else through.
set -euo pipefail
tell() { genkit text "$1. The" -n 12 --seed 1 --max-new-tokens 25 --format jsonl -q | jq -c "{text, label: \"$2\"}"; }
for place in "in the forest" "at the sea" "on the hill"; do tell "They played $place" out; done > labelled.jsonl
for place in "in the kitchen" "in bed" "at the table"; do tell "They sat $place" in; done >> labelled.jsonl
genkit train-classifier --data labelled.jsonl --steps 30 --out judge -q
genkit text "The girl" -n 4 --seed 1 --max-new-tokens 25 --stop . -q \
  --filter-model judge --filter-label out --filter-attempts 99
