#!/usr/bin/env bash
# How weights/story was trained: 64 minutes on one core without a GPU.
#
#   examples/train_story.sh DATA OUT
#
# DATA holds fairy_tales.txt.xz (37 MB of public-domain fairy tales and children's
# fiction from Project Gutenberg), storybooks.jsonl.xz (704 picture-book stories of
# the African and Pratham storybook projects, CC-BY 4.0), tinystories.txt.xz (3,414
# TinyStories, CDLA-Sharing-1.0) and heldout.txt, which is never trained on. The short
# stories are seen five times as often as the tales, the picture books three times.
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"

genkit train-text \
  --data "$data/fairy_tales.txt.xz" --data "$data/tinystories.txt.xz:5" --data "$data/storybooks.jsonl.xz:3" \
  --val-data "$data/heldout.txt" --tokenizer bpe --vocab-size 4096 \
  --preset "${PRESET:-nano}" --batch-size "${BATCH:-32}" \
  --optimizer muon --lr 3e-3 --weight-decay 0.05 --warmup 0.01 --cooldown 0.7 "${COMPILE:---compile}" \
  --data-license "Project Gutenberg (public domain); African and Pratham storybooks (CC-BY 4.0); TinyStories (CDLA-Sharing-1.0)" \
  --sample-prompt "Once upon a time" --budget "${BUDGET:-64m}" --out "$out/story"
