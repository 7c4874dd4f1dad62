"""The parts of a batch that need no model: seeds, lines, settings, shards and the file of results."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from genkit.errors import InputError, RunBusyError, UsageError
from genkit.text.batches.journal import Journal, Record, hash_line
from genkit.text.batches.lines import LONGEST, Line, Lines
from genkit.text.batches.shard import Shard, parse_shard
from genkit.text.batches.tasks import LineReader, Refused, Task, guess_form, line_seed
from genkit.text.config import GenerationConfig
from genkit.text.settings import settle


def test_no_two_samples_of_a_batch_share_a_seed() -> None:
    for seed in (0, 1, (1 << 63) - 1):
        first = sorted(line_seed(seed, k) for k in range(1, 2000))
        assert all(b - a >= 4096 for a, b in itertools.pairwise(first))  # a line draws at most n = 4096 samples
        assert first[0] >= 0
        assert first[-1] + 4096 <= 1 << 53  # JavaScript and jq keep them whole


def test_line_seeds_are_these() -> None:
    """They are part of what a seed means: a change of them changes everybody's results."""
    assert [line_seed(0, k) for k in (1, 2, 1_000_000)] == [
        1614790074142720, 1614790074146816, 1614794170138624,
    ]  # fmt: skip
    assert not {line_seed(0, k) for k in range(1000)} & {line_seed(1, k) for k in range(1000)}


def test_a_line_without_an_id_takes_its_number() -> None:
    """Nobody who looks an id up shall find two results."""
    reader = LineReader("jsonl", {}, {}, seed=1)
    first, second, third = (
        reader.read(Line(k + 1, line)) for k, line in enumerate((b'{"prompt": "a", "id": 3}', b'"b"', b'"c"'))
    )
    assert (first.id, second.id, third.id) == (3, 2, 3)
    assert isinstance(third, Refused)
    assert str(third.error) == "id 3 has occurred before (give each line an id of its own)"
    assert isinstance(reader.read(Line(4, b'{"prompt": "d", "id": 2}')), Refused)


def all_lines(path: Path) -> list[tuple[int, bytes | None]]:
    found = []
    with Lines(str(path)) as lines:
        while lines.wait():
            line = lines.next()
            assert line is not None
            found.append((line.number, line.data))
        assert lines.next() is None
    return found


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a", [(1, b"a")]),
        (b"a\n", [(1, b"a")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [(1, b"a"), (2, b"\xef\xbb\xbfb")]),
        (b"a\r\n \t\r\n\nb\x00c\x0cd\xe2\x80\xa8e\n", [(1, b"a\r"), (4, b"b\x00c\x0cd\xe2\x80\xa8e")]),
        (b"a" * 200_000 + b"\nb", [(1, b"a" * 200_000), (2, b"b")]),
        (b"a" * (LONGEST + 1) + b"\nb\n", [(1, None), (2, b"b")]),
        (b"a" * LONGEST, [(1, b"a" * LONGEST)]),
    ],
    ids=itertools.count(),
)
def test_lines_of_a_file_and_of_a_pipe(tmp_path: Path, data: bytes, wanted: list[tuple[int, bytes | None]]) -> None:
    (tmp_path / "a").write_bytes(data)
    assert all_lines(tmp_path / "a") == wanted
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    assert all_lines(tmp_path / "pipe") == wanted
    writer.join()


