#!/usr/bin/env bash
# A story for each row of a table, with the row's own words and a seed of its own.
set -euo pipefail
printf '%s\n' 'Anna,a red balloon' 'Ben,an old boat' 'Lily,a lost key' > children.csv
row=0
while IFS=, read -r name thing; do
  row=$((row + 1))
  genkit text "One day, $name found $thing." --seed "$row" --max-new-tokens 60 -q > "story-$name.txt"
done < children.csv
wc -w story-*.txt
