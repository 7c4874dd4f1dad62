"""`load`, and what a pipeline adds to an engine: text, stop strings, seeds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import tokenizers.processors
import torch

import genkit
from genkit import library
from genkit.errors import InputError, UsageError
from genkit.pipeline import ImagePipeline, TextJob, TextPipeline, load
from genkit.runtime.device import native_library, resolve
from genkit.runtime.seeds import derive_seed
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.engines import TokenEvent, TokenRequest, capacity
from genkit.text.engines.llamacpp import LlamaCppEngine
from genkit.text.gguf.convert import write_gguf
from genkit.text.tokenizer import Tokenizer
from genkit.training.weights import load_tensors, save_tensors

needs_native = pytest.mark.skipif(not native_library().exists(), reason="there was no C compiler")


class Script:
    """An engine that types what it is told to, one character a token."""

    context = 64

    def __init__(self, pipeline: TextPipeline, text: str, done: str | None = "length") -> None:
        self.ids, self.done = tokenizer(pipeline).encode(text), done
        self.typed = 0

    def generate(self, requests: Iterable[TokenRequest]) -> Iterator[TokenEvent]:
        for index, request in enumerate(requests):
            for i, token in enumerate(self.ids):
                if request.finished:
                    break
                self.typed += 1
                yield TokenEvent(index, token, self.done if i == len(self.ids) - 1 else None)

    def close(self) -> None: ...


def tokenizer(pipeline: TextPipeline) -> Tokenizer:
    assert pipeline.tokenizer is not None
    return pipeline.tokenizer


@pytest.fixture(params=["llamacpp", "torch", pytest.param("native", marks=needs_native)])
def pipeline(tiny_text: Path, request: pytest.FixtureRequest) -> Iterator[TextPipeline]:
    with load(tiny_text, device="cpu", engine=request.param) as loaded:
        assert isinstance(loaded, TextPipeline)
        yield loaded


@pytest.fixture
def scripted(tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TextPipeline, Script]]:
    def script(text: str) -> tuple[TextPipeline, Script]:
        loaded = load(tiny_text, device="cpu")
        assert isinstance(loaded, TextPipeline)
        engine = Script(loaded, text)
        monkeypatch.setattr(loaded, "_engine", lambda name, parallel: engine)
        return loaded, engine

    return script


def typed(scripted: Any, text: str, *stop: str) -> tuple[str, str | None, int]:
    pipeline, engine = scripted(text)
    events = list(pipeline.stream("The", GenerationConfig(stop=stop, max_new_tokens=len(engine.ids))))
    return "".join(e.text for e in events), events[-1].finish, engine.typed


def test_a_stop_string_ends_the_text_before_itself_and_the_engine_at_once(scripted: Any) -> None:
    assert typed(scripted, "a cat sat on the mat", "sat") == ("a cat ", "stop", 9)
    assert typed(scripted, "a cat sat on the mat", "the dog", "cat s") == ("a ", "stop", 7)
    assert typed(scripted, "a cat sat on the mat", "zebra") == ("a cat sat on the mat", "length", 20)


def test_text_that_may_begin_a_stop_string_is_held_back_only_so_long(scripted: Any) -> None:
    pipeline, _ = scripted("a cat sat")
    pieces = [e.text for e in pipeline.stream("The", GenerationConfig(stop=("cab",), max_new_tokens=9))]
    assert pieces == ["a", " ", "", "", "cat", " ", "s", "a", "t"]


def test_a_held_back_end_is_not_lost(scripted: Any) -> None:
    assert typed(scripted, "a ca", "cat") == ("a ca", "length", 4)


def test_sample_i_is_the_one_of_seed_plus_i(pipeline: TextPipeline) -> None:
    config = GenerationConfig(n=3, max_new_tokens=10)
    together = pipeline.complete("The cat", config, seed=5)
    alone = [pipeline.complete("The cat", config.replace(n=1), seed=5 + i)[0] for i in range(3)]
    assert together == alone
    assert len(set(together)) > 1


def test_a_prompt_that_fills_the_context_is_refused_with_its_size(pipeline: TextPipeline) -> None:
    with pytest.raises(InputError, match=r"has 64 tokens and the model's context 64 \(shorten it to 63"):
        pipeline.complete("a" * 64)
    *_, last = pipeline.stream("a" * 63, GenerationConfig(max_new_tokens=1))
    assert last.tokens == 1


def drawn(pipeline: TextPipeline, prompt: str, config: GenerationConfig, seed: int = 0) -> list[int | None]:
    return [event.token for event in pipeline.stream(prompt, config, seed=seed)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_the_context_is_full_the_text_goes_on_from_its_last_half(
    pipeline: TextPipeline, temperature: float
) -> None:
    config = GenerationConfig(max_new_tokens=100, temperature=temperature, repetition_penalty=1.2)
    prompt = tokenizer(pipeline).encode("The cat")
    for seed in range(300):
        found = drawn(pipeline, "The cat", config, seed)
        if len(found) == 100:
            break
    else:
        pytest.fail("every text ended by itself")
    engine, ids = pipeline._engine(pipeline.placement.engine, 1), list(prompt)
    for window, kept in enumerate((len(prompt), 32, 32)):
        own = seed if window == 0 else derive_seed(seed, f"window {window}")
        most = len(prompt) + 100 - len(ids)
        request = TokenRequest(ids[-kept:], config.replace(max_new_tokens=most), own)
        ids += [event.token for event in engine.generate([request])]
    assert found == ids[len(prompt) :]


def test_long_texts_leave_one_another_alone(pipeline: TextPipeline) -> None:
    config = GenerationConfig(n=5, max_new_tokens=150, temperature=1.0)
    together = pipeline.complete("The cat", config, seed=5)
    assert together == [pipeline.complete("The cat", config.replace(n=1), seed=5 + i)[0] for i in range(5)]
    *_, last = pipeline.stream("The cat", config.replace(n=1, temperature=0), seed=5)
    assert last.tokens > 64


@pytest.mark.parametrize(("suffix", "opening"), [("</s> $A", 1), ("$A </s>", 0), ("</s> $A </s>", 1), ("$A", 0)])
def test_what_opens_a_text_opens_each_window(
    hub_checkpoint: Callable[[str], Path], tmp_path: Path, suffix: str, opening: int
) -> None:
    shutil.copytree(hub_checkpoint("gpt_neox"), tmp_path / "model")
    path = tmp_path / "model/tokenizer.json"
    model = tokenizers.Tokenizer.from_file(str(path))
    ends = json.loads((tmp_path / "model/tokenizer_config.json").read_text())["eos_token"]
    ends = ends["content"] if isinstance(ends, dict) else ends
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single=suffix.replace("</s>", ends), special_tokens=[(ends, model.token_to_id(ends))]
    )
    model.save(str(path))
    with load(tmp_path / "model", device="cpu") as loaded:
        assert isinstance(loaded, TextPipeline)
        assert loaded._opening == [model.token_to_id(ends)] * opening


def test_a_context_that_the_opening_fills_ends_the_text(tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(tiny_text, device="cpu") as loaded:
        monkeypatch.setattr(TextPipeline, "_opening", [1] * 63)
        *_, last = loaded.stream("The cat", GenerationConfig(max_new_tokens=150, temperature=0))
    assert (last.finish, last.tokens < 64) == ("length", True)


def test_foreign_models_write_long_texts_too(hub_checkpoint: Callable[[str], Path]) -> None:
    config = GenerationConfig(max_new_tokens=150, temperature=0, repetition_penalty=1.2)
    with load(hub_checkpoint("gpt_neox"), device="cpu") as loaded:
        assert isinstance(loaded, TextPipeline)
        assert loaded.context == 64
        *_, last = loaded.stream("The cat", config)
    assert last.tokens > 64


@pytest.mark.parametrize("rule", [{"regex": "[a-z ]*"}, {"num_beams": 2}, {"grammar": "root ::= [a-z ]*"}])
def test_what_cannot_be_cut_ends_with_the_context(tiny_text: Path, rule: dict[str, Any]) -> None:
    with load(tiny_text, device="cpu") as loaded:
        *_, last = loaded.stream("The cat", GenerationConfig(max_new_tokens=150, temperature=0, **rule))
    assert last.finish in ("length", "eos")
    assert last.tokens < 64


def test_a_stop_string_that_the_context_cuts_is_found(tiny_text: Path) -> None:
    config = GenerationConfig(max_new_tokens=70, temperature=1.0)
    with load(tiny_text, device="cpu") as loaded:
        edge = 64 - len(tokenizer(loaded).encode("The cat"))
        for seed in range(300):
            events = list(loaded.stream("The cat", config, seed=seed))
            stop = "".join(event.text for event in events[edge - 1 : edge + 1])
            if len(events) == 70 and len(stop) > 1 and "".join(e.text for e in events).find(stop) >= edge - 1:
                break
        else:
            pytest.fail("no text will do")
        stopped = list(loaded.stream("The cat", config.replace(stop=(stop,)), seed=seed))
    assert stopped[-1].finish == "stop"
    assert len(stopped) == edge + 1
    assert "".join(e.text for e in stopped) == "".join(e.text for e in events[: edge - 1])


def test_penalties_and_limits_count_what_was_drawn_before(tiny_text: Path) -> None:
    config = GenerationConfig(
        max_new_tokens=20, min_new_tokens=20, temperature=0, frequency_penalty=0.9, presence_penalty=0.5
    )
    with load(tiny_text, device="cpu", engine="torch") as loaded:
        prompt, engine = tokenizer(loaded).encode("The cat"), loaded._engine("torch", 1)
        whole = [event.token for event in engine.generate([TokenRequest(prompt, config, 0)])]
        request = TokenRequest(prompt + whole[:8], config, 0, drawn=8)
        assert [event.token for event in engine.generate([request])] == whole[8:]
        forgot = TokenRequest(prompt + whole[:8], config, 0)
        assert [event.token for event in engine.generate([forgot])][:12] != whole[8:]


def test_the_model_brings_its_own_defaults(pipeline: TextPipeline) -> None:
    assert pipeline.defaults() == {"max_new_tokens": 12}
    assert sum(e.tokens > 0 for e in pipeline.stream("The")) <= 12


@pytest.mark.parametrize(
    ("settings", "result"),
    [
        ({"top_k": None, "temperature": 1, "eos_token_id": 0}, {"temperature": 1}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": [1]}, "--stop 1 has the wrong type"),
        ({"top_k": 1.5}, "--top-k 1.5 has the wrong type"),
        ({"n": True}, "--n True has the wrong type"),
        ({"top_p": 7.0}, "--top-p 7.0 is out of range"),
        ({"top_k": 10**400}, "too large"),
        ({"min_new_tokens": 300}, "--min-new-tokens 300 is more than"),
    ],
)
def test_settings_of_a_model_are_checked(
    tiny_text: Path, tmp_path: Path, settings: dict[str, Any], result: dict[str, Any] | str
) -> None:
    folder = shutil.copytree(tiny_text, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with load(folder, device="cpu") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        if isinstance(result, dict):
            assert pipeline.defaults() == result
            return
        with pytest.raises(InputError, match=result) as caught:
            pipeline.complete("The")
        assert "generation_config.json" in caught.value.message


def test_an_open_torch_sets_its_switches_and_a_closed_one_puts_them_back(tiny_text: Path, tiny_image: Path) -> None:
    def settings() -> tuple[str, bool, int]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.get_num_threads()

    torch.backends.cudnn.allow_tf32 = True
    before = settings()
    for folder, name in ((tiny_text, "text"), (tiny_image, "image")):
        with load(folder, device="cpu", engine="torch") as pipeline:
            assert library.kind(folder) == name
            assert settings()[:2] == ("highest", False)
        assert settings() == before
        pipeline.close()
        with load(folder, device="cpu"):
            assert settings() == before


def test_a_model_that_does_not_load_leaves_torch_as_it_was(tiny_text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_text, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    before = torch.backends.cudnn.allow_tf32
    for engine in ("llamacpp", "torch", "auto"):
        with pytest.raises(InputError) as caught:
            load(folder, device="cpu", engine=engine)
        assert caught.value.exit_code == 3
    assert torch.backends.cudnn.allow_tf32 is before


def test_sampling_joins_no_process_group(tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with load(tiny_text, device="cpu", engine="torch") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        assert pipeline.complete("The", seed=1)


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_text, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["é"] = len(tokenizer["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="the tokenizer has"):
        load(folder)


def test_images_of_a_seed_do_not_depend_on_their_neighbours(tiny_image: Path) -> None:
    pipeline = load(tiny_image, device="cpu", engine="torch")
    assert isinstance(pipeline, ImagePipeline)
    with torch.no_grad():
        for parameter in pipeline.engine.model.parameters():  # type: ignore[attr-defined]
            parameter.mul_(8)  # untrained pictures are all grey
    together = {e.seed: e.pixels for e in pipeline.draw([3, 4, 5])}
    assert list(together) == [3, 4, 5]
    alone = next(pipeline.draw([4])).pixels
    assert alone.shape == (32, 32, 3)
    assert alone.dtype == np.uint8
    assert np.abs(alone.astype(int) - together[4]).max() <= 1
    assert np.abs(together[3].astype(int) - together[4]).max() > 50


def test_images_have_the_classes_that_are_asked_for(tiny_classes: Path) -> None:
    with load(tiny_classes, device="cpu") as pipeline:
        assert isinstance(pipeline, ImagePipeline)
        assert pipeline.classes == ("apple", "cherry", "pear")
        assert [e.label for e in pipeline.draw([0, 4, 5])] == [0, 1, 2]
        asked = list(pipeline.draw([0, 4, 5], labels=["pear", 1, "0"]))
        assert [(e.seed, e.label) for e in asked] == [(0, 2), (4, 1), (5, 0)]
        again = list(pipeline.render([pipeline.request(0, "pear")]))
        assert np.array_equal(again[0].pixels, asked[0].pixels)
        with pytest.raises(UsageError, match="the model has no class 'pair'"):
            list(pipeline.draw([0], labels=["pair"]))
        with pytest.raises(UsageError, match="the model has no class 3"):
            list(pipeline.render([replace(pipeline.request(0), label=3)]))
        with pytest.raises(ValueError, match="shorter"):
            list(pipeline.draw([0, 1], labels=["pear"]))
        with pytest.raises(UsageError, match="the engine onnx has no gradients"):
            pipeline.project(np.zeros((32, 32, 4), np.uint8))


def test_a_walk_through_latents_and_seeds(tiny_classes: Path) -> None:
    with load(tiny_classes, device="cpu") as pipeline:
        assert isinstance(pipeline, ImagePipeline)
        stops = [7, pipeline.request(8, "pear"), 9]
        frames = list(pipeline.walk(stops, 6, label="cherry"))
        assert [(e.seed, e.label) for e in frames] == [(7, 1), (7, 1), (8, 1), (8, 1), (9, 1), (9, 1)]
        stills = list(pipeline.draw([7, 8, 9], labels=[1, 1, 1]))
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames[::2], stills, strict=True))
        assert next(iter(pipeline.walk(stops, 6))).label == 7 % 3  # of the first stop


def test_a_knob_that_an_engine_lacks_goes_to_one_that_has_it(tiny_text: Path) -> None:
    said: list[str] = []
    with load(tiny_text, device="cpu", note=said.append) as pipeline:
        assert isinstance(pipeline, TextPipeline)
        usual = resolve("cpu", task="text").engine
        assert pipeline.placement.engine == usual
        config = GenerationConfig(num_beams=3, n=2, max_new_tokens=6)
        beams = pipeline.complete("The", config)
        assert said[0] == f"--num-beams: done by torch, which {usual} cannot"
        before = len(said)
        pipeline.complete("The", config)
        assert len(said) == before
    with load(tiny_text, device="cpu", engine="torch") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        assert pipeline.complete("The", config) == beams
        with pytest.raises(UsageError, match="--engine torch cannot do --regex"):
            pipeline.complete("The", GenerationConfig(regex="[a-z]+"))
    with load(tiny_text, device="cpu", engine="llamacpp") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        with pytest.raises(UsageError, match=r"--engine llamacpp cannot do --num-beams \(use --engine torch"):
            pipeline.complete("The", config)


def test_what_no_engine_does_is_refused(tiny_text: Path) -> None:
    with load(tiny_text, device="cpu") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        with pytest.raises(UsageError, match="--num-beams and --regex exclude each other"):
            pipeline.complete("The", GenerationConfig(num_beams=2, regex="a+"))


def test_a_refused_job_does_not_stop_the_others(tiny_text: Path) -> None:
    config = GenerationConfig(max_new_tokens=4)
    jobs = [TextJob("The", config, 1), TextJob("a" * 64, config), TextJob("The", config, 1), TextJob("b" * 99, config)]
    with load(tiny_text, device="cpu") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        events = list(pipeline.run(jobs))
    ends = {e.job: e.finish for e in events if e.finish}
    assert sorted(ends) == [0, 1, 2, 3]
    assert (ends[1], ends[3]) == ("error", "error")
    texts = ["".join(e.text for e in events if e.job == job) for job in range(4)]
    assert texts[0] == texts[2] != ""
    assert texts[1] == texts[3] == ""
    (refusal,) = (e.error for e in events if e.job == 3)
    assert isinstance(refusal, InputError)
    assert "has 99 tokens" in refusal.message


def test_jobs_are_read_as_there_is_room(tiny_text: Path) -> None:
    read = 0

    def endless() -> Iterator[TextJob]:
        nonlocal read
        while True:
            read += 1
            yield TextJob("The", GenerationConfig(max_new_tokens=3), read)

    with load(tiny_text, device="cpu") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        done = 0
        for event in pipeline.run(endless(), parallel=4):
            done += event.finish is not None
            if done == 20:
                break
    assert 20 <= read <= 60


def test_a_long_context_takes_rows_before_it_takes_tokens() -> None:
    def shape(block_size: int) -> GPTConfig:
        return GPTConfig(
            arch="llama", vocab_size=300, block_size=block_size, n_layer=16, n_head=8, n_kv_head=8, n_embd=512,
            head_dim=64, n_inner=64,
        )  # fmt: skip

    token = 2 * 4 * 16 * 8 * 64
    assert capacity(shape(256), 16) == (16, 256)
    assert capacity(shape(8192), 16) == ((2 << 30) // (token * 8192), 8192) == (4, 8192)
    assert capacity(shape(1 << 17), 16) == (1, 1 << 15)


def test_a_file_of_its_own_tokenizer_writes_the_same_text(tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_text, file, "fp32")
    config = GenerationConfig(max_new_tokens=12, temperature=0)
    with load(tiny_text, device="cpu") as folder, load(file) as whole:
        assert isinstance(folder, TextPipeline)
        assert isinstance(whole, TextPipeline)
        for prompt in ("The cat", ""):  # the empty one begins a text
            assert whole.complete(prompt, config) == folder.complete(prompt, config)
            pieces = [event.text for event in whole.stream(prompt, config)]
            assert "".join(pieces) == whole.complete(prompt, config)[0]
        assert whole.complete("The cat", config) != [""]
    write_gguf(tiny_text, file, "fp16")
    with load(file) as half:  # rows run alone here unless asked for
        assert isinstance(half, TextPipeline)
        texts, pieces = ["", ""], ["", ""]
        for event in half.stream("The cat", config.replace(logprobs=2, n=2), parallel=2):
            texts[event.index] += event.text
            pieces[event.index] += half.piece(event.token or 0)
        assert pieces == texts
        assert texts[0] != ""
    with pytest.raises(UsageError, match=r"--precision int8: tiny\.gguf has a precision of its own"):
        load(file, precision="int8")


@pytest.mark.parametrize(("precision", "rows"), [("fp32", 20), ("int8", 16), ("fp16", 1)])
def test_rows_run_together_where_none_changes_another(
    tiny_text: Path, precision: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    init = LlamaCppEngine.__init__
    monkeypatch.setattr(
        LlamaCppEngine, "__init__", lambda self, *a, **k: opened.append(k["parallel"]) or init(self, *a, **k)
    )
    config = GenerationConfig(n=20, max_new_tokens=3)
    with load(tiny_text, device="cpu", precision=precision, engine="llamacpp") as pipeline:
        assert isinstance(pipeline, TextPipeline)
        texts = pipeline.complete("The", config)
        list(pipeline.stream("The", config, parallel=4))
        assert pipeline.complete("The", config) == texts
    assert opened == ([rows] if rows > 4 else [1, 4, 1])


def test_the_public_names_are_what_they_say() -> None:
    for name in genkit.__all__:
        assert getattr(genkit, name) is not None
    with pytest.raises(AttributeError):
        genkit.nothing  # noqa: B018


def test_damaged_image_weights_are_refused(tiny_image: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_image, tmp_path / "model")
    tensors = load_tensors(folder / "model.safetensors")
    damaged = {name: t / 0 if t.is_floating_point() else t for name, t in tensors.items()}
    save_tensors(folder / "model.safetensors", damaged)
    with pytest.raises(InputError, match="not finite"):
        load(folder)


@pytest.mark.parametrize("model", ["tiny_text", "tiny_image"])
def test_loading_does_not_import_the_compiler(model: str, request: pytest.FixtureRequest) -> None:
    """torch._dynamo and sympy take a second, and drawing weights on the meta device needs them."""
    folder = str(request.getfixturevalue(model))
    script = f"import sys, genkit; genkit.load({folder!r}, engine='torch'); print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "False\n", done.stderr
