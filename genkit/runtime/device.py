"""Which device, precision and engine a request means, answered without torch.

Asking torch costs seconds; the driver answers at once. `detect` looks at the
machine, `resolve` is a pure function of what was asked and what is there.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genkit.errors import ResourceError, UsageError

Task = Literal["text", "image", "train-text", "train-gan", "train-classifier", "classify", "fill", "hub", "eval"]

DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps", "xpu", "xpu:N")
PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16", "int8", "int4")
ENGINES: dict[Task, tuple[str, ...]] = {
    "text": ("auto", "torch", "native", "llamacpp"),
    "image": ("auto", "torch", "onnx"),
    "train-text": ("auto", "torch"),
    "train-gan": ("auto", "torch"),
    "train-classifier": ("auto", "torch"),
    "classify": ("auto", "torch"),
    "fill": ("auto", "torch"),
    "hub": ("auto", "torch"),  # text of a model that transformers runs
    "eval": ("auto", "torch"),
}
# the engines for a CPU: how each is installed, and its precisions, the one for auto first
_NATIVE = {
    "native": ("install genkit anew where there is a C compiler", ("fp32", "int8")),
    "llamacpp": ("pip install xllamacpp", ("fp32", "fp16", "int8", "int4")),
    "onnx": ("pip install onnxruntime", ("fp32",)),
}
_USUAL: dict[Task, tuple[str, ...]] = {"text": ("native", "llamacpp"), "image": ("onnx",)}  # best first
_PACKAGES = {"llamacpp": "xllamacpp", "onnx": "onnxruntime"}
TF32_SINCE = BF16_SINCE = (8, 0)  # compute capability of Ampere


@dataclass(frozen=True)
class CudaDevice:
    """One NVIDIA GPU.

    Attributes:
        capability: compute capability, (major, minor).
        memory: bytes.
    """

    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True)
class Hardware:
    """What this process can compute on.

    Attributes:
        cuda: the GPUs that CUDA_VISIBLE_DEVICES leaves visible, in the driver's order.
        mps: an Apple GPU.
        xpu: number of Intel GPUs.
        cpus: cores that this process may use.
        cpu_bf16: the CPU multiplies bf16 matrices in hardware (AVX512-BF16 or AMX).
        engines: those for a CPU that are installed.
        cuda_problem: why `cuda` is empty.
    """

    cuda: tuple[CudaDevice, ...] = ()
    mps: bool = False
    xpu: int = 0
    cpus: int = 1
    cpu_bf16: bool = False
    engines: tuple[str, ...] = ()
    cuda_problem: str = "no NVIDIA driver was found"


@dataclass(frozen=True)
class Placement:
    """Where and how to compute.

    Attributes:
        device: "cpu", "cuda:0", "mps" or "xpu:0"; the index is always there.
        precision: one of PRECISIONS, without "auto".
        engine: one of the task's ENGINES, without "auto".
        why: one line for the user.
    """

    device: str
    precision: str
    engine: str
    why: str

    @property
    def kind(self) -> str:
        """The device without its index."""
        return self.device.partition(":")[0]


def resolve(
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    *,
    task: Task,
    hardware: Hardware | None = None,
) -> Placement:
    """Decide where and how a task runs.

    Args:
        device: auto takes the first of cuda, mps, xpu, cpu that is there.
        precision: auto is bf16 on xpu, on GPUs since Ampere, and for training on
            CPUs that have it; fp16 on older GPUs; else the engine's own choice.
        engine: auto is, for sampling on a CPU, native or onnx, or llamacpp where there is no
            native or in a precision of its own; else torch.
        hardware: default: `detect()`.

    Raises:
        UsageError: not a device, a precision or an engine at all.
        ResourceError: this machine, this device or this engine cannot do it; says what can.
    """
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,4})?", device):
        raise UsageError(f"--device {device!r} is not a device", f"use {_either(DEVICES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r} is not a precision", f"use {_either(PRECISIONS)}")
    if engine not in ENGINES[task]:
        raise UsageError(f"--engine {engine!r} is not an engine for {task}", f"use {_either(ENGINES[task])}")
    hardware = hardware if hardware is not None else detect()
    if engine in _NATIVE:
        return _place_native(engine, device, precision, hardware)
    placed, why = _choose_device(device, hardware)
    own: list[str] = []
    for name in _USUAL.get(task, ()) if engine == "auto" and placed == "cpu" else ():
        possible = _NATIVE[name][1] if name in hardware.engines else ()
        if possible and precision in ("auto", *possible):
            return Placement(placed, possible[0] if precision == "auto" else precision, name, why)
        own += possible
    if precision == "auto" and placed == "cpu" and hardware.cpu_bf16 and task.startswith("train"):
        # twice to three times as fast as fp32; sampling is bound by memory and stays exact
        return Placement(placed, "bf16", "torch", f"{why}; this CPU trains fastest in bf16")
    if precision == "bf16" and placed == "cpu" and not hardware.cpu_bf16:
        why = f"{why}; no bf16 instructions were found, and fp32 is likely far faster"
    return Placement(placed, _choose_precision(precision, placed, hardware, own), "torch", why)


def _place_native(engine: str, device: str, precision: str, hardware: Hardware) -> Placement:
    """Where an engine for CPUs runs that was asked for by name."""
    installation, possible = _NATIVE[engine]
    if device not in ("auto", "cpu"):
        raise ResourceError(f"--engine {engine} does not run on {device}", "use --device cpu, or --engine torch")
    if engine not in hardware.engines:
        raise ResourceError(f"--engine {engine} is not installed", f"{installation}, or use --engine torch")
    if precision not in ("auto", *possible):
        raise ResourceError(f"--precision {precision} does not work with --engine {engine}", f"use {_either(possible)}")
    return Placement("cpu", possible[0] if precision == "auto" else precision, engine, "as asked")


def available(hardware: Hardware) -> list[str]:
    """The devices that `resolve` accepts here, best first."""
    cuda = [f"cuda:{i}" for i in range(len(hardware.cuda))]
    return cuda + ["mps"] * hardware.mps + [f"xpu:{i}" for i in range(hardware.xpu)] + ["cpu"]


def precisions(device: str, hardware: Hardware) -> tuple[str, ...]:
    """The precisions that a device computes in, the one for auto first."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        capability = hardware.cuda[int(index)].capability
        if capability >= BF16_SINCE:
            return ("bf16", "fp16", "tf32", "fp32") if capability >= TF32_SINCE else ("bf16", "fp16", "fp32")
        return ("fp16", "fp32")
    return {"mps": ("fp32", "fp16"), "xpu": ("bf16", "fp16", "fp32"), "cpu": ("fp32", "bf16")}[kind]


