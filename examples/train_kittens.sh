#!/usr/bin/env bash
# How weights/kittens was trained: 95 minutes on one core without a GPU.
#
#   examples/train_kittens.sh IMAGES OUT
#
# IMAGES is a folder of 60,000 kittens of 64x64 pixels, put together at random from the
# painted parts of David Revoy's cat avatar generator (CC-BY 4.0).
set -euo pipefail
genkit train-gan --data "$1" --arch dcgan --size 64 --ngf "${FILTERS:-48}" --ndf "${FILTERS:-48}" \
  --d-norm spectral --loss hinge --batch-size 32 --lr 2e-4 --d-lr 4e-4 --beta1 0 --beta2 0.9 \
  --schedule linear --cooldown 0.25 --ema-images 20k \
  --data-license "CC-BY 4.0, artwork by David Revoy" --budget "${BUDGET:-95m}" --out "$2"
