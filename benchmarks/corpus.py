"""How fast text becomes tokens, and in how much memory.

    python benchmarks/corpus.py [--size 5G] [--folder DIR]

Writes a synthetic corpus, tokenizes it as `train-text` does, and prints the
speed and the peak resident memory of the process that did it. The peer is
`Tokenizer.encode_batch` of the `tokenizers` library on the same tokenizer and
a sample of the same documents, in the same run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from genkit.config import parse_count
from genkit.text.data import prepare
from genkit.text.documents import iter_documents
from genkit.text.encoder import Encoder
from genkit.text.trainconfig import TextTrainConfig

LETTERS = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
SHARES = 1 / np.arange(2, 28)


def write_corpus(path: Path, size: int) -> None:
    """Documents of some thousand characters whose words follow Zipf's law."""
    rng = np.random.default_rng(0)
    lengths = 2 + rng.poisson(4, 200_000)
    letters = rng.choice(LETTERS, lengths.sum(), p=SHARES / SHARES.sum())
    words = ["".join(word) for word in np.split(letters, lengths.cumsum()[:-1])]
    zipf = 1 / np.arange(1, len(words) + 1)
    paragraphs = []
    for indices in rng.choice(len(words), (20_000, 200), p=zipf / zipf.sum()):
        chosen = [words[i] for i in indices]
        sentences = [" ".join(chosen[i : i + 10]).capitalize() for i in range(0, 200, 10)]
        paragraphs.append((", ".join(sentences[:5]) + ". " + ". ".join(sentences[5:]) + ".\n\n").encode())
    written = 0
    with path.open("wb") as file:
        while written < size:
            document = b"".join(paragraphs[i] for i in rng.integers(len(paragraphs), size=1 + rng.poisson(2)))
            written += file.write(document + b"<|endoftext|>\n")


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_count, default="5G", help="bytes of text (default 5G)")
    parser.add_argument("--folder", help="where the corpus and the tokens go for a while (default: the usual place)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder, "corpus.txt")
        # in a process of its own, so that its memory does not count
        writer = multiprocessing.get_context("spawn").Process(target=write_corpus, args=(path, args.size))
        writer.start()
        writer.join()
        size = path.stat().st_size
        print(f"corpus        {size / 1e9:8.2f} GB")
        print(f"after imports {peak():8.0f} MB resident")

        started = time.monotonic()
        corpus = prepare(TextTrainConfig(data=(str(path),), tokenizer="bpe"), Path(folder))
        seconds = time.monotonic() - started
        tokens = corpus.tokens_train + corpus.tokens_val
        print(f"peak          {peak():8.0f} MB resident")
        print(
            f"prepare       {size / seconds / 1e6:8.1f} MB/s  ({seconds:.0f} s: two readings, bpe, {tokens:,} tokens)"
        )

        sample = list(islice(iter_documents([path]), 20_000))
        sample_size = sum(map(len, sample))
        encode = Encoder(corpus.tokenizer, np.dtype(np.uint16))
        speeds = []
        for tokenize in (encode, corpus.tokenizer.encode_batch):
            started = time.monotonic()
            for i in range(0, len(sample), 200):
                tokenize(sample[i : i + 200])
            speeds.append(sample_size / (time.monotonic() - started) / 1e6)
        print(f"tokenizing    {speeds[0]:8.1f} MB/s, the peer {speeds[1]:.1f} MB/s, {speeds[0] / speeds[1]:.1f}x")


if __name__ == "__main__":
    main()
