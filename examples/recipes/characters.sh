#!/usr/bin/env bash
# A table of characters for a game: JSON that always fits its schema, turned into CSV.
set -euo pipefail
schema='{"type": "object", "required": ["name", "animal", "age"], "properties": {
  "name": {"enum": ["Tom", "Lily", "Ben", "Anna"]}, "animal": {"enum": ["cat", "dog", "bird", "fox"]},
  "age": {"enum": [3, 4, 5, 6, 7, 8, 9]}}}'
genkit text "Who lives here?" -n 6 --seed 1 --json-schema "$schema" --format jsonl -q |
  jq -r '.text | fromjson | [.name, .animal, .age] | @csv' > characters.csv
sort -t , -k 3 -n characters.csv
