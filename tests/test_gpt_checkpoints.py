"""The example's checkpoints: complete and verified, or not there."""

import errno
import gc
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.gpt.checkpoints import Checkpoints, CorruptError
from examples.gpt.config import UserError

STATE = {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "step": jnp.int32(0)}
ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE
)


def saved(folder: Path, steps, **options) -> Checkpoints:
    checkpoints = Checkpoints(folder, "mine", **options)
    for step in steps:
        checkpoints.save(step, STATE | {"step": jnp.int32(step)})
    checkpoints.finish()
    return checkpoints


def data_files(folder: Path, step: int) -> list[Path]:
    files = sorted(p for p in (folder / f"{step:09d}").rglob("*") if p.is_file())
    assert files
    return files


def test_what_was_saved_comes_back(tmp_path):
    restored = saved(tmp_path, [5]).restore(5, ABSTRACT)
    assert int(restored["step"]) == 5
    assert (restored["params"]["w"] == STATE["params"]["w"]).all()


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [5])
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.delattr(pickle, name)
    assert int(checkpoints.restore(5, ABSTRACT)["step"]) == 5


def test_the_newest_snapshots_and_branch_points_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "mine", snapshot_every=10, latest=2)
    for step in range(1, 25):
        checkpoints.save(step, STATE)
        checkpoints.finish()
        if step == 7:
            checkpoints.keep(7)
    assert checkpoints.steps() == [7, 10, 20, 23, 24]
    folders = sorted(int(p.name) for p in tmp_path.iterdir() if p.is_dir())
    assert folders == checkpoints.steps()


def test_every_flipped_bit_is_noticed(tmp_path):
    checkpoints = saved(tmp_path, [1])
    random = np.random.default_rng(0)
    for path in [*data_files(tmp_path, 1), tmp_path / "000000001.json"]:
        content = path.read_bytes()
        damaged = bytearray(content or b"\0")
        damaged[random.integers(len(damaged))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match="Step 1 in .* is corrupt"):
            checkpoints.restore(1, ABSTRACT)
        path.write_bytes(content)
    checkpoints.restore(1, ABSTRACT)


@pytest.mark.parametrize("damage", ["truncate", "delete", "add", "empty"])
def test_damage_falls_back_to_the_step_before_and_says_so(tmp_path, capsys, damage):
    checkpoints = saved(tmp_path, [1, 2])
    largest = max(data_files(tmp_path, 2), key=lambda path: path.stat().st_size)
    if damage == "truncate":
        largest.write_bytes(largest.read_bytes()[:-1])
    elif damage == "delete":
        largest.unlink()
    elif damage == "add":
        (largest.parent / "stray").touch()
    else:
        shutil.rmtree(tmp_path / "000000002")
    assert int(checkpoints.restore_newest(ABSTRACT)["step"]) == 1
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence.startswith(f"Step 2 in {tmp_path} is corrupt.")


def test_a_corrupt_newer_step_takes_no_place_among_the_newest(tmp_path):
    checkpoints = saved(tmp_path, [1, 30, 40], latest=2, snapshot_every=100)
    checkpoints.save(2, STATE)
    checkpoints.save(3, STATE)
    checkpoints.finish()
    assert checkpoints.steps() == [2, 3, 30, 40]


def test_a_folder_named_like_a_step_is_no_checkpoint(tmp_path):
    checkpoints = saved(tmp_path, [1])
    (tmp_path / "000000009").mkdir()
    assert checkpoints.steps() == [1]
    with pytest.raises(UserError, match="no checkpoint of step 9 .*; there: 1"):
        checkpoints.restore(9, ABSTRACT)


@pytest.mark.parametrize("name", ["9.json", "000000009.json/", "\u00b2.json"])
def test_a_stray_file_named_like_a_manifest_is_no_checkpoint(tmp_path, name):
    checkpoints = saved(tmp_path, [1])
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.touch()
    assert checkpoints.steps() == [1]


def test_a_renamed_step_is_corrupt(tmp_path, capsys):
    checkpoints = saved(tmp_path, [1, 2])
    for suffix in ("", ".json"):
        (tmp_path / f"000000001{suffix}").rename(tmp_path / f"000000003{suffix}")
    assert int(checkpoints.restore_newest(ABSTRACT)["step"]) == 2
    said = capsys.readouterr().out
    assert said.startswith(f"Step 3 in {tmp_path} is corrupt.")


def test_what_killed_saves_have_left_is_cleaned_up(tmp_path):
    checkpoints = saved(tmp_path, [4])
    for name in ("000000002", "000000003.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    checkpoints.save(5, STATE)
    checkpoints.finish()
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"000000004", "000000005"}


# Orbax leaves a generator of the failed save behind, whose event loop is closed by the
# time it is collected: here, and not in whichever test comes later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    checkpoints = saved(tmp_path, [1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes in a file
    try:
        checkpoints.save(2, STATE)
        sentence = (
            r"Step 2 cannot be saved in .*; good checkpoints: steps 1\. .*too large"
        )
        with pytest.raises(OSError, match=sentence):
            checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()
    assert int(checkpoints.restore_newest(ABSTRACT)["step"]) == 1
    checkpoints.save(2, STATE)
    checkpoints.finish()
    assert checkpoints.steps() == [1, 2]


def test_a_stray_folder_does_not_stop_a_save(tmp_path):
    (tmp_path / "000000001").mkdir()
    assert int(saved(tmp_path, [1]).restore(1, ABSTRACT)["step"]) == 1


def test_a_step_of_another_run_is_refused(tmp_path):
    saved(tmp_path, [1])
    other = Checkpoints(tmp_path, "theirs")
    for use in (lambda: other.restore(1, ABSTRACT), lambda: other.keep(1)):
        with pytest.raises(CorruptError, match="Step 1 in .* is another run's"):
            use()
    assert not list(tmp_path.glob("*.keep"))
    assert int(Checkpoints(tmp_path).restore(1, ABSTRACT)["step"]) == 1


def test_nothing_starts_anew_unasked_when_all_steps_are_corrupt(tmp_path, capsys):
    checkpoints = saved(tmp_path, [1, 2])
    for step in (1, 2):
        data_files(tmp_path, step)[0].unlink()
    with pytest.raises(
        UserError, match="No checkpoint in .* is good: to start anew, delete"
    ):
        checkpoints.restore_newest(ABSTRACT)
    assert capsys.readouterr().out.count("is passed over") == 2
    shutil.rmtree(tmp_path)
    assert checkpoints.restore_newest(ABSTRACT) is None


def test_a_branch_point_is_kept_where_no_mark_can_be_made(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1])

    def refuse(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    checkpoints.keep(1)


def test_a_step_has_a_seal_of_its_own(tmp_path):
    checkpoints = saved(tmp_path, [1, 2])
    assert checkpoints.seal(1) != checkpoints.seal(2)
    manifest = json.loads((tmp_path / "000000001.json").read_text())
    assert set(manifest) == {"step", "run", "files"}
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        checkpoints.keep(3)
