#!/usr/bin/env bash
# How weights/fruits was trained: eighteen minutes on one core without a GPU.
#
#   examples/train_fruits.sh IMAGES OUT
#
# IMAGES is a folder or zip with 28 sub-folders, the varieties of apples, cherries and tomatoes
# of Fruits-360 (MIT, (c) 2017-2020 Mihai Oltean, Horea Muresan). They become the classes.
set -euo pipefail
genkit train-gan --data "$1" --size 64 --ngf "${FILTERS:-48}" --ndf "${FILTERS:-48}" \
  --lr 4e-4 --d-lr 8e-4 --data-license "MIT, (c) 2017-2020 Mihai Oltean, Horea Muresan" --budget "${BUDGET:-18m}" --out "$2"
