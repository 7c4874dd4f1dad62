#!/usr/bin/env bash
# How weights/kittens was trained: 110 minutes on one core without a GPU.
#
#   examples/train_kittens.sh IMAGES OUT
#
# IMAGES is a folder of 80,000 kittens of 64x64 pixels, put together at random from the
# painted parts of David Revoy's cat avatar generator (CC-BY 4.0).
set -euo pipefail
genkit train-gan --data "$1" --size 64 --ngf "${FILTERS:-64}" --ndf "${FILTERS:-64}" \
  --data-license "CC-BY 4.0, artwork by David Revoy" --budget "${BUDGET:-110m}" --out "$2"
