"""The networks are the DCGAN example's, parameter by parameter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genkit.errors import InputError
from genkit.image.modelconfig import DCGANConfig
from genkit.image.models.dcgan import Discriminator, Generator, reestimate_batch_norm
from genkit.image.models.store import parameter_count


@pytest.mark.parametrize(("size", "generator", "discriminator"), [(64, 3_576_704, 2_765_568), (32, 1_068_928, 663_296)])
def test_reference_parameter_counts(size: int, generator: int, discriminator: int) -> None:
    config = DCGANConfig(size=size)
    assert parameter_count(Generator(config)) == generator
    assert parameter_count(Discriminator(config)) == discriminator


@pytest.mark.parametrize("d_norm", ["batch", "spectral", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_shapes(size: int, channels: int, d_norm: str) -> None:
    config = DCGANConfig(size=size, channels=channels, nz=5, ngf=2, ndf=2, d_norm=d_norm)
    images = Generator(config)(torch.randn(3, 5))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert Discriminator(config)(images).shape == (3,)


def test_matches_the_written_out_example() -> None:
    """The 64-pixel generator, spelled layer by layer as in the example."""
    config = DCGANConfig(ngf=4, ndf=4)
    generator, discriminator = Generator(config), Discriminator(config)
    example_g = nn.Sequential(
        nn.ConvTranspose2d(100, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
        nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
        nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    example_d = nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(16, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(32, 1, 4, 1, 0, bias=False),
    )  # fmt: skip
    # the example keeps its layers in `main` too, so its weights would load as they are
    example_g.load_state_dict({k.removeprefix("main."): v for k, v in generator.state_dict().items()})
    example_d.load_state_dict({k.removeprefix("main."): v for k, v in discriminator.state_dict().items()})
    z = torch.randn(2, 100)
    images = generator(z)
    torch.testing.assert_close(images, example_g(z.view(2, 100, 1, 1)), rtol=0, atol=0)
    torch.testing.assert_close(discriminator(images), example_d(images).view(-1), rtol=0, atol=0)


def test_initial_weights_follow_the_paper() -> None:
    torch.manual_seed(0)
    config = DCGANConfig(ngf=32, ndf=32)
    for net in (Generator(config), Discriminator(config)):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert abs(layer.weight.mean().item()) < 2e-3
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            elif isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.015)
                assert 0.01 < layer.weight.std().item() < 0.03
                assert layer.bias.abs().max() == 0


def test_spectral_norm_bounds_every_layer() -> None:
    discriminator = Discriminator(DCGANConfig(size=32, ngf=4, ndf=4, d_norm="spectral")).train()
    for _ in range(200):  # power iterations
        discriminator(torch.randn(2, 3, 32, 32))
    discriminator.eval()
    for layer in discriminator.main:
        if isinstance(layer, nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
            assert largest.item() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("d_norm", ["spectral", "none"])
def test_logits_depend_on_one_image_without_batch_norm(d_norm: str) -> None:
    discriminator = Discriminator(DCGANConfig(size=32, ndf=4, d_norm=d_norm)).eval()
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]), rtol=0, atol=1e-6)


def test_reestimated_statistics_are_those_of_the_latents() -> None:
    torch.manual_seed(0)
    generator = Generator(DCGANConfig(size=32, nz=8, ngf=4))
    batches = [torch.randn(64, 8) for _ in range(4)]
    reestimate_batch_norm(generator, ((z, None) for z in batches))
    first = generator.main[1]
    inputs = [generator.main[0](z[:, :, None, None]) for z in batches]
    torch.testing.assert_close(first.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0))
    assert not generator.training
    assert first.momentum == 0.1


def test_reestimation_forgets_what_was_there() -> None:
    torch.manual_seed(0)
    generator = Generator(DCGANConfig(size=32, nz=8, ngf=4))
    other = copy.deepcopy(generator)
    for _ in range(3):
        other(10 * torch.randn(16, 8))  # statistics of something else
    batches = [(torch.randn(64, 8), None) for _ in range(2)]
    reestimate_batch_norm(generator, batches)
    reestimate_batch_norm(other, batches)
    for ours, theirs in zip(generator.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    generator = Generator(DCGANConfig(size=32, nz=8, ngf=8))
    reestimate_batch_norm(generator, [(torch.randn(64, 8), None) for _ in range(4)])
    z = torch.randn(16, 8)
    with torch.no_grad():
        together, alone = generator(z), torch.cat([generator(row) for row in z.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"size": 48}, {"channels": 2}, {"d_norm": "layer"}, {"ngf": 0}, {"nz": 0}])
def test_refuses_shapes_that_it_cannot_build(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        DCGANConfig(**wrong)  # type: ignore[arg-type]
