"""A pipeline behind judges: what is rejected is drawn anew, and everything else stays as it was."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genkit import load
from genkit.config import LARGEST_SEED
from genkit.pipeline import TextJob, TextPipeline
from genkit.pipeline.filtered import FilteredPipeline, redraw_seed
from genkit.text.config import GenerationConfig

CONFIG = GenerationConfig(n=6, max_new_tokens=8, temperature=1.0)


class Rejects:
    """A judge of a fixed set of texts, or of what a function says."""

    name = "set"

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked: list[str] = []

    def rejects(self, prompt: str, text: str) -> bool:
        self.asked.append(text)
        return text in self.texts


@pytest.fixture(scope="module")
def pipeline(tiny_text: Path) -> Iterator[TextPipeline]:
    with load(tiny_text) as opened:
        assert isinstance(opened, TextPipeline)
        yield opened


def test_what_passes_is_what_it_was(pipeline: TextPipeline) -> None:
    filtered = FilteredPipeline(pipeline, [Rejects()])
    assert filtered.complete("The", CONFIG, seed=5) == pipeline.complete("The", CONFIG, seed=5)
    assert (filtered.drawn, filtered.unfilled, sum(filtered.rejected.values())) == (6, 0, 0)


def test_a_rejected_text_is_drawn_from_a_seed_of_its_own(pipeline: TextPipeline) -> None:
    plain = pipeline.complete("The", CONFIG, seed=5)
    one = CONFIG.replace(n=1)
    second = pipeline.complete("The", one, seed=redraw_seed(7, 1))[0]
    third = pipeline.complete("The", one, seed=redraw_seed(7, 2))[0]
    assert len({*plain, second, third}) == 8
    filtered = FilteredPipeline(pipeline, [Rejects(plain[2], second)])
    assert filtered.complete("The", CONFIG, seed=5) == [*plain[:2], third, *plain[3:]]
    assert (filtered.drawn, filtered.rejected["set"], filtered.unfilled) == (8, 2, 0)
    # the same sample alone, and beside others
    alone = FilteredPipeline(pipeline, [Rejects(plain[2], second)])
    assert alone.complete("The", one, seed=7) == [third]
    events = [*alone.stream("The", one, seed=7)]
    assert {event.rejected for event in events} == {2}
    assert "".join(event.text for event in events) == third


def test_seeds_of_redraws_are_nobody_elses() -> None:
    seeds = {redraw_seed(seed, attempt) for seed in range(200) for attempt in range(1, 30)}
    assert len(seeds) == 200 * 29
    assert min(seeds) > LARGEST_SEED + 4096
    assert max(seeds) < 1 << 64


def test_a_text_is_given_up_and_never_comes_out(pipeline: TextPipeline) -> None:
    class All(Rejects):
        def rejects(self, prompt: str, text: str) -> bool:
            self.asked.append(text)
            return True

    judge = All()
    filtered = FilteredPipeline(pipeline, [judge], attempts=3)
    events = [*filtered.stream("The", CONFIG.replace(n=2), seed=5)]
    assert [(event.text, event.finish, event.rejected) for event in events] == [("", "rejected", 3)] * 2
    assert (len(set(judge.asked)), filtered.unfilled) == (6, 2)
    assert filtered.complete("The", CONFIG.replace(n=2), seed=5) == [None, None]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"num_beams": 2}])
def test_what_is_drawn_without_chance_is_not_drawn_again(pipeline: TextPipeline, settings: dict[str, Any]) -> None:
    config = CONFIG.replace(n=1, **settings)
    judge = Rejects(*pipeline.complete("The", config))
    filtered = FilteredPipeline(pipeline, [judge])
    assert filtered.complete("The", config) == [None]
    assert len(judge.asked) == 1


def test_many_jobs_keep_their_numbers_and_errors(pipeline: TextPipeline) -> None:
    plain = [pipeline.complete(prompt, CONFIG.replace(n=2), seed=5) for prompt in ("The", "A")]
    jobs = [TextJob("The", CONFIG.replace(n=2), 5), TextJob("x" * 500, CONFIG), TextJob("A", CONFIG.replace(n=2), 5)]
    filtered = FilteredPipeline(pipeline, [Rejects(plain[1][1])])
    texts: dict[tuple[int, int], str] = {}
    for event in filtered.run(jobs):
        if event.error:
            assert event.job == 1
            continue
        texts[event.job, event.index] = texts.get((event.job, event.index), "") + event.text
    anew = pipeline.complete("A", CONFIG.replace(n=1), seed=redraw_seed(6, 1))[0]
    assert texts == {(0, 0): plain[0][0], (0, 1): plain[0][1], (2, 0): plain[1][0], (2, 1): anew}


def test_a_prompt_is_told_to_the_judge(pipeline: TextPipeline) -> None:
    class Sees(Rejects):
        def rejects(self, prompt: str, text: str) -> bool:
            assert prompt == "The"
            return False

    FilteredPipeline(pipeline, [Sees()]).complete("The", CONFIG)


def test_jobs_that_are_done_are_let_go(pipeline: TextPipeline) -> None:
    class Prompt(str):
        __slots__ = ("__weakref__",)

    prompts: list[weakref.ref[Prompt]] = []

    def jobs() -> Iterator[TextJob]:
        for number in range(60):
            prompt = Prompt("The cat")
            prompts.append(weakref.ref(prompt))
            yield TextJob(prompt, CONFIG.replace(n=1, max_new_tokens=1), number)

    filtered = FilteredPipeline(pipeline, [Rejects()])
    alive = [sum(ref() is not None for ref in prompts) for _ in filtered.run(jobs(), parallel=2)]
    assert len(alive) == 60
    assert alive[-1] < 10
