#!/usr/bin/env bash
# The bundled model in a third of its size, and as one file that any llama.cpp runs; there both tell the same story.
set -euo pipefail
genkit compress story --quantize int8 --out story-int8 -q
genkit export story-int8 --to gguf --out story-int8.gguf -q
tell() { genkit text -m "$1" "The old king" --temperature 0 --repetition-penalty 1 --max-new-tokens 20 -q --engine llamacpp; }
tell story-int8 > folder.txt
tell story-int8.gguf > file.txt
cmp folder.txt file.txt && cat file.txt
