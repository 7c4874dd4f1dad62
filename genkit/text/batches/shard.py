"""A job split over machines that need not know of one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from genkit.errors import UsageError

_EXAMPLE = "write I/N, such as 1/4, or env"


@dataclass(frozen=True)
class Shard:
    """Part `index`, from 1, of `count`: every `count`-th line, from line `index` on."""

    index: int
    count: int

    def owns(self, number: int) -> bool:
        """Whether line `number`, from 1, is in this shard."""
        return (number - self.index) % self.count == 0

    def path(self, path: str) -> str:
        """`out.jsonl` -> `out-00001-of-00004.jsonl`."""
        pure = PurePath(path)
        return str(pure.with_name(f"{pure.stem}-{self.index:05d}-of-{self.count:05d}{pure.suffix}"))


def parse_shard(text: str, environ: Mapping[str, str]) -> Shard:
    """`2/4`, or `env` for what the launcher of this process says.

    Raises:
        UsageError: neither, or the environment does not tell.
    """
    if text == "env":
        return _from_launcher(environ)
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count) < 100_000):
        raise UsageError(f"--shard {text!r} is not a part of a whole", _EXAMPLE)
    return Shard(int(index), int(count))


def _from_launcher(environ: Mapping[str, str]) -> Shard:
    found = {
        "torchrun": _ranks(environ, "RANK", "WORLD_SIZE"),
        "the Slurm job array": _array(environ, "SLURM_ARRAY_TASK_ID", "_MIN", "_MAX", "_STEP", "_COUNT"),
        "Slurm": _ranks(environ, "SLURM_PROCID", "SLURM_NTASKS"),
        "the Grid Engine job array": _array(environ, "SGE_TASK_ID", "_FIRST", "_LAST", "_STEPSIZE"),
    }
    told = {name: shard for name, shard in found.items() if shard}
    if "torchrun" in told:
        told.pop("Slurm", None)  # which started it: its ranks are all there are
    if not told and "PBS_ARRAY_INDEX" in environ:
        raise UsageError(
            "--shard env: PBS does not say how many parts there are", "write for instance $PBS_ARRAY_INDEX/10"
        )
    if not told:
        raise UsageError("--shard env: no launcher says which part this is", _EXAMPLE.removesuffix(", or env"))
    several = {name: shard for name, shard in told.items() if shard.count > 1} or told
    (name, shard), *others = several.items()
    if others:
        raise UsageError(
            f"--shard env: {name} says {shard.index}/{shard.count} and {others[0][0]} "
            f"{others[0][1].index}/{others[0][1].count}",
            "write I/N, counting both",
        )
    return shard


def _ranks(environ: Mapping[str, str], rank: str, count: str) -> Shard | None:
    """Ranks count from 0."""
    if rank not in environ:
        return None
    index, size = _number(environ, rank), _number(environ, count)
    return _checked(Shard(index + 1, size), rank)


def _array(
    environ: Mapping[str, str], task: str, first: str, last: str, step: str, count: str | None = None
) -> Shard | None:
    """Task numbers run from `first` to `last`, each with the prefix of `task`."""
    if environ.get(task, "undefined") == "undefined":  # what Grid Engine says outside an array
        return None
    prefix = task.removesuffix("_ID")
    begin, end = _number(environ, prefix + first), _number(environ, prefix + last)
    stride = _number(environ, prefix + step) if prefix + step in environ else 1
    place, rest = divmod(_number(environ, task) - begin, stride or 1)
    size = (end - begin) // (stride or 1) + 1
    told = _number(environ, prefix + count) if count and prefix + count in environ else size
    if rest or told != size:
        raise UsageError(f"--shard env: the tasks of {prefix} have gaps: {told} of {begin} to {end}", "write I/N")
    return _checked(Shard(place + 1, size), task)


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except KeyError:
        raise UsageError(f"--shard env: {name} is not set, so the number of parts is unknown", "write I/N") from None
    except ValueError:
        raise UsageError(f"--shard env: {name} is {environ[name]!r}, not a number", "write I/N") from None


def _checked(shard: Shard, name: str) -> Shard:
    if not 1 <= shard.index <= shard.count < 100_000:
        raise UsageError(f"--shard env: {name} means part {shard.index} of {shard.count}", "write I/N")
    return shard