def test_a_pipe_on_which_nothing_comes_does_not_block_next(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    holder = os.open(tmp_path / "pipe", os.O_RDWR)
    with Lines(str(tmp_path / "pipe")) as lines:
        assert lines.size is None
        assert lines.next() is None
        os.write(holder, b"half a ")
        assert lines.next() is None
        os.write(holder, b"line\nand")
        assert lines.wait() == Line(1, b"half a line")
        assert lines.next() == Line(1, b"half a line")
        assert lines.next() is None
        os.close(holder)
        assert lines.wait() == Line(2, b"and")


def test_how_far_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\n\n\nfour\n")
    with Lines(str(tmp_path / "a")) as lines:
        taken = [lines.taken]
        while lines.next():
            taken.append(lines.taken)
        assert (taken, lines.size) == ([0, 4, 11], 11)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none: No such file"):
        Lines(str(tmp_path / "none"))
    with Lines(str(tmp_path)) as lines, pytest.raises(InputError, match="Is a directory"):
        lines.wait()


@pytest.mark.parametrize(
    ("first", "form"),
    [
        (None, "text"), (b"The cat", "text"), (b'{"prompt": "a"}', "jsonl"), (b"  {oops", "jsonl"),
        (b'"a prompt"', "jsonl"), (b'"Hello," he said.', "text"), (b"[1]", "text"), (b"12", "text"),
        (b'"\xff"', "text"),
    ],
)  # fmt: skip
def test_form_by_the_first_line(first: bytes | None, form: str) -> None:
    assert guess_form(None if first is None else Line(1, first)) == form


def test_a_line_counts_as_the_users_word() -> None:
    reader = LineReader("jsonl", {"temperature": 0.5}, {"top_k": 9, "max_new_tokens": 7}, seed=1)
    task = reader.read(Line(3, b'{"prompt": "a", "top_k": 2, "stop": ["x"], "json_schema": {"type": "object"}}'))
    schema = '{"type": "object"}'
    config = GenerationConfig(temperature=0.5, top_k=2, max_new_tokens=7, stop=("x",), json_schema=schema)
    assert task == Task(3, 3, "a", config, line_seed(1, 3))
    plain = reader.read(Line(4, b'"b"'))
    assert plain == Task(4, 4, "b", GenerationConfig(temperature=0.5, top_k=9, max_new_tokens=7), line_seed(1, 4))
    search = LineReader("jsonl", {}, {"top_k": 9}, seed=1).read(Line(1, b'{"prompt": "a", "num_beams": 2}'))
    assert isinstance(search, Task)
    assert (search.config.num_beams, search.config.top_k) == (2, 0)


def test_refused_lines_keep_their_name() -> None:
    reader = LineReader("jsonl", {}, {}, seed=1)
    refused = reader.read(Line(3, b'{"id": "mine"}'))
    assert isinstance(refused, Refused)
    assert (refused.number, refused.id, str(refused.error)) == (3, "mine", "there is no prompt")
    huge = reader.read(Line(4, None))
    assert isinstance(huge, Refused)
    assert str(huge.error) == "longer than 16 MiB"
    for deep in (b"[" * 100_000, b'{"prompt": "a", "top_k": 1' + b"0" * 400 + b"}", b"1" * 5000):
        assert isinstance(reader.read(Line(5, deep)), Refused)


@pytest.mark.parametrize(
    ("own", "recommended", "wanted"),
    [
        ({}, {}, {}),
        ({"top_k": 3}, {"top_k": 5, "top_p": 0.5}, {"top_k": 3, "top_p": 0.5}),
        ({"num_beams": 3}, {"top_k": 5}, {"num_beams": 3, "temperature": 0.0, "top_p": 1.0}),
        ({"num_beams": 3, "temperature": 0.0, "top_p": 1.0}, {}, {"num_beams": 3, "temperature": 0.0, "top_p": 1.0}),
        ({}, {"num_beams": 3, "top_k": 5, "length_penalty": 2.0},
         {"num_beams": 3, "temperature": 0.0, "top_p": 1.0, "length_penalty": 2.0}),
        ({"temperature": 1.0}, {"num_beams": 3, "length_penalty": 2.0}, {"temperature": 1.0}),
        ({"num_beams": 1}, {"num_beams": 3, "early_stopping": True, "top_k": 5}, {"top_k": 5}),
    ],
)  # fmt: skip
def test_settings(own: dict[str, Any], recommended: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert settle(own, recommended) == GenerationConfig(**wanted)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"num_beams": 3, "temperature": 0.7}, "--num-beams 3 draws nothing, so --temperature would"),
        ({"num_beams": 3, "top_k": 5, "typical_p": 0.5}, "so --top-k and --typical-p would do nothing"),
        ({"length_penalty": 2.0}, "--length-penalty is about a beam search"),
        ({"early_stopping": True, "num_beams": 1}, "--early-stopping is about a beam search"),
    ],
)
def test_a_search_draws_nothing(own: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settle(own, {})


SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "9"}
STEP = {"SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "5"}
TASKS = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("text", "environ", "index", "count"),
    [
        ("1/1", {}, 1, 1),
        ("2/4", {"RANK": "0", "WORLD_SIZE": "2"}, 2, 4),
        ("env", {"RANK": "0", "WORLD_SIZE": "2"}, 1, 2),
        ("env", TASKS, 2, 4),
        ("env", SLURM, 7, 9),
        ("env", SLURM | STEP, 4, 5),
        ("env", SLURM | STEP | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 4, 5),
        ("env", TASKS | {"RANK": "5", "WORLD_SIZE": "8"}, 6, 8),
        ("env", {"SGE_TASK_ID": "3", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "5", "SGE_TASK_STEPSIZE": "2"}, 2, 3),
        ("env", TASKS | {"SGE_TASK_ID": "undefined"}, 2, 4),
    ],
)
def test_shards(text: str, environ: dict[str, str], index: int, count: int) -> None:
    assert parse_shard(text, environ) == Shard(index, count)


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("0/4", {}, "--shard '0/4' is not a part of a whole"),
        ("5/4", {}, "not a part"),
        ("1", {}, "not a part"),
        ("1/4/2", {}, "not a part"),
        ("-1/4", {}, "not a part"),
        ("env", {}, "no launcher says which part this is"),
        ("env", {"RANK": "1"}, "WORLD_SIZE is not set"),
        ("env", {"RANK": "2", "WORLD_SIZE": "2"}, "RANK means part 3 of 2"),
        ("env", {"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x', not a number"),
        ("env", {"PBS_ARRAY_INDEX": "3"}, "PBS does not say how many parts there are"),
        ("env", SLURM | {"SLURM_ARRAY_TASK_COUNT": "3"}, "the tasks of SLURM_ARRAY_TASK have gaps"),
        ("env", SLURM | STEP | TASKS, "the Slurm job array says 4/5 and Slurm 2/4"),
    ],
)
def test_shards_that_are_refused(text: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shard(text, environ)


def test_each_line_is_in_one_shard() -> None:
    for count in (1, 2, 7):
        shards = [Shard(index, count) for index in range(1, count + 1)]
        owners = [[s.index for s in shards if s.owns(number)] for number in range(1, 22)]
        assert owners == [[(number - 1) % count + 1] for number in range(1, 22)]


def test_names_of_shards() -> None:
    assert Shard(1, 4).path("a/out.jsonl") == os.path.join("a", "out-00001-of-00004.jsonl")
    assert Shard(12, 40).path("out") == "out-00012-of-00040"


# The journal.


def fill(path: Path, results: list[dict[str, Any]]) -> None:
    with Journal(str(path), clobber=True) as journal:
        journal.begin({"seed": 1})
        for _ in journal.records():
            pass
        for result in results:
            journal.append(result, hash_line(json.dumps(result).encode()))


def test_any_prefix_of_the_part_can_be_resumed(tmp_path: Path) -> None:
    """However the file was cut off, what is whole is kept, and the end is the same."""
    results = [{"id": i, "text": "ü\u2028猫" * i} | ({"error": {}} if i == 2 else {}) for i in range(4)]
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part"
    fill(path, results)
    whole = part.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        part.write_bytes(whole[:cut])
        with Journal(str(path), clobber=True) as journal:
            journal.begin({"seed": 1})
            kept = list(journal.records())
            assert len(kept) == max(0, sum(end <= cut for end in ends) - 1)
            assert kept == [Record(hash_line(json.dumps(r).encode()), "error" in r) for r in results[: len(kept)]]
            for result in results[len(kept) :]:
                journal.append(result, hash_line(json.dumps(result).encode()))
            journal.finish()
        assert path.read_text() == "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in results)
        assert [p.name for p in tmp_path.iterdir()] == ["o.jsonl"]


def test_holes_that_a_power_cut_leaves(tmp_path: Path) -> None:
    results = [{"id": i} for i in range(6)]
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part"
    fill(path, results)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:3], b"\0" * len(lines[3]), *lines[4:]]))
    with Journal(str(path), clobber=True) as journal:
        journal.begin({"seed": 1})
        assert len(list(journal.records())) == 2


