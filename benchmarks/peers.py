"""Where the peers of the text benchmarks are: llama.cpp's binaries, the same weights as GGUF, scripts."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Self

from harness import ROOT, Skipped, threads

STORY = ROOT / "weights/story"
KITTENS = ROOT / "weights/kittens"
PROMPT = "In a dark forest"  # the bundled story goes on from it by TOKENS at least, the likeliest each time
CONTEXT = 256
TOKENS = 128
# what a user who knows the library writes; the model's folder is what is loaded
TRANSFORMERS_SCRIPT = """\
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer(prompt, return_tensors="pt")
output = model.generate(
    **inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, repetition_penalty=1.0
)
print(tokenizer.decode(output[0]))
"""


def llama_cpp(args: argparse.Namespace, binary: str) -> dict[str, Path]:
    """The builds that have `binary`: {"native": path, "portable": path}, or the one of --llama-cpp or PATH."""
    folder: Path | None = args.llama_cpp
    if folder is None:
        found = shutil.which(binary)
        return {"on PATH": Path(found)} if found else {}
    builds = {"native": folder / "native/bin", "portable": folder / "portable/bin", folder.name: folder}
    return {build: path / binary for build, path in builds.items() if (path / binary).is_file()}


def no_llama_cpp(what: str) -> Skipped:
    return Skipped(what, "no llama.cpp; benchmarks/build_llama_cpp.sh DIR builds it, --llama-cpp DIR names it")


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="genkit-benchmark-")  # removed when this process ends


@cache
def exported(precision: str) -> Path:
    """The bundled story model as GGUF for peers: the tensors of the file that genkit itself decodes from."""
    from genkit.text.gguf.convert import write_gguf

    path = Path(_scratch().name, f"story-{precision}.gguf")
    write_gguf(STORY, path, precision)
    return path


def auto_precision() -> str:
    """What `--precision auto` means on a CPU."""
    from genkit.runtime.device import resolve

    return resolve("cpu", task="text").precision


def script(folder: Path, name: str, text: str, *args: object) -> list[str]:
    """Write a Python script into `folder`; the command that runs it."""
    path = folder / name
    path.write_text(text)
    return [sys.executable, str(path), *map(str, args)]


class Wheel:
    """The xllamacpp library by itself: text that comes in one piece, greedily."""

    def __init__(self, gguf: Path, *, parallel: int) -> None:
        from xllamacpp import CommonParams, Server

        params = CommonParams()
        params.model.path = str(gguf)
        params.n_parallel = parallel
        params.n_ctx = parallel * CONTEXT
        params.verbosity = -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
        self._server: Server | None = Server(params)

    def complete(self, prompts: list[str], tokens: int) -> None:
        """Continue all prompts by `tokens` tokens each."""
        assert self._server is not None
        request = {"prompt": prompts, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False}
        self._server.handle_completions(request | {"temperature": 0, "samplers": ["temperature"]})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server = None
