"""The example's data: batches are a pure function of the seed and the step."""

from pathlib import Path

import jax
import numpy as np
import pytest

from examples.gpt.config import DataConfig, UserError
from examples.gpt.data import (
    StepBatches,
    batches_from,
    load_text,
    validation_batches,
)


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
    source = StepBatches(load_text(data).train, data, 0)
    batches = batches_from(source, 5)
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
    first = load_text(config(folder)).sha256
    (folder / "0.txt").write_text("changed")
    second = load_text(config(folder)).sha256
    (folder / "0.txt").rename(folder / "renamed.txt")
    third = load_text(config(folder)).sha256
    assert len({first, second, third}) == 3


def test_one_file_is_held_out_at_its_end(tmp_path):
    path = tmp_path / "text"
    path.write_text("a" * 1900 + "b" * 101)
    text = load_text(config(path))
    assert set(text.validation.tobytes()) <= set(b"b\0")
    assert len(text.train) + len(text.validation) == 2002


def test_hidden_files_are_no_text(folder):
    before = load_text(config(folder)).sha256
    (folder / ".hidden").write_text("hidden")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"\x00")
    assert load_text(config(folder)).sha256 == before


def test_the_default_text_is_the_source_of_jax():
    text = load_text(DataConfig())
    assert text.name == "jax source"
    assert b"def jit(" in text.train.tobytes() + text.validation.tobytes()


def test_text_that_cannot_be_used_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match="Cannot read .*nowhere: No such file"):
        load_text(config(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="There is no text in .*empty"):
        load_text(config(empty))
    with pytest.raises(UserError, match="--sequence-length 9999 needs at least 10000"):
        load_text(config(folder, sequence_length=9999))
