#!/usr/bin/env bash
# How weights/story was trained: two runs on one core each way, 55 and 45 minutes.
#
#   examples/train_story.sh DATA OUT
#
# DATA holds fairy_tales.txt.xz (37 MB of public-domain fairy tales and children's
# fiction from Project Gutenberg), storybooks.jsonl.xz (704 picture-book stories of
# the African and Pratham storybook projects, CC-BY 4.0), tinystories.txt.xz (3,414
# TinyStories, CDLA-Sharing-1.0) and heldout.txt, which is never trained on. A source
# named three times counts three times.
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
tales="$data/fairy_tales.txt.xz" books="$data/storybooks.jsonl.xz" tiny="$data/tinystories.txt.xz"

# a broad start at a constant learning rate
genkit train-text \
  --data "$tales" --data "$tiny" --data "$tiny" --data "$tiny" --data "$books" --data "$books" \
  --val-data "$data/heldout.txt" --tokenizer bpe --vocab-size 4096 \
  --n-layer "${LAYERS:-6}" --n-embd "${WIDTH:-192}" --block-size 256 --batch-size 16 \
  --optimizer muon --lr 3e-3 --weight-decay 0.05 --schedule constant \
  --budget "${BROAD:-55m}" --out "$out/story-base"

# then mostly short stories, while the learning rate goes to zero
xzcat "$tales" | head -c 8000000 > "$out/some_tales.txt"
genkit train-text \
  --init-from "$out/story-base" --data "$out/some_tales.txt" \
  --data "$tiny" --data "$tiny" --data "$tiny" --data "$tiny" --data "$tiny" --data "$books" \
  --val-data "$data/heldout.txt" --batch-size 16 --dropout 0.05 \
  --optimizer muon --lr 2e-3 --muon-lr 0.015 --weight-decay 0.05 --warmup 0.01 --cooldown 0.99 \
  --data-license "Project Gutenberg (public domain); African and Pratham storybooks (CC-BY 4.0); TinyStories (CDLA-Sharing-1.0)" \
  --budget "${COOL:-45m}" --out "$out/story"
