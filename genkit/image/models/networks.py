"""The networks of a shape, whichever layout it has."""

from __future__ import annotations

from genkit.image.modelconfig import DCGANConfig, ModelConfig, PlusConfig
from genkit.image.models import dcgan, plus

Generator = dcgan.Generator | plus.Generator
Discriminator = dcgan.Discriminator | plus.Discriminator


def generator_of(config: ModelConfig) -> Generator:
    """A generator, freshly initialised from torch's global generator: z (N, nz), y (N,) or None -> (N, C, H, W)."""
    match config:
        case DCGANConfig():
            return dcgan.Generator(config)
        case PlusConfig():
            return plus.Generator(config)
    raise TypeError(config)


def discriminator_of(config: ModelConfig) -> Discriminator:
    """Its opponent: x (N, C, H, W), y (N,) or None -> logits (N,)."""
    match config:
        case DCGANConfig():
            return dcgan.Discriminator(config)
        case PlusConfig():
            return plus.Discriminator(config)
    raise TypeError(config)
