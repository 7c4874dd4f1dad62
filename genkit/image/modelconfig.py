"""Shapes of the networks, as `config.json` holds them. Stdlib only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from genkit.errors import InputError

SIZES = (32, 64, 128, 256)
CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
EMBEDDING = 64  # numbers that plus embeds a class into, beside the latent
SMOOTHING_STEPS = 20  # of the diffusion that finishes a picture
SMOOTHING_RATE = 0.2  # of one of them; near 0.25, where it is no longer stable, a checkerboard stays
SMOOTHING_LEVELS = (0.1, 255.0)  # the least and the most
D_NORMS = ("batch", "spectral", "none")
MAX_CLASSES = 10_000


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every generator has.

    Attributes:
        size: side of the square image in pixels.
        channels: 1 grey, 3 RGB, 4 RGBA.
        nz: length of the latent vector.
        ngf, ndf: filters of the last generator and first discriminator stage.
        classes: names of what can be asked for, by label; empty when there is no choice.
    """

    arch: ClassVar[str]
    size: int = 64
    channels: int = 3
    nz: int = 100
    ngf: int = 64
    ndf: int = 64
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, ok in self._rules().items():
            if not ok:
                value = getattr(self, name)
                raise InputError(f"model config: {name}={value!r} is not a {self.arch} that genkit builds")

    def _rules(self) -> dict[str, bool]:
        return {
            "size": type(self.size) is int and self.size in SIZES,
            "channels": type(self.channels) is int and self.channels in CHANNELS,
            "nz": type(self.nz) is int and 1 <= self.nz <= 4096,
            "ngf": type(self.ngf) is int and 1 <= self.ngf <= 1024,
            "ndf": type(self.ndf) is int and 1 <= self.ndf <= 1024,
            "classes": isinstance(self.classes, tuple)
            and len(self.classes) <= MAX_CLASSES
            and all(isinstance(name, str) for name in self.classes)
            and len(set(self.classes)) == len(self.classes) != 1,
        }

    def widths(self, base: int) -> list[int]:
        """Filters at 4x4, 8x8, ... size/2: `[8, 4, 2, 1] * base` at 64 pixels."""
        stages = self.size.bit_length() - 3
        return [base << i for i in reversed(range(stages))]

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": self.arch, "arch": self.arch, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(ModelConfig):
    """Shape of a DCGAN (Radford et al. 2015), as in the PyTorch example; it has no classes.

    Attributes:
        d_norm: normalisation inside the discriminator; `batch` is the reference.
    """

    arch: ClassVar[str] = "dcgan"
    d_norm: str = "batch"

    def _rules(self) -> dict[str, bool]:
        return super()._rules() | {"d_norm": self.d_norm in D_NORMS, "classes": not self.classes}


@dataclass(frozen=True, kw_only=True)
class PlusConfig(ModelConfig):
    """Shape of genkit's own layout: DCGAN's outline with sketches at every size, and labels if there are classes.

    Attributes:
        smoothing: levels of 255 by which neighbouring pixels of a finished picture differ
            and are still evened out at 0.6 of the rate of equal ones; 0: it stays as drawn.
    """

    arch: ClassVar[str] = "plus"
    smoothing: float = 0.0

    def _rules(self) -> dict[str, bool]:
        return super()._rules() | {"smoothing": self._smooths()}

    def _smooths(self) -> bool:
        """Whether `smoothing` is a number that there is."""
        least, most = SMOOTHING_LEVELS
        return type(self.smoothing) in (int, float) and (self.smoothing == 0 or least <= self.smoothing <= most)


def smoothing_exponent(levels: float) -> float:
    """By what squared distances of pixels in [-1, 1] are multiplied in the exponent of their conductance."""
    return -0.5 / (levels / 127.5) ** 2


_ARCHES: dict[str, type[ModelConfig]] = {cls.arch: cls for cls in (DCGANConfig, PlusConfig)}
ARCHES = tuple(_ARCHES)


def read_model_config(values: dict[str, Any]) -> ModelConfig:
    """Read `config.json`.

    Raises:
        InputError: an unknown layout or key, or a size out of range.
    """
    arch = values.get("arch")
    cls = _ARCHES.get(arch) if isinstance(arch, str) else None
    if cls is None:
        known = ", ".join(ARCHES)
        raise InputError(f"model config: arch={arch!r} is none of {known}", "was it written by a newer genkit?")
    values = {name: value for name, value in values.items() if name not in ("model_type", "arch")}
    if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
        raise InputError(f"model config: unknown key {unknown[0]!r}", "was it written by a newer genkit?")
    if isinstance(classes := values.get("classes"), list):  # JSON has no tuples
        values["classes"] = tuple(classes)
    return cls(**values)
