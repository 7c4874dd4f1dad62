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
z = np.random.default_rng(0).standard_normal((16, 128), dtype=np.float32)
x = session.run(None, {session.get_inputs()[0].name: z})[0]  # (16, 3, 64, 64)
x = ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
sheet = x.reshape(4, 4, 3, 64, 64).transpose(0, 3, 1, 4, 2).reshape(256, 256, 3)
Image.fromarray(sheet).save(out)
"""
# the generator that the folder's config.json describes, and the diffusion that finishes its pictures
TORCH_SCRIPT = """\
import json
import sys
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.utils import save_image

folder, out = sys.argv[1:]
weights = load_file(f"{folder}/model.safetensors")
config = json.load(open(f"{folder}/config.json"))

def of(layer):
    return {name.rpartition(".")[2]: tensor for name, tensor in weights.items() if name.startswith(layer + ".")}

def normalized(x, stage):
    norm = of(f"norms.{stage}")
    return F.relu(F.batch_norm(x, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"]))

with torch.no_grad():
    z = torch.randn(16, config["nz"], 1, 1, generator=torch.Generator().manual_seed(0))
    x, images = F.conv_transpose2d(z, **of("stem")), 0
    for stage in range(4):
        x = normalized(x, stage)
        images = F.interpolate(images + F.conv2d(x, **of(f"sketches.{stage}")), scale_factor=2, mode="bilinear")
        x = F.conv_transpose2d(x, **of(f"ups.{stage}"), stride=2, padding=1)
    images = torch.tanh(images + x)
    scale = -0.5 * (127.5 / config["smoothing"]) ** 2
    for _ in range(20):
        down, right = images.diff(dim=2), images.diff(dim=3)
        down = down * (scale * down.square().sum(1, keepdim=True)).exp()
        right = right * (scale * right.square().sum(1, keepdim=True)).exp()
        flow = F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) - F.pad(right, (1, 0))
        images = images + 0.24 * flow
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
