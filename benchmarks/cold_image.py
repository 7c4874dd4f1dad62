"""The first sixteen images: a whole `genkit image` process against whole peer scripts.

    python benchmarks/cold_image.py [--json] [--rounds N]

The bundled kittens, 64x64 pixels, drawn from sixteen latents into one PNG sheet. One
peer is the least that ONNX Runtime needs for it, on our `generator.onnx`; the other is
PyTorch with torchvision's `save_image`, on the same weights.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from harness import Result, Row, genkit, in_turn, main, process
from peers import KITTENS, script

ONNX_SCRIPT = """\
import sys
import numpy as np
import onnxruntime
from PIL import Image

folder, out = sys.argv[1:]
session = onnxruntime.InferenceSession(f"{folder}/generator.onnx", providers=["CPUExecutionProvider"])
z = np.random.default_rng(0).standard_normal((16, 100), dtype=np.float32)
x = session.run(None, {session.get_inputs()[0].name: z})[0]  # (16, 3, 64, 64)
x = ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
sheet = x.reshape(4, 4, 3, 64, 64).transpose(0, 3, 1, 4, 2).reshape(256, 256, 3)
Image.fromarray(sheet).save(out)
"""
# what the folder's config.json says: 64 pixels, nz 100, ngf 48
TORCH_SCRIPT = """\
import sys
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.utils import save_image

folder, out = sys.argv[1:]
width = [100, 384, 192, 96, 48, 3]
layers = []
for i, (a, b) in enumerate(zip(width, width[1:])):
    layers.append(nn.ConvTranspose2d(a, b, 4, *((1, 0) if i == 0 else (2, 1)), bias=False))
    layers += [nn.BatchNorm2d(b), nn.ReLU()] if b > 3 else [nn.Tanh()]
generator = nn.Sequential(*layers)
weights = load_file(f"{folder}/model.safetensors")
generator.load_state_dict({name.removeprefix("main."): tensor for name, tensor in weights.items()})
generator.eval()
with torch.no_grad():
    images = generator(torch.randn(16, 100, 1, 1, generator=torch.Generator().manual_seed(0)))
save_image(images, out, nrow=4, normalize=True, value_range=(-1, 1))
"""


def measure(args: argparse.Namespace) -> list[Result]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = "genkit image"
        seconds = in_turn(
            {
                ours: process(genkit("image", "--n", 16, "--seed", 0, "--out", folder / "ours.png")),
                "a bare onnxruntime script": process(script(folder, "a.py", ONNX_SCRIPT, KITTENS, folder / "a.png")),
                "a PyTorch script": process(script(folder, "b.py", TORCH_SCRIPT, KITTENS, folder / "b.png")),
            },
            args.rounds,
        )
    what = "cold image, 16 of 64x64"
    onnx, torch = (peer for peer in seconds if peer != ours)
    return [
        Row(what, onnx, seconds[ours], seconds[onnx], "s", "<= 1.5"),
        Row(what, torch, seconds[ours], seconds[torch], "s", ">= 6", inverse=True),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
