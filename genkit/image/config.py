"""Every setting of the image half, with its one default. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass

from genkit.config import LARGEST_SEED, Config, option, parse_count, parse_duration
from genkit.errors import UsageError
from genkit.image.lists import check_stops, parse_classes, parse_seeds, parse_stops
from genkit.image.modelconfig import ARCHES, CHANNELS, D_NORMS, SIZES, SMOOTHING_LEVELS

MIN_TRUNCATION = 0.01  # below it most values would be drawn hundreds of times


_SAMPLING, _LATENTS, _WALK, _MODEL, _DATA = "Sampling", "Latents", "Walk", "Model", "Data"
_OPTIMISATION, _BUDGET, _RUN = "Optimisation", "Budget", "Run"


@dataclass(frozen=True, kw_only=True)
class ImageSampleConfig(Config):
    """Which images are drawn."""

    n: int = option(16, "Images to draw.", min=1, max=1_000_000, short="-n", section=_SAMPLING)
    seeds: str | None = option(
        None, "Draw exactly these, e.g. 0-15,40; instead of --n and --seed.", metavar="LIST", section=_SAMPLING
    )
    truncation: float | None = option(
        None,
        "Draw latent values beyond +-T again: likelier images, less variety.",
        min=MIN_TRUNCATION,
        max=10,
        metavar="T",
        section=_SAMPLING,
    )
    classes: str | None = option(
        None,
        "Classes by name or number from 0, e.g. cat=8,dog=8, or cat,dog in equal shares. "
        "Default: seed modulo the number of classes.",
        flag="--class",
        metavar="NAME[=N],...",
        section=_SAMPLING,
    )
    columns: int | None = option(
        None, "Images in a row of the grid.", min=1, max=10_000, metavar="N", section=_SAMPLING
    )
    latent: str | None = option(
        None,
        "Draw saved latents: seeds and .npz files, all rows or some, e.g. me.npz or me.npz:0-3,9.",
        metavar="LIST",
        section=_LATENTS,
    )
    mix: float | None = option(
        None,
        "Mix the two that --latent names: 0 the first, 1 the second.",
        min=0,
        max=1,
        metavar="T",
        section=_LATENTS,
    )
    project: str | None = option(
        None,
        "Find the latent that draws this image best: writes .npz, or a picture of both; default: the two.",
        metavar="FILE",
        section=_LATENTS,
    )
    steps: int = option(300, "Steps of --project.", min=1, max=1_000_000, section=_LATENTS)
    interpolate: str | None = option(
        None, "Walk through the images of these seeds or latents, e.g. 0,me.npz,9.", metavar="LIST", section=_WALK
    )
    frames: int = option(60, "Frames of the walk.", min=2, max=10_000, section=_WALK)
    fps: int = option(20, "Frames a second.", min=1, max=60, section=_WALK)
    loop: bool = option(True, "Walk back to the first seed, and play for ever.", section=_WALK)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is not None:
            parse_seeds(self.seeds)
        if self.classes is not None:
            parse_classes(self.classes)
        if self.latent is not None:
            parts = parse_stops(self.latent, "--latent")
            if self.mix is not None and len(parts) != 2:
                raise UsageError(f"--mix mixes two, and --latent {self.latent} is not two", "--latent a.npz,b.npz")
        if self.interpolate is not None:
            stops = parse_stops(self.interpolate, "--interpolate")
            if all(isinstance(stop, int) for stop in stops):  # how many a file holds is seen later
                check_stops(len(stops), self.frames, self.interpolate)


@dataclass(frozen=True, kw_only=True)
class GANTrainConfig(Config):
    """Everything that decides a GAN training run."""

    data: str | None = option(
        None,
        "Folder or zip of images, sub-folders included; or torchvision:NAME[@ROOT], such as torchvision:FashionMNIST@data.",
        metavar="DIR|ZIP",
        section=_DATA,
    )
    val_data: str | None = option(
        None,
        "Images never trained on, to judge the model by; default: one in twenty of --data, 1000 at most, if there are 400.",
        metavar="DIR|ZIP",
        section=_DATA,
    )
    size: int = option(64, "Side of the images in pixels.", metavar="32|64|128|256", section=_DATA)
    channels: int | None = option(
        None,
        "1 grey, 3 colour, 4 colour with transparency; default: 1 if all images are grey, else 3.",
        metavar="1|3|4",
        section=_DATA,
    )
    fit: str = option("crop", "How an image becomes square.", choices=("crop", "pad", "stretch"), section=_DATA)
    flip: bool | None = option(
        None,
        "Mirror half of the images at random; default: unless the set tells left from right, as letters do.",
        section=_DATA,
    )
    labels: str = option(
        "auto",
        "folders: the sub-folder is the class, none: no classes. auto: folders if there are two or more, which hold all "
        "images, five each at least, and are not named train and test.",
        choices=("auto", "folders", "none"),
        section=_DATA,
    )
    duplicates: str = option(
        "keep", "What to do with exact copies of an image.", choices=("keep", "drop"), section=_DATA
    )
    data_license: str | None = option(
        None, "Licence and credit of the data, kept in genkit.json.", metavar="TEXT", section=_DATA
    )
    on_bad_image: str = option(
        "auto",
        "A file that cannot be read: skip it and say so, or fail. auto: skip, but fail when they are more than ten and "
        "more than a tenth.",
        choices=("auto", "skip", "fail"),
        section=_DATA,
    )

    arch: str = option(
        "plus",
        "plus: DCGAN's outline with what was learnt since. dcgan: the PyTorch example to the letter. It also decides what "
        "the settings that are left open become.",
        choices=ARCHES,
        section=_MODEL,
    )
    smoothing: str = option(
        "auto",
        "Even out noise in finished pictures: off, by a number of levels of 255 such as 5, or auto: by as many as measure "
        "best; off with dcgan.",
        metavar="auto|off|LEVELS",
        section=_MODEL,
    )
    nz: int = option(0, "Length of the latent vector; 0: by --arch.", min=0, max=4096, section=_MODEL)
    ngf: int = option(
        0, "Filters of the generator's last stage; 0: by budget and machine, 64 with dcgan.", min=0, max=1024, section=_MODEL
    )
    ndf: int = option(0, "Filters of the discriminator's first stage; 0: likewise.", min=0, max=1024, section=_MODEL)
    d_norm: str = option(
        "auto",
        "Normalisation in the discriminator of dcgan; auto: batch, as in the example. plus has spectral.",
        choices=("auto", *D_NORMS),
        section=_MODEL,
    )

    budget: float | None = option(
        None,
        "Wall time for everything, e.g. 10m or 2h.",
        parse=parse_duration,
        above=0,
        metavar="TIME",
        section=_BUDGET,
    )
    steps: int | None = option(None, "Training steps (one of D and one of G).", min=1, section=_BUDGET)
    images: int | None = option(
        None, "Real images to train on, e.g. 500k.", parse=parse_count, min=1, metavar="COUNT", section=_BUDGET
    )

    loss: str = option(
        "auto",
        "bce: non-saturating logistic loss (Goodfellow et al. 2014). hinge: Lim and Ye 2017. relativistic: logistic loss of "
        "pairs (Jolicoeur-Martineau 2018). auto: bce.",
        choices=("auto", "bce", "hinge", "relativistic"),
        section=_OPTIMISATION,
    )
    regularizer: str = option(
        "auto",
        "r1: gradient penalty on real images (Mescheder et al. 2018). auto: none.",
        choices=("auto", "none", "r1"),
        section=_OPTIMISATION,
    )
    gamma: float | None = option(
        None,
        "Weight of the regulariser; a lazy pass counts for all the steps it stands for. Default: 1.",
        min=0,
        max=10_000,
        section=_OPTIMISATION,
    )
    reg_interval: int = option(
        0, "Steps between regulariser passes (lazy regularisation); 0: by --arch.", min=0, max=1000, section=_OPTIMISATION
    )
    augment: str = option(
        "auto",
        "DiffAugment: off, a fixed probability such as 0.3, or auto: as much as the discriminator overfits; off with dcgan.",
        metavar="auto|off|P",
        section=_OPTIMISATION,
    )
    batch_size: int = option(0, "Real images a step; 0: by --arch.", min=0, max=1 << 16, section=_OPTIMISATION)
    lr: float = option(0.0, "Learning rate of the generator; 0: by --arch.", min=0, max=1, section=_OPTIMISATION)
    d_lr: float | None = option(
        None, "Learning rate of the discriminator; default: --lr.", above=0, max=1, section=_OPTIMISATION
    )
    beta1: float | None = option(
        None, "Adam's first-moment decay; default: by --arch.", min=0, below=1, section=_OPTIMISATION
    )
    beta2: float | None = option(
        None, "Adam's second-moment decay; default: by --arch.", min=0, below=1, section=_OPTIMISATION
    )
    schedule: str = option(
        "auto",
        "constant, or linear: cool down to zero over the last --cooldown. auto: linear, constant with dcgan.",
        choices=("auto", "constant", "linear"),
        section=_OPTIMISATION,
    )
    cooldown: float = option(0.3, "Share of the run that cools down (linear).", min=0, max=1, section=_OPTIMISATION)
    ema_images: int = option(
        50_000,
        "Half-life of the averaged generator, in images; at most a twentieth of those seen.",
        min=0,
        parse=parse_count,
        metavar="COUNT",
        section=_OPTIMISATION,
    )

    out: str = option("runs/gan", "Run directory.", metavar="RUN", section=_RUN)
    eval_interval: int | None = option(
        None, "Steps between measurements of how good the model is; default: about 10 times a run.", min=1, section=_RUN
    )
    eval_images: int | None = option(
        None,
        "Images to draw for a measurement; default: 500, or fewer where the budget is short.",
        min=2,
        max=50_000,
        section=_RUN,
    )
    patience: int = option(
        0, "Stop after this many measurements in a row without a better one; 0: never.", min=0, section=_RUN
    )
    sample_interval: int | None = option(
        None, "Steps between sample grids; default: about 20 times a run.", min=1, section=_RUN
    )
    save_interval: int | None = option(
        None, "Steps between checkpoints; default: as often, and every 5 minutes.", min=1, section=_RUN
    )
    seed: int = option(0, "Seed of weights, data order and latents.", min=0, max=LARGEST_SEED, section=_RUN)
    compile: bool = option(False, "Compile the networks with torch.compile.", section=_RUN)
    tensorboard: bool = option(False, "Also write TensorBoard events.", section=_RUN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in SIZES:
            raise UsageError(f"--size {self.size} is not one of {', '.join(map(str, SIZES))}")
        if self.channels not in (None, *CHANNELS):
            raise UsageError(f"--channels {self.channels} is not 1, 3 or 4")
        if self.batch_size == 1:
            raise UsageError("--batch-size 1 leaves nothing to compare", "use 2 or more")
        if self.arch != "dcgan" and self.d_norm != "auto":
            raise UsageError(f"--d-norm belongs to --arch dcgan, not {self.arch}", "leave it out, or add --arch dcgan")
        if self.regularizer == "r1" and self.arch == "dcgan" and self.d_norm in ("auto", "batch"):
            raise UsageError(
                "--regularizer r1 needs logits that depend on one image each, and --d-norm batch mixes them",
                "add --d-norm none or --d-norm spectral",
            )
        if self.augment not in ("auto", "off"):
            parse_probability(self.augment)
        if self.smoothing not in ("auto", "off"):
            parse_levels(self.smoothing)
            if self.arch == "dcgan":
                raise UsageError("--smoothing belongs to --arch plus, not dcgan", "leave it out, or leave out --arch")


def parse_probability(text: str) -> float:
    """`0.3` of `--augment`.

    Raises:
        UsageError: not a number from 0 to 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--augment {text!r} is neither auto, off nor a probability", "write e.g. --augment 0.3")
    return value


def parse_levels(text: str) -> float:
    """`5` of `--smoothing`.

    Raises:
        UsageError: not a number of levels that pictures are smoothed by.
    """
    least, most = SMOOTHING_LEVELS
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not least <= value <= most:
        raise UsageError(
            f"--smoothing {text!r} is neither auto, off nor {least:g} to {most:g} levels",
            "write e.g. --smoothing 5 or --smoothing off",
        )
    return value
