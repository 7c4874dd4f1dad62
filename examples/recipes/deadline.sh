#!/usr/bin/env bash
# A long batch in slices of a minute, as on a busy machine: each slice goes on where the last one was stopped.
set -euo pipefail
for i in $(seq 20); do echo "Chapter $i. The"; done > chapters.txt
until timeout --foreground 60 genkit text --input chapters.txt --seed 1 --max-new-tokens 30 --output book.jsonl -q; do
  test $? -eq 124 || exit   # any other end than that of its time is an error
done
genkit info book.jsonl