def _choose_device(device: str, hardware: Hardware) -> tuple[str, str]:
    there = available(hardware)
    if device == "auto":
        why = f"the best of {', '.join(there)}" if len(there) > 1 else f"no GPU: {hardware.cuda_problem}"
        return there[0], why
    wanted = f"{device}:0" if device in ("cuda", "xpu") else device
    if wanted in there:
        return wanted, "as asked"
    problem = f": {hardware.cuda_problem}" if wanted.startswith("cuda") and not hardware.cuda else ""
    raise ResourceError(f"--device {device} is not on this machine{problem}", f"there is {describe(hardware)}")


def describe(hardware: Hardware) -> str:
    """`cuda:0 (NVIDIA H100, 80 GB), cpu`."""
    named = {f"cuda:{i}": f"cuda:{i} ({gpu.name}, {round(gpu.memory / 1e9)} GB)" for i, gpu in enumerate(hardware.cuda)}
    return ", ".join(named.get(name, name) for name in available(hardware))


_REASONS = {
    ("cpu", "fp16"): "torch is no faster in fp16 than in fp32 on a CPU",
    ("cpu", "tf32"): "TF32 is a mode of NVIDIA GPUs since Ampere",
    ("mps", "tf32"): "TF32 is a mode of NVIDIA GPUs since Ampere",
    ("xpu", "tf32"): "TF32 is a mode of NVIDIA GPUs since Ampere",
    ("mps", "bf16"): "not every Apple GPU has bf16",
    ("cuda", "tf32"): "this GPU is older than Ampere",
    ("cuda", "bf16"): "this GPU is older than Ampere",
}


def _choose_precision(precision: str, device: str, hardware: Hardware, also: list[str]) -> str:
    """The precision in which torch computes on `device`; engines for CPUs do `also` those."""
    possible = precisions(device, hardware)
    if precision == "auto":
        return possible[0]
    if precision not in possible:
        why = _REASONS.get((device.partition(":")[0], precision), "torch computes in floating point here")
        offered = tuple(dict.fromkeys((*possible, *(name for name in PRECISIONS if name in also))))
        raise ResourceError(f"--precision {precision} does not work on {device}: {why}", f"use {_either(offered)}")
    return precision


