#!/usr/bin/env bash
# How weights/story was trained: 40 minutes and 21 minutes on one core without a GPU.
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
tiny3=(--data "$tiny" --data "$tiny" --data "$tiny")

# a broad start at a constant learning rate
genkit train-text --data "$tales" "${tiny3[@]}" --data "$books" --data "$books" \
  --val-data "$data/heldout.txt" --tokenizer bpe --vocab-size 4096 \
  --preset "${PRESET:-nano}" --batch-size "${BATCH:-32}" \
  --optimizer muon --lr 3e-3 --weight-decay 0.05 --schedule constant "${COMPILE:---compile}" \
  --sample-prompt "Once upon a time" --budget "${BROAD:-40m}" --out "$out/story-base"

# then more short stories, while the learning rate goes to zero
genkit train-text --init-from "$out/story-base" \
  --data "$tales" "${tiny3[@]}" "${tiny3[@]}" --data "$tiny" --data "$tiny" --data "$books" \
  --val-data "$data/heldout.txt" --batch-size "${BATCH:-32}" --dropout 0.05 \
  --optimizer muon --lr 2e-3 --muon-lr 0.015 --weight-decay 0.05 --warmup 0.01 --cooldown 0.99 "${COMPILE:---compile}" \
  --data-license "Project Gutenberg (public domain); African and Pratham storybooks (CC-BY 4.0); TinyStories (CDLA-Sharing-1.0)" \
  --sample-prompt "Once upon a time" --budget "${COOL:-21m}" --out "$out/story"
