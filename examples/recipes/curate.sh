#!/usr/bin/env bash
# Thirty openings without names one has had enough of, and how much they differ from one another.
set -euo pipefail
printf '%s\n' Lily Tim Tom > tired.txt
genkit text "Once upon a time" -n 30 --seed 1 --max-new-tokens 30 --filter @tired.txt --filter-attempts 99 --format jsonl -q > openings.jsonl
! grep -q -w -f tired.txt openings.jsonl && wc -l < openings.jsonl
genkit score --candidates openings.jsonl --metric distinct,self-bleu
