"""The example's data: batches are a pure function of the seed and the step."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from examples.gpt.config import DataConfig, UserError
from examples.gpt.data import (
    StepBatches,
    codec,
    load_text,
    training_batches,
    validation_batches,
)
from examples.gpt.tokenize import Tokenize


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(60):
        (tmp_path / f"{i}.txt").write_text(f"file {i} says {i * i}\n" * 4)
    return tmp_path


def config(path: Path, **changes) -> DataConfig:
    options = {"sequence_length": 8, "batch_size": 4, "validation_sequences": 8}
    return DataConfig(path, **options | changes)


def lines(part: np.ndarray) -> set[str]:
    return set(part.tobytes().decode().replace("\0", "").splitlines())


def test_a_batch_depends_on_the_seed_and_the_step_alone(folder):
    data = config(folder)
    text = load_text(data)
    first, again, other = (StepBatches(text.train, data, s) for s in (0, 0, 1))
    assert (first[7] == again[7]).all()
    assert (first[7] != first[8]).any()
    assert (first[7] != other[7]).any()


def test_a_later_start_sees_the_same_stream(folder):
    data = config(folder)
    text = load_text(data)
    source = StepBatches(text.train, data, 0)
    batches = training_batches(text, data, 0, 5)
    for step in range(5, 9):
        assert (next(batches) == source[step]).all()


def test_batches_are_windows_of_the_text(folder):
    data = config(folder)
    text = load_text(data).train
    for row in StepBatches(text, data, 0)[3]:
        assert bytes(row.astype(np.uint8)) in text.tobytes()


def test_processes_make_the_rows_of_one_batch(folder, monkeypatch):
    data = config(folder)
    text = load_text(data)
    whole = StepBatches(text.train, data, 0)[3]
    validation = validation_batches(text, data)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    rows, windows = [], []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows.append(StepBatches(text.train, data, 0)[3])
        windows.append(validation_batches(text, data))
    assert (np.concatenate(rows) == whole).all()
    assert (np.concatenate(windows, axis=1) == validation).all()


def test_whole_files_are_held_out(folder):
    text = load_text(config(folder))
    train, validation = lines(text.train), lines(text.validation)
    assert len(train) + len(validation) == 60
    assert train.isdisjoint(validation)
    assert 0 < len(validation) < 12


def test_another_file_moves_no_file(folder):
    before = load_text(config(folder))
    (folder / "another.txt").write_text("another\n")
    after = load_text(config(folder))
    assert lines(before.train) <= lines(after.train)
    assert lines(before.validation) <= lines(after.validation)


def test_the_checksum_sees_contents_and_names(folder):
    first = load_text(config(folder)).identity
    (folder / "0.txt").write_text("changed")
    second = load_text(config(folder)).identity
    (folder / "0.txt").rename(folder / "renamed.txt")
    third = load_text(config(folder)).identity
    assert len({first, second, third}) == 3


def test_one_file_is_held_out_at_its_end(tmp_path):
    path = tmp_path / "text"
    path.write_text("a" * 1900 + "b" * 101)
    text = load_text(config(path))
    assert set(text.validation.tobytes()) <= set(b"b\0")
    assert len(text.train) + len(text.validation) == 2002


def test_hidden_files_are_no_text(folder):
    before = load_text(config(folder)).identity
    (folder / ".hidden").write_text("hidden")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"\x00")
    assert load_text(config(folder)).identity == before


def test_what_a_run_writes_is_no_text(folder):
    before = load_text(config(folder)).identity
    run = folder / "runs" / "trunk"
    (run / "checkpoints").mkdir(parents=True)
    for name in (".lock", ".run.json.tmp"):  # of one killed at its start
        (run / name).write_text("left")
    assert load_text(config(folder)).identity == before
    for name in ("run.json", "metrics.jsonl", "checkpoints/000000004.json"):
        (run / name).write_text("a run's")
    assert load_text(config(folder)).identity == before


def test_binary_files_are_refused_or_asked_for(folder):
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(UserError, match="picture.png is not text .* with --binary"):
        load_text(config(folder))
    text = load_text(config(folder, binary=True))
    assert b"\x89PNG" in text.train.tobytes() + text.validation.tobytes()


def test_names_may_be_any_bytes(folder):
    name = os.fsdecode(b"\xff.txt")
    (folder / name).write_text("odd\n" * 20)
    assert "odd" in lines(load_text(config(folder)).train)
    assert load_text(config(folder / name, sequence_length=1)).name.endswith(name)


def test_rows_of_another_text_take_the_place_of_rows(folder):
    data = config(folder, batch_size=64)
    text = load_text(data).train
    other = np.full(99, 7, np.uint8)
    plain = StepBatches(text, data, 0)[3]
    mixed = StepBatches(text, data, 0, other, 0.25)[3]
    is_other = (mixed == 7).all(axis=1)
    assert (mixed[~is_other] == plain[~is_other]).all()
    assert 8 <= is_other.sum() <= 24
    assert (StepBatches(text, data, 0, other, 1.0)[3] == 7).all()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """A folder of text, and beside it its tokens."""
    home = tmp_path_factory.mktemp("tokens")
    (home / "text").mkdir()
    for i in range(60):
        (home / "text" / f"{i}.txt").write_text(f"file {i} says {i * i}, \u00e9\n" * 4)
    Tokenize(home / "tokens", home / "text", vocabulary=300)()
    return home


def test_tokens_stand_for_the_same_text_and_the_same_files_are_held_out(tokens):
    text = load_text(config(tokens / "text"))
    found = load_text(config(tokens / "tokens"))
    assert isinstance(found.train, np.memmap) and found.train.dtype == np.uint16
    assert (found.unit, found.vocabulary) == ("tokens", 300)
    _, decode, end = codec(found.tokenizer)
    for part, whole in (("train", text.train), ("validation", text.validation)):
        files = np.split(
            getattr(found, part), np.flatnonzero(getattr(found, part) == end)
        )
        said = b"".join(decode(f[f != end].tolist()) for f in files)
        assert said == whole.tobytes().replace(b"\0", b"")
    size = len(text.validation) / len(found.validation)
    assert found.bytes_per_token == pytest.approx(size) and size > 2


def test_another_text_is_tokenized_by_a_given_tokenizer(tokens):
    (tokens / "other.txt").write_text("file 3 says 9\n" * 200)
    Tokenize(
        tokens / "other",
        tokens / "other.txt",
        tokenizer=tokens / "tokens/tokenizer.json",
    )()
    mixed = load_text(config(tokens / "tokens", mix=f"{tokens}/other=0.5"))
    assert mixed.mix is not None and mixed.mix.tokenizer == mixed.tokenizer
    with pytest.raises(UserError, match="not made of the same tokens"):
        load_text(config(tokens / "tokens", mix=f"{tokens}/text=0.5"))
    with pytest.raises(UserError, match="is there already"):
        Tokenize(tokens / "other", tokens / "text")()


def test_damaged_tokens_are_refused(tokens, tmp_path):
    shutil.copytree(tokens / "tokens", tmp_path / "t")
    before = load_text(config(tmp_path / "t")).identity
    changed = np.memmap(tmp_path / "t" / "train.bin", "uint16", "r+")
    changed[3] += 1
    changed.flush()
    assert load_text(config(tmp_path / "t")).identity != before
    about = tmp_path / "t" / "tokens.json"
    before = load_text(config(tmp_path / "t")).identity
    about.write_text(about.read_text().replace("300", "301"))
    assert load_text(config(tmp_path / "t")).identity != before
    (tmp_path / "t" / "val.bin").write_bytes(b"odd")
    with pytest.raises(UserError, match="tokens of .* cannot be read"):
        load_text(config(tmp_path / "t"))


def test_files_of_nanogpt_are_tokens(tmp_path):
    for name, size in (("train", 4000), ("val", 400)):
        np.arange(size, dtype=np.uint16).tofile(tmp_path / f"{name}.bin")
    for path in (tmp_path, tmp_path / "train.bin"):
        text = load_text(config(path))
        assert (len(text.train), len(text.validation)) == (4000, 400)
        assert (text.vocabulary, text.bytes_per_token) == (448, None)  # of 64 each
    (tmp_path / "val.bin").rename(tmp_path / "alone.bin")
    alone = load_text(config(tmp_path / "alone.bin"))
    assert (len(alone.train), len(alone.validation)) == (380, 20)


def test_the_default_text_is_the_source_of_jax():
    text = load_text(DataConfig())
    assert text.name == "jax source"
    assert b"def jit(" in text.train.tobytes() + text.validation.tobytes()


def test_text_that_cannot_be_used_is_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_text(config(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="There is no text in .*empty"):
        load_text(config(empty))
    with pytest.raises(UserError, match="--sequence-length 9999 needs at least 10000"):
        load_text(config(folder, sequence_length=9999))