def test_a_random_byte_never_makes_it_crash(tmp_path: Path) -> None:
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part"
    fill(path, [{"id": i} for i in range(3)])
    whole = part.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        at = draw.randrange(len(whole))
        part.write_bytes(whole[:at] + draw.randbytes(1) + whole[at + 1 :])
        try:
            with Journal(str(path), clobber=True) as journal:
                journal.begin({"seed": 1})
                assert len(list(journal.records())) <= 3
        except UsageError:
            pass


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    path = str(tmp_path / "o.jsonl")
    with Journal(path, clobber=True), pytest.raises(RunBusyError):
        Journal(path, clobber=True)
    assert [*tmp_path.iterdir()] == []  # nothing was begun
    fill(tmp_path / "o.jsonl", [{"id": 1}])
    with Journal(path, clobber=True) as journal:
        assert journal.header == {"seed": 1}


def test_finishing_twice(tmp_path: Path) -> None:
    """Killed between the last rename and the removal of the part."""
    path, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part"
    fill(path, [{"id": 1}])
    kept = part.read_bytes()
    for _ in range(2):
        part.write_bytes(kept)
        with Journal(str(path), clobber=True) as journal:
            journal.begin({"seed": 1})
            assert len(list(journal.records())) == 1
            journal.finish()
        assert path.read_text() == '{"id": 1}\n'
        assert not part.exists()