def _either(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def detect() -> Hardware:
    """Look at this machine. Never raises; takes milliseconds without a GPU."""
    built = _torch_build()
    cuda, problem = _cuda_devices() if built.get("cuda", True) else ((), "the installed torch is built without CUDA")
    return Hardware(
        cuda=cuda,
        mps=sys.platform == "darwin" and platform.machine() == "arm64",
        xpu=_intel_gpus() if built.get("xpu") else 0,
        cpus=cpu_count(),
        cpu_bf16=_cpu_bf16(),
        engines=tuple(name for name in _NATIVE if _installed(name)),
        cuda_problem=problem,
    )


def cpu_count() -> int:
    """Cores that this process may use: its affinity, cut by a container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return cores


def idle_cpus() -> int:
    """Those of `cpu_count` that have nothing to run at this moment, this process's own included; at least 1.

    The least busy of three looks counts, as the system's own threads run for moments.
    """
    looks = []
    for pause in (0.001, 0.001, 0):
        looks.append(re.match(r"(?:\S+ ){3}(\d+)/", _read(Path("/proc/loadavg"))))
        time.sleep(pause)
    busy = min((int(running[1]) - 1 for running in looks if running), default=round(os.getloadavg()[0]))
    return max(1, cpu_count() - max(0, busy))


def _installed(engine: str) -> bool:
    if engine == "native":
        runs = (
            platform.machine().lower() not in ("x86_64", "amd64") or not _cpu_flags() or _cpu_flags() >= {"avx2", "fma"}
        )
        return runs and native_library().exists()
    return importlib.util.find_spec(_PACKAGES[engine]) is not None


def native_library() -> Path:
    """Where the build of the package puts the native decoder."""
    return Path(__file__).parents[1] / "text" / "native" / ("decode.dylib" if sys.platform == "darwin" else "decode.so")


def _cpu_bf16() -> bool:
    """Whether the CPU has bf16 matrix instructions (Linux)."""
    return bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """What an x86 CPU says that it can do (Linux); elsewhere nothing."""
    flags = re.search(r"^flags\s*:(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return frozenset(flags[1].split()) if flags else frozenset()


def _torch_build() -> dict[str, bool]:
    """Which GPU libraries the installed torch is built with, read without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return {}
    found = re.findall(r"^(cuda|xpu)\b[^=\n]*= *(.*)$", text, re.MULTILINE)
    return {name: value.strip() != "None" for name, value in found}


def _cuda_devices() -> tuple[tuple[CudaDevice, ...], str]:
    """The GPUs the CUDA driver shows, or none and the reason."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return (), "no NVIDIA driver was found"

    def call(function: str, *arguments: object) -> None:
        if code := getattr(driver, function)(*arguments):
            text = ctypes.c_char_p()
            driver.cuGetErrorString(code, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {code}"
            raise OSError(reason)

    try:
        call("cuInit", 0)
        count = ctypes.c_int()
        call("cuDeviceGetCount", ctypes.byref(count))
        found = []
        for index in range(count.value):
            gpu, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
            memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
            call("cuDeviceGet", ctypes.byref(gpu), index)
            call("cuDeviceGetName", name, len(name), gpu)
            call("cuDeviceGetAttribute", ctypes.byref(major), 75, gpu)  # COMPUTE_CAPABILITY_MAJOR
            call("cuDeviceGetAttribute", ctypes.byref(minor), 76, gpu)  # COMPUTE_CAPABILITY_MINOR
            call("cuDeviceTotalMem_v2", ctypes.byref(memory), gpu)
            found.append(CudaDevice(name.value.decode(errors="replace"), (major.value, minor.value), memory.value))
    except (OSError, AttributeError) as error:
        return (), f"the NVIDIA driver does not work ({error})"
    return tuple(found), "" if found else "the NVIDIA driver shows no GPU"


def _intel_gpus() -> int:
    """Render nodes of Intel GPUs (Linux)."""
    vendors = Path("/sys/class/drm").glob("renderD*/device/vendor")
    return sum(_read(vendor) == "0x8086" for vendor in vendors)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
