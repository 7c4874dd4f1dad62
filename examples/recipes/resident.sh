#!/usr/bin/env bash
# One process that stays: ask it through a named pipe, and pay for the start once.
set -euo pipefail
rm -f ask answer && mkfifo ask answer
exec 4<> answer   # both ways, so that nothing waits for the other end
genkit text --input ask --input-format text --max-new-tokens 20 --seed 1 -q > answer &
exec 3> ask
for prompt in "The moon is" "Mother said" "At the sea"; do
  echo "$prompt" >&3 && read -r line <&4 && echo "$line" | cut -c -150
done
exec 3>&-   # no more prompts: it ends
wait
