"""Models of any architecture, through `transformers`, which is imported here and only when one is used."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from genkit import library
from genkit.errors import InputError, ResourceError
from genkit.files import check_safetensors

REMEDY = "pip install 'genkit-cli[hub]'"
KEPT: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # of every `from_pretrained`
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_AUTO = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM", "masked": "AutoModelForMaskedLM"}
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.spm", "tekken.json")
_RELATIVE = 4096  # tokens; the limit of models whose positions are relative, and reach as far as memory

Bits = Literal[8, 4]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep what `transformers` logs, warns of and counts in bars off the terminal.

    Raises:
        ResourceError: it is not installed.
    """
    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        undo.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)  # torch and torchao have loggers too
        try:
            import transformers.utils.logging
        except ImportError as error:
            raise ResourceError("a model of this architecture needs the transformers package", REMEDY) from error
        told: Any = transformers.utils.logging
        undo.callback(told.set_verbosity, told.get_verbosity())
        told.set_verbosity_error()
        if told.is_progress_bar_enabled():
            undo.callback(told.enable_progress_bar)
            told.disable_progress_bar()
        yield


def load_hub(
    folder: Path, family: Literal["causal", "seq2seq", "masked"], *, dtype: torch.dtype = torch.float32
) -> Any:
    """The model in `folder`, on the CPU and in evaluation mode.

    Args:
        dtype: of the weights, but of those that `transformers` keeps in fp32.

    Raises:
        InputError: only pickled weights, damaged or missing ones, or an architecture that
            the installed `transformers` does not know without code from elsewhere.
    """
    check_weights(folder)
    with quiet_transformers():
        import transformers

        try:
            model, told = getattr(transformers, _AUTO[family]).from_pretrained(
                folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **KEPT
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
            raise refused(folder, error) from error
    if missing := sorted(told["missing_keys"]):
        raise InputError(
            f"{folder}: the weights lack {missing[0]}", "config.json and the weights must come from the same model"
        )
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise InputError(f"{folder}: the weights hold numbers that are not finite", "use another model")
    return model.eval()


def check_weights(folder: Path) -> None:
    """Raise InputError unless the folder has sound safetensors."""
    if not (folder / library.WEIGHTS).exists() and not (folder / library.INDEX).exists():
        if any((folder / name).exists() for name in _PICKLES):
            raise InputError(
                f"{folder} has pickled weights alone, which can run code", "use a revision of it with safetensors"
            )
        raise InputError(f"{folder}: no {library.WEIGHTS}", "name a folder with a model")
    for path in library.weight_files(folder):
        check_safetensors(path)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of `transformers` in `folder`.

    Raises:
        InputError: there is none that the installed packages read.
    """
    # of some architectures transformers would make an empty one
    if not any(found for pattern in _VOCABULARIES for found in folder.glob(pattern)):
        raise InputError(f"{folder} has no tokenizer", "put the files of the one that it was trained with beside it")
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(folder, **KEPT)
        except Exception as error:  # the Rust library's own kinds included
            raise refused(folder, error, "tokenizer") from error


def refused(folder: Path, error: Exception, what: str = "model") -> InputError:
    """What to say when `transformers` does not load a model or tokenizer."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if isinstance(error, ImportError):
        return InputError(f"{folder}: its {what} needs a package that is not installed: {reason}", REMEDY)
    return InputError(f"{folder}: transformers does not load the {what}: {reason}", "name another model")


def context_of(model: Any, tokenizer: Any) -> int:
    """How many tokens the model can see: of a causal one the whole text, of an encoder-decoder either side."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        if isinstance(found := getattr(config, name, None), int) and config.model_type not in ("t5", "mt5", "umt5"):
            return found
    # 10^30 stands for none
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < 1 << 24 else _RELATIVE


def quantize(model: Any, bits: Bits) -> None:
    """Keep the matrices of a model in 8 or 4 bits, in groups of 32 inputs; they are multiplied in its own precision.

    Raises:
        ResourceError: torchao is not installed, or lacks this for the device.
    """
    with quiet_transformers():
        try:
            from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
        except ImportError as error:
            raise ResourceError(f"--precision int{bits} of such a model needs the torchao package", REMEDY) from error
        kind = getattr(torch, f"int{bits}")  # torch.int4 is in no stub

        def fits(module: torch.nn.Module, name: str) -> bool:
            return isinstance(module, torch.nn.Linear) and module.in_features % 32 == 0

        quantize_(model, IntxWeightOnlyConfig(weight_dtype=kind, granularity=PerGroup(32)), filter_fn=fits)
