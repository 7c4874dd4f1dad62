"""The peer of train_gan.py: DCGAN's networks and loop as the PyTorch example has them.

    python benchmarks/dcgan_peer.py --steps N --size 64 --batch-size 64

Written from the paper (Radford et al., arXiv 1511.06434) and the example's settings:
sigmoid and BCELoss, one backward pass of D for the real and one for the fake images,
a third through all of D for G, Adam as it comes, fp32. Its images lie in memory, so
that it waits for no DataLoader. Prints the images a second of each step, as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

NZ, FILTERS = 100, 64
IMAGES = 1024  # in memory


def generator(size: int = 64, channels: int = 3) -> nn.Sequential:
    """z (N, NZ, 1, 1) -> (N, channels, size, size)."""
    width = FILTERS * size // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(NZ, width, 4, 1, 0, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    while width > FILTERS:
        layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False)]
        width //= 2
        layers += [nn.BatchNorm2d(width), nn.ReLU(True)]
    layers += [nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers).apply(_init)


def discriminator(size: int = 64, channels: int = 3) -> nn.Sequential:
    """x (N, channels, size, size) -> probabilities (N, 1, 1, 1)."""
    width = FILTERS
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    while width < FILTERS * size // 8:
        layers += [nn.Conv2d(width, width * 2, 4, 2, 1, bias=False)]
        width *= 2
        layers += [nn.BatchNorm2d(width), nn.LeakyReLU(0.2, True)]
    layers += [nn.Conv2d(width, 1, 4, 1, 0, bias=False), nn.Sigmoid()]
    return nn.Sequential(*layers).apply(_init)


def _init(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def train(steps: int, size: int, batch_size: int, device: str = "cpu") -> Iterator[float]:
    """Take `steps` steps; yields the seconds of each."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8)
    netG, netD = generator(size).to(device), discriminator(size).to(device)
    criterion = nn.BCELoss()
    optimizerD, optimizerG = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (netD, netG))

    def loss_of(x: Tensor, label: float) -> Tensor:
        output = netD(x).view(-1)
        loss: Tensor = criterion(output, torch.full_like(output, label))
        return loss

    for _ in range(steps):
        started = time.perf_counter()
        real = images[torch.randint(IMAGES, (batch_size,))].to(device).float().div(127.5).sub(1)
        netD.zero_grad()
        on_real = loss_of(real, 1.0)
        on_real.backward()
        fake = netG(torch.randn(batch_size, NZ, 1, 1, device=device))
        on_fake = loss_of(fake.detach(), 0.0)
        on_fake.backward()
        optimizerD.step()
        netG.zero_grad()
        for_g = loss_of(fake, 1.0)
        for_g.backward()
        optimizerG.step()
        (on_real + on_fake).item(), for_g.item()  # the example prints them
        yield time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    seconds = train(args.steps, args.size, args.batch_size, args.device)
    print(json.dumps([args.batch_size / step for step in seconds]))


if __name__ == "__main__":
    main()
