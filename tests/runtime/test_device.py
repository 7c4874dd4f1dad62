"""Requests against faked machines: the exact placement, or the exact refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from genkit.errors import GenkitError, ResourceError, UsageError
from genkit.runtime import device
from genkit.runtime.device import CudaDevice, Hardware, Placement, resolve

GB = 10**9
H100 = CudaDevice("NVIDIA H100", (9, 0), 80 * GB)
T4 = CudaDevice("Tesla T4", (7, 5), 16 * GB)
MACHINES = {
    "laptop": Hardware(cpus=4),
    "full": Hardware(cpus=4, engines=("llamacpp", "native", "onnx")),
    "uncompiled": Hardware(cpus=4, engines=("llamacpp", "onnx")),
    "server": Hardware(cpus=64, cpu_bf16=True),
    "mac": Hardware(mps=True, cpus=8),
    "arc": Hardware(xpu=2, cpus=8),
    "hopper": Hardware(cuda=(H100,), cpus=16, cuda_problem=""),
    "turing": Hardware(cuda=(T4,), cpus=4, cuda_problem=""),
    "mixed": Hardware(cuda=(T4, H100), mps=True, xpu=1, cpus=4, cuda_problem=""),
    "broken": Hardware(cpus=4, cuda_problem="the NVIDIA driver does not work (unknown error)"),
}
NO_CUDA = "no NVIDIA driver was found"
NO_HALF = "torch is no faster in fp16 than in fp32 on a CPU"
SLOW = "no bf16 instructions were found, and fp32 is likely far faster"
AMPERE = "TF32 is a mode of NVIDIA GPUs since Ampere"
OLD = "this GPU is older than Ampere"
FLOATS = "torch computes in floating point here"

# machine, device, precision -> (device, precision, why), or (message, hint)
GRANTED = [
    ("laptop", "auto", "auto", "cpu", "fp32", f"no GPU: {NO_CUDA}"),
    ("laptop", "cpu", "auto", "cpu", "fp32", "as asked"),
    ("laptop", "cpu", "fp32", "cpu", "fp32", "as asked"),
    ("laptop", "auto", "bf16", "cpu", "bf16", f"no GPU: {NO_CUDA}; {SLOW}"),
    ("broken", "auto", "auto", "cpu", "fp32", "no GPU: the NVIDIA driver does not work (unknown error)"),
    ("mac", "auto", "auto", "mps", "fp32", "the best of mps, cpu"),
    ("mac", "mps", "fp16", "mps", "fp16", "as asked"),
    ("mac", "cpu", "bf16", "cpu", "bf16", f"as asked; {SLOW}"),
    ("server", "cpu", "bf16", "cpu", "bf16", "as asked"),
    ("arc", "auto", "auto", "xpu:0", "bf16", "the best of xpu:0, xpu:1, cpu"),
    ("arc", "xpu", "fp16", "xpu:0", "fp16", "as asked"),
    ("arc", "xpu:1", "fp32", "xpu:1", "fp32", "as asked"),
    ("hopper", "auto", "auto", "cuda:0", "bf16", "the best of cuda:0, cpu"),
    ("hopper", "cuda", "fp32", "cuda:0", "fp32", "as asked"),
    ("hopper", "cuda:0", "tf32", "cuda:0", "tf32", "as asked"),
    ("hopper", "auto", "fp16", "cuda:0", "fp16", "the best of cuda:0, cpu"),
    ("hopper", "cpu", "auto", "cpu", "fp32", "as asked"),
    ("turing", "auto", "auto", "cuda:0", "fp16", "the best of cuda:0, cpu"),
    ("turing", "cuda", "fp32", "cuda:0", "fp32", "as asked"),
    ("mixed", "auto", "auto", "cuda:0", "fp16", "the best of cuda:0, cuda:1, mps, xpu:0, cpu"),
    ("mixed", "cuda:1", "auto", "cuda:1", "bf16", "as asked"),
    ("mixed", "mps", "auto", "mps", "fp32", "as asked"),
    ("mixed", "xpu", "auto", "xpu:0", "bf16", "as asked"),
]
REFUSED = [
    ("laptop", "cuda", "auto", f"--device cuda is not on this machine: {NO_CUDA}", "there is cpu"),
    ("laptop", "cuda:1", "fp32", f"--device cuda:1 is not on this machine: {NO_CUDA}", "there is cpu"),
    ("laptop", "mps", "auto", "--device mps is not on this machine", "there is cpu"),
    ("laptop", "xpu", "auto", "--device xpu is not on this machine", "there is cpu"),
    ("laptop", "cpu", "fp16", f"--precision fp16 does not work on cpu: {NO_HALF}", "use fp32 or bf16"),
    ("laptop", "auto", "tf32", f"--precision tf32 does not work on cpu: {AMPERE}", "use fp32 or bf16"),
    ("laptop", "auto", "int8", f"--precision int8 does not work on cpu: {FLOATS}", "use fp32 or bf16"),
    ("broken", "cuda", "auto", "--device cuda is not on this machine: the NVIDIA driver does not work (unknown error)",
     "there is cpu"),
    ("mac", "cuda", "auto", f"--device cuda is not on this machine: {NO_CUDA}", "there is mps, cpu"),
    ("mac", "auto", "bf16", "--precision bf16 does not work on mps: not every Apple GPU has bf16", "use fp32 or fp16"),
    ("mac", "auto", "tf32", f"--precision tf32 does not work on mps: {AMPERE}", "use fp32 or fp16"),
    ("arc", "xpu:2", "auto", "--device xpu:2 is not on this machine", "there is xpu:0, xpu:1, cpu"),
    ("arc", "xpu", "tf32", f"--precision tf32 does not work on xpu:0: {AMPERE}", "use bf16, fp16 or fp32"),
    ("hopper", "cuda:3", "auto", "--device cuda:3 is not on this machine", "there is cuda:0 (NVIDIA H100, 80 GB), cpu"),
    ("hopper", "cuda", "int8", f"--precision int8 does not work on cuda:0: {FLOATS}", "use bf16, fp16, tf32 or fp32"),
    ("turing", "cuda", "bf16", f"--precision bf16 does not work on cuda:0: {OLD}", "use fp16 or fp32"),
    ("turing", "cuda", "tf32", f"--precision tf32 does not work on cuda:0: {OLD}", "use fp16 or fp32"),
    ("mixed", "cuda:2", "auto", "--device cuda:2 is not on this machine",
     "there is cuda:0 (Tesla T4, 16 GB), cuda:1 (NVIDIA H100, 80 GB), mps, xpu:0, cpu"),
]  # fmt: skip
TASKS = get_args(device.Task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("machine", "asked", "precision", "placed", "computed", "why"), GRANTED)
def test_granted(task: Any, machine: str, asked: str, precision: str, placed: str, computed: str, why: str) -> None:
    for engine in ("auto", "torch"):
        found = resolve(asked, precision, engine, task=task, hardware=MACHINES[machine])
        assert found == Placement(placed, computed, "torch", why)
    assert found.kind == placed.split(":")[0]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("machine", "asked", "precision", "message", "hint"), REFUSED)
def test_refused(task: Any, machine: str, asked: str, precision: str, message: str, hint: str) -> None:
    with pytest.raises(ResourceError) as caught:
        resolve(asked, precision, task=task, hardware=MACHINES[machine])
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("precision", device.PRECISIONS)
@pytest.mark.parametrize("asked", ["auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:9", "mps", "xpu", "xpu:1"])
def test_every_request_is_placed_on_what_is_there_or_refused_with_a_remedy_that_works(
    name: str, precision: str, asked: str
) -> None:
    machine = MACHINES[name]
    found, refusal = None, None
    try:
        found = resolve(asked, precision, task="text", hardware=machine)
    except ResourceError as error:
        refusal = error
    if refusal is not None:
        words = str(refusal.hint).replace(",", " ").split()
        if refusal.message.startswith("--device"):
            offered = [w for w in words if w in device.available(machine)]
            assert offered == device.available(machine)
            assert all(resolve(w, task="text", hardware=machine).device == w for w in offered)
        else:
            offered = [w for w in words if w in device.PRECISIONS]
            assert len(offered) >= 2
            assert all(resolve(asked, p, task="text", hardware=machine).precision == p for p in offered)
    if found is not None:
        assert found.device in device.available(machine)
        if found.engine == "torch":
            assert found.precision in device.precisions(found.device, machine)
        assert precision in ("auto", found.precision)
        assert asked in ("auto", found.device, found.kind)


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "mps:0", "CUDA", "cuda:0 ", "cuda:٣"]
)
def test_a_malformed_device_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(text, task="text", hardware=MACHINES["mixed"])
    assert caught.value.message == f"--device {text!r} is not a device"
    assert caught.value.hint == "use auto, cpu, cuda, cuda:N, mps, xpu or xpu:N"


def test_an_unknown_precision_or_engine_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(precision="fp64", task="text", hardware=MACHINES["laptop"])
    assert str(caught.value) == "--precision 'fp64' is not a precision (use auto, fp32, tf32, bf16, fp16, int8 or int4)"
    for task, engine, offered in (
        ("text", "onnx", "auto, torch, native or llamacpp"),
        ("image", "llamacpp", "auto, torch or onnx"),
        ("train-text", "llamacpp", "auto or torch"),
        ("train-gan", "onnx", "auto or torch"),
    ):
        with pytest.raises(UsageError) as caught:
            resolve(engine=engine, task=task, hardware=MACHINES["full"])  # type: ignore[arg-type]
        assert str(caught.value) == f"--engine '{engine}' is not an engine for {task} (use {offered})"


def test_every_offered_engine_can_be_had() -> None:
    for task in TASKS:
        for engine in device.ENGINES[task]:
            found = resolve(engine=engine, task=task, hardware=MACHINES["full"])
            native = {"text": "native", "image": "onnx"}.get(task, "torch")
            assert found.engine == (native if engine == "auto" else engine)


# task, device, precision, engine -> device, precision, engine
NATIVE = [
    ("text", "auto", "auto", "auto", "cpu", "fp32", "native"),
    ("text", "cpu", "fp32", "auto", "cpu", "fp32", "native"),
    ("text", "cpu", "int8", "auto", "cpu", "int8", "native"),
    ("text", "cpu", "fp16", "auto", "cpu", "fp16", "llamacpp"),
    ("text", "cpu", "int8", "llamacpp", "cpu", "int8", "llamacpp"),
    ("text", "auto", "fp32", "native", "cpu", "fp32", "native"),
    ("text", "cpu", "int4", "auto", "cpu", "int4", "llamacpp"),
    ("text", "cpu", "bf16", "auto", "cpu", "bf16", "torch"),
    ("text", "cpu", "auto", "torch", "cpu", "fp32", "torch"),
    ("image", "auto", "auto", "auto", "cpu", "fp32", "onnx"),
    ("image", "auto", "fp32", "onnx", "cpu", "fp32", "onnx"),
    ("image", "cpu", "bf16", "auto", "cpu", "bf16", "torch"),
    ("train-text", "auto", "auto", "auto", "cpu", "fp32", "torch"),
    ("train-gan", "cpu", "fp32", "auto", "cpu", "fp32", "torch"),
]


@pytest.mark.parametrize(("task", "asked", "precision", "engine", "placed", "computed", "found"), NATIVE)
def test_sampling_on_a_cpu_runs_on_the_engine_made_for_it(
    task: Any, asked: str, precision: str, engine: str, placed: str, computed: str, found: str
) -> None:
    placement = resolve(asked, precision, engine, task=task, hardware=MACHINES["full"])
    assert (placement.device, placement.precision, placement.engine) == (placed, computed, found)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_without_a_compiled_decoder_llama_cpp_does_it(precision: str) -> None:
    placement = resolve("cpu", precision, task="text", hardware=MACHINES["uncompiled"])
    assert (placement.engine, placement.precision) == ("llamacpp", precision)


@pytest.mark.parametrize("task", ["text", "image"])
def test_a_gpu_goes_before_the_engines_for_a_cpu(task: Any) -> None:
    both = Hardware(cuda=(H100,), cpus=4, engines=("llamacpp", "onnx"), cuda_problem="")
    assert resolve(task=task, hardware=both).engine == "torch"
    assert resolve("cpu", task=task, hardware=both).engine != "torch"


@pytest.mark.parametrize(
    ("task", "asked", "precision", "engine", "machine", "message"),
    [
        ("text", "cuda", "auto", "llamacpp", "full",
         "--engine llamacpp does not run on cuda (use --device cpu, or --engine torch)"),
        ("text", "auto", "bf16", "llamacpp", "full",
         "--precision bf16 does not work with --engine llamacpp (use fp32, fp16, int8 or int4)"),
        ("image", "auto", "int8", "onnx", "full", "--precision int8 does not work with --engine onnx (use fp32)"),
        ("image", "auto", "int8", "auto", "full",
         f"--precision int8 does not work on cpu: {FLOATS} (use fp32 or bf16)"),
        ("text", "auto", "tf32", "auto", "full",
         f"--precision tf32 does not work on cpu: {AMPERE} (use fp32, bf16, fp16, int8 or int4)"),
        ("text", "auto", "auto", "llamacpp", "laptop",
         "--engine llamacpp is not installed (pip install xllamacpp, or use --engine torch)"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_do_it_says_what_can(
    task: Any, asked: str, precision: str, engine: str, machine: str, message: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        resolve(asked, precision, engine, task=task, hardware=MACHINES[machine])
    assert str(caught.value) == message


class FakeDriver:
    """A CUDA driver library with two GPUs; `fail` names a function and the code it gives."""

    gpus = ((b"NVIDIA H100", 9, 0, 80 * GB), (b"Tesla T4", 7, 5, 16 * GB))

    def __init__(self, fail: dict[str, int] | None = None, count: int = 2) -> None:
        self.fail, self.count = fail or {}, count

    def __getattr__(self, name: str) -> Any:
        if name == "cuGetErrorString":
            return lambda code, out: setattr(out._obj, "value", b"broken badly") if code == 999 else None
        answers = {
            "cuInit": lambda flags: None,
            "cuDeviceGetCount": lambda out: setattr(out._obj, "value", self.count),
            "cuDeviceGet": lambda out, index: setattr(out._obj, "value", index),
            "cuDeviceGetName": lambda buffer, size, gpu: setattr(buffer, "value", self.gpus[gpu.value][0]),
            "cuDeviceGetAttribute": lambda out, which, gpu: setattr(
                out._obj, "value", self.gpus[gpu.value][{75: 1, 76: 2}[which]]
            ),
            "cuDeviceTotalMem_v2": lambda out, gpu: setattr(out._obj, "value", self.gpus[gpu.value][3]),
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *arguments: self.fail[name] if name in self.fail else answers[name](*arguments) or 0


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    def build(driver: Any, **torch: bool) -> Hardware:
        def load(name: str) -> Any:
            if isinstance(driver, Exception):
                raise driver
            return driver

        monkeypatch.setattr(device.ctypes, "CDLL", load)
        monkeypatch.setattr(device, "_torch_build", lambda: torch)
        return device.detect()

    return build


def test_detect_reads_the_driver(built: Any) -> None:
    found = built(FakeDriver(), cuda=True)
    assert found.cuda == (H100, T4)
    assert found.cuda_problem == ""


@pytest.mark.parametrize(
    ("driver", "torch", "problem"),
    [
        (OSError("libcuda.so.1: cannot open"), {}, "no NVIDIA driver was found"),
        (FakeDriver(count=0), {"cuda": True}, "the NVIDIA driver shows no GPU"),
        (FakeDriver({"cuInit": 999}), {"cuda": True}, "the NVIDIA driver does not work (broken badly)"),
        (FakeDriver({"cuInit": 803}), {"cuda": True}, "the NVIDIA driver does not work (error 803)"),
        (FakeDriver({"cuDeviceGetName": 999}), {"cuda": True}, "the NVIDIA driver does not work (broken badly)"),
        (object(), {"cuda": True}, "the NVIDIA driver does not work ('object' object has no attribute 'cuInit')"),
        (FakeDriver(), {"cuda": False}, "the installed torch is built without CUDA"),
    ],
)
def test_detect_survives_any_driver_and_says_why(built: Any, driver: Any, torch: Any, problem: str) -> None:
    found = built(driver, **torch)
    assert found.cuda == ()
    assert found.cuda_problem == problem


def test_intel_gpus_count_only_where_torch_can_use_them(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_intel_gpus", lambda: 2)
    assert built(FakeDriver(), cuda=True, xpu=True).xpu == 2
    assert built(FakeDriver(), cuda=True, xpu=False).xpu == 0
    assert built(FakeDriver()).xpu == 0


@pytest.mark.parametrize(
    ("system", "machine", "mps"),
    [("darwin", "arm64", True), ("darwin", "x86_64", False), ("linux", "arm64", False)],
)
def test_mps_is_apple_silicon(
    monkeypatch: pytest.MonkeyPatch, built: Any, system: str, machine: str, mps: bool
) -> None:
    monkeypatch.setattr(device.sys, "platform", system)
    monkeypatch.setattr(device.platform, "machine", lambda: machine)
    assert built(OSError()).mps is mps


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_cpu_count_heeds_affinity_and_quota(monkeypatch: pytest.MonkeyPatch, limit: str, cores: int) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(device.Path, "read_text", lambda _: limit)
    assert device.cpu_count() == cores


def test_the_build_of_torch_is_what_torch_says_of_itself() -> None:
    code = "import torch; print(torch.version.cuda is not None, torch.version.xpu is not None)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert device._torch_build() == {"cuda": said[0] == "True", "xpu": said[1] == "True"}


def test_detect_and_resolve_import_nothing_heavy() -> None:
    code = (
        "import sys; from genkit.runtime.device import resolve; placed = resolve(task='text')\n"
        "heavy = {'torch', 'numpy', 'rich', 'PIL', 'click'} & set(sys.modules); assert not heavy, heavy\n"
        "print(placed.device)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() in device.available(device.detect())


def test_errors_carry_the_exit_codes() -> None:
    codes = {"cuda:3": 5, "gpu": 2}
    for text, code in codes.items():
        with pytest.raises(GenkitError) as caught:
            resolve(text, task="image", hardware=MACHINES["hopper"])
        assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("machine", "device", "precision", "task", "chosen"),
    [
        ("server", "auto", "auto", "train-text", "bf16"),
        ("server", "cpu", "auto", "train-gan", "bf16"),
        ("server", "auto", "auto", "text", "fp32"),
        ("server", "auto", "auto", "image", "fp32"),
        ("server", "auto", "fp32", "train-text", "fp32"),
        ("laptop", "auto", "auto", "train-text", "fp32"),
    ],
)
def test_a_cpu_with_bf16_instructions_trains_in_bf16(
    machine: str, device: str, precision: str, task: Any, chosen: str
) -> None:
    placement = resolve(device, precision, task=task, hardware=MACHINES[machine])
    assert placement.precision == chosen
    assert ("fastest in bf16" in placement.why) == (precision == "auto" and chosen == "bf16")


@pytest.mark.parametrize(
    ("flags", "found"), [("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("fpu avx2 bf16", False)]
)
def test_bf16_instructions_are_read_from_cpuinfo(monkeypatch: pytest.MonkeyPatch, flags: str, found: bool) -> None:
    monkeypatch.setattr(device, "_read", lambda path: f"processor : 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    device._cpu_flags.cache_clear()
    assert device._cpu_bf16() is found
    device._cpu_flags.cache_clear()


@pytest.mark.parametrize(("flags", "runs"), [("fpu avx2 fma", True), ("fpu avx", False), ("", True)])
def test_the_native_decoder_is_for_processors_with_its_instructions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, runs: bool
) -> None:
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(device, "_cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(device, "native_library", lambda: tmp_path / "decode.so")
    assert "native" not in device.detect().engines
    (tmp_path / "decode.so").touch()
    assert ("native" in device.detect().engines) is runs


@pytest.mark.parametrize(("running", "idle"), [("1/80", 4), ("2/80", 3), ("4/80", 1), ("9/80", 1)])
def test_idle_cpus_are_those_without_work(monkeypatch: pytest.MonkeyPatch, running: str, idle: int) -> None:
    monkeypatch.setattr(device, "cpu_count", lambda: 4)
    monkeypatch.setattr(device, "_read", lambda path: f"0.50 0.40 0.30 {running} 4711")
    assert device.idle_cpus() == idle
    monkeypatch.setattr(device, "_read", lambda path: "")  # no such file
    monkeypatch.setattr(device.os, "getloadavg", lambda: (1.2, 9.0, 9.0))
    assert device.idle_cpus() == 3
