#!/usr/bin/env bash
# Forty pictures dealt into lists for training and testing, with checksums, in one archive.
set -euo pipefail
genkit image --n 40 --seed 0 --each --out album -q | tee album.txt | shuf --random-source=/dev/zero > shuffled.txt
split -n r/4 -d shuffled.txt part-
mv part-00 test.txt && cat part-0? > train.txt && rm part-0?
xargs sha256sum < album.txt > SHA256SUMS
tar -czf album.tar.gz album train.txt test.txt SHA256SUMS
sha256sum --check --quiet SHA256SUMS && tar -tzf album.tar.gz | tail -n 3
