#!/usr/bin/env bash
# A batch on three processes that know nothing of each other (or three machines), put together again in order.
set -euo pipefail
for animal in cat dog fox hen pig cow owl; do echo "The $animal went to the"; done > prompts.txt
for i in 1 2 3; do
  genkit text --input prompts.txt --shard "$i/3" --seed 1 --max-new-tokens 12 --output results.jsonl -q &
done
wait
paste -d '\n' results-0000?-of-00003.jsonl | grep . > results.jsonl
nl results.jsonl | cut -c -90
