"""The example's runs: resumed bitwise, branched exactly, the same on any mesh."""

import json
import sys
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_wsd
from examples.gpt import model
from examples.gpt.config import UserError, from_json, to_json, with_changes
from examples.gpt.data import StepBatches, load_text
from examples.gpt.processes import Interrupted
from examples.gpt.progress import read_evaluations, read_metrics
from examples.gpt.recorder import DivergedError
from examples.gpt.runs import (
    branch_config,
    find_parent,
    finished_branches,
    open_run,
    read_manifest,
)
from examples.gpt.trainer import make_trainer
from tests.gpt_tiny import (
    STEPS,
    assert_same,
    run,
    state_of,
    tiny_config,
    with_loop,
    write_text,
)

BRANCH, COOLDOWN = 8, 6


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trunk(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("runs") / "trunk"
    run(folder, tiny_config(text))
    return folder


@pytest.fixture(scope="module")
def branch(trunk, text):
    folder = trunk.parent / "branch"
    config = branch_config(tiny_config(text), BRANCH, COOLDOWN)
    run(folder, config, (trunk, BRANCH))
    return folder


def metrics_but_seconds(folder):
    return [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in read_metrics(folder)
    ]


def test_a_stopped_run_goes_on_bit_for_bit(trunk, text, tmp_path):
    folder, config = tmp_path / "stopped", tiny_config(text)
    for step in (1, 5, 8):
        with pytest.raises(Interrupted, match=f"stopped is saved at step {step}"):
            run(folder, config, stop_at=step)
    run(folder, config)
    assert_same(state_of(folder, config, STEPS), state_of(trunk, config, STEPS))
    assert metrics_but_seconds(folder) == metrics_but_seconds(trunk)


def test_metrics_have_one_line_a_step_and_one_an_evaluation(trunk):
    lines = read_metrics(trunk)
    evaluations = read_evaluations(trunk)
    assert [e["step"] for e in evaluations] == [4, 8, 12]
    assert all({"val_loss", "val_loss_ema", "val_bpb"} <= set(e) for e in evaluations)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, STEPS + 1))
    phases = [line["phase"] for line in lines if "loss" in line]
    assert phases == ["warmup"] * 3 + ["stable"] * (STEPS - 3)


def test_a_line_cut_short_by_a_kill_is_dropped(trunk, text, tmp_path):
    folder, config = tmp_path / "killed", tiny_config(text)
    with pytest.raises(Interrupted):
        run(folder, config, stop_at=4)
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "loss": 3.0}\n{"step": 6, "lo')
    run(folder, config)
    assert metrics_but_seconds(folder) == metrics_but_seconds(trunk)


def test_a_finished_run_is_left_alone(trunk, text):
    before = (trunk / "metrics.jsonl").read_bytes()
    assert run(trunk, tiny_config(text))["step"] == STEPS
    assert (trunk / "metrics.jsonl").read_bytes() == before


def test_a_finished_cooldown_is_made_anew_to_be_longer(trunk, branch, text, tmp_path):
    longer = branch_config(tiny_config(text), BRANCH, COOLDOWN + 2)
    with pytest.raises(UserError, match="cooldown_steps: 6, now 8.*another --out"):
        run(branch, longer, (trunk, BRANCH))
    assert run(tmp_path / "longer", longer, (trunk, BRANCH))["step"] == 16
    cooled = read_manifest(branch)["config"]
    with pytest.raises(UserError, match="from step 8 on is not .* its trunk"):
        branch_config(cooled, BRANCH + COOLDOWN, 2)


def test_trackers_get_the_numbers_of_the_metrics(text, tmp_path, monkeypatch):
    fake, said, logged = ModuleType("trackio"), {}, []
    fake.__spec__ = ModuleSpec("trackio", None)
    fake.init = said.update
    fake.log = lambda numbers, step: logged.append((step, numbers))
    fake.finish = lambda: said.update(finished=True)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    config = with_loop(tiny_config(text, steps=4), trackio="mine", tensorboard=True)
    run(tmp_path / "run", config)
    assert (said["project"], said["name"], said["finished"]) == ("mine", "run", True)
    assert said["config"]["optimizer.peak"] == 0.01
    assert logged == [
        (line["step"], {k: v for k, v in line.items() if isinstance(v, float)})
        for line in read_metrics(tmp_path / "run")
    ]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    monkeypatch.setattr("examples.gpt.train.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--trackio needs .* pip install trackio"):
        run(tmp_path / "other", config)
    assert not (tmp_path / "other").exists()


def test_a_stable_run_can_be_extended(trunk, text, tmp_path):
    folder = tmp_path / "extended"
    run(folder, tiny_config(text, steps=6))
    run(folder, tiny_config(text))
    config = tiny_config(text)
    assert_same(state_of(folder, config, STEPS), state_of(trunk, config, STEPS))


def test_a_branch_equals_the_run_that_planned_it(branch, text, tmp_path):
    steps = BRANCH + COOLDOWN
    planned = tiny_config(text, steps=steps, cooldown_steps=COOLDOWN)
    run(tmp_path / "planned", planned)
    states = (state_of(f, planned, steps) for f in (tmp_path / "planned", branch))
    assert_same(*(state["params"] for state in states))


def test_a_branch_equals_plain_adamw_with_the_whole_schedule(branch, text):
    steps = BRANCH + COOLDOWN
    config = tiny_config(text, steps=steps, cooldown_steps=COOLDOWN)
    options = config.optimizer
    schedule = optax_wsd.wsd_schedule(
        options.peak,
        steps,
        init_value=options.peak / options.warmup_steps,
        warmup_steps=options.warmup_steps,
        cooldown_steps=COOLDOWN,
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule,
            b2=options.b2,
            weight_decay=options.weight_decay,
            mask=partial(jax.tree.map, lambda x: x.ndim > 1),
        ),
    )
    params = jax.jit(partial(model.init_params, config.model))(config.seed)
    graph, opt_state = model.graph(config.model), tx.init(params)
    batches = StepBatches(load_text(config.data).train, config.data, config.seed)

    @jax.jit
    def update(params, opt_state, tokens):
        grads = jax.grad(partial(model.next_byte_loss, graph))(params, tokens)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in range(steps):
        params, opt_state = update(params, opt_state, batches[step])
    branched = state_of(branch, config, steps)["params"]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, branched, params)
    rates = [line["lr"] for line in read_metrics(branch) if "lr" in line]
    np.testing.assert_allclose(rates, schedule(np.arange(BRANCH, steps)), rtol=1e-6)


def test_trunk_and_branch_share_one_program(trunk, branch, text):
    trainer = make_trainer(tiny_config(text))
    other_peak = branch_config(tiny_config(text, peak=0.02), BRANCH, COOLDOWN + 1)
    assert make_trainer(other_peak) is trainer
    assert trainer.compiled_step.cache_info().currsize == 1


def test_a_branch_names_its_parent(trunk, branch):
    parent = read_manifest(branch)["parent"]
    assert find_parent(branch).samefile(trunk)
    assert (parent["step"], parent["changes"]) == (BRANCH, [])
    assert (trunk / "checkpoints" / f"{BRANCH:09d}.keep").exists()


def test_a_trunk_is_found_by_another_name_and_through_a_link(text, tmp_path):
    home, config = tmp_path / "home", branch_config(tiny_config(text), 4, 3)
    with pytest.raises(Interrupted):
        run(home / "a", tiny_config(text), stop_at=4)
    (tmp_path / "link").symlink_to(home)
    branch = tmp_path / "link" / "b"
    with pytest.raises(Interrupted):
        run(branch, config, (home / "a", 4), stop_at=5)
    assert find_parent(branch).samefile(home / "a")
    (home / "a").rename(home / "renamed")
    home.rename(tmp_path / "moved")
    (tmp_path / "link").unlink()
    trunk, branch = tmp_path / "moved" / "renamed", tmp_path / "moved" / "b"
    assert find_parent(branch).samefile(trunk)
    assert run(branch, config, (trunk, 4))["step"] == 7  # goes on from step 5
    assert finished_branches(trunk) == [branch]
    trunk.rename(tmp_path / "gone")
    with pytest.raises(UserError, match="trunk of .* is not in .*nor is it beside"):
        find_parent(branch)


def test_a_branch_may_change_rates_and_batches_and_says_so(
    trunk, branch, text, tmp_path
):
    config = branch_config(
        tiny_config(text), BRANCH, 4, peak=0.005, batch_size=4, accumulate=2, b2=0.9
    )
    run(tmp_path / "branch", config, (trunk, BRANCH))
    manifest = read_manifest(tmp_path / "branch")
    assert manifest["config"] == config
    changed = [change.partition(":")[0] for change in manifest["parent"]["changes"]]
    assert changed == ["data.batch_size", "optimizer.peak", "optimizer.b2"]
    first = next(line for line in read_metrics(tmp_path / "branch") if "lr" in line)
    assert first["lr"] == pytest.approx(0.005)
    assert finished_branches(trunk) == [branch]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"b1": 0.5}, "optimizer.b1: 0.9, now 0.5"),
        ({"skip_nonfinite": True}, "optimizer.skip_nonfinite: False, now True"),
    ],
)
def test_a_branch_must_match_its_trunk(trunk, text, tmp_path, changes, sentence):
    config = branch_config(tiny_config(text, **changes), BRANCH, COOLDOWN)
    with pytest.raises(UserError, match=sentence):
        run(tmp_path / "branch", config, (trunk, BRANCH))
    assert not (tmp_path / "branch").exists()


def test_a_cooldown_mixes_another_text_in(trunk, text, tmp_path):
    (write_text(tmp_path / "text") / "1.txt").write_text("other words\n" * 99)
    config = branch_config(tiny_config(text), BRANCH, 4)
    config = with_changes(config, mix=f"{tmp_path}/text=0.5")
    with pytest.raises(Interrupted):
        run(tmp_path / "run", config, (trunk, BRANCH), stop_at=10)
    run(tmp_path / "run", config, (trunk, BRANCH))
    run(tmp_path / "calm", config, (trunk, BRANCH))
    steps = BRANCH + 4
    assert_same(*(state_of(tmp_path / n, config, steps) for n in ("run", "calm")))
    assert {"val_loss", "val_loss_mix"} <= set(read_evaluations(tmp_path / "run")[-1])
    manifest = read_manifest(tmp_path / "run")
    assert manifest["data"]["share"] == 0.5
    assert manifest["parent"]["changes"][0].startswith("text: ")
    with pytest.raises(UserError, match=r"other settings \(text: "):
        run(tmp_path / "run", replace(config, data=tiny_config(text).data), (trunk, 8))


def test_a_branch_sees_that_the_text_has_changed(trunk, text, tmp_path):
    other = write_text(tmp_path / "text")
    (other / "1.txt").write_text("changed")
    config = branch_config(tiny_config(other), BRANCH, COOLDOWN)
    with pytest.raises(UserError, match="cannot change its trunk's text: .*, now "):
        run(tmp_path / "branch", config, (trunk, BRANCH))


def test_a_run_cannot_go_on_with_other_settings(trunk, text):
    with pytest.raises(UserError, match="optimizer.peak: 0.01, now 0.02"):
        run(trunk, tiny_config(text, peak=0.02))
    with pytest.raises(UserError, match="parent: none, now .*@8"):
        run(trunk, tiny_config(text), (trunk, BRANCH))
    config = tiny_config(text, steps=STEPS, cooldown_steps=2)
    with pytest.raises(UserError, match="optimizer.cooldown_steps: 0, now 2"):
        run(trunk, config)


def test_a_folder_with_other_files_is_no_run(text, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run(tmp_path, tiny_config(text))
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_a_run_killed_before_its_manifest_was_written_can_start(text, tmp_path):
    for name in (".lock", ".run.json.tmp"):
        (tmp_path / name).touch()
    assert run(tmp_path, tiny_config(text, steps=4))["step"] == 4


def test_a_second_process_is_refused(text, tmp_path):
    config = tiny_config(text)
    with open_run(tmp_path, config, load_text(config.data), None):
        with pytest.raises(UserError, match="in use by another process"):
            run(tmp_path, config)


def test_a_diverged_run_stops_at_the_last_good_checkpoint(text, tmp_path):
    config = replace(tiny_config(text, peak=9e5, warmup_steps=0, steps=40))
    with pytest.raises(DivergedError, match=r"step \d+ has loss .*; the last good"):
        run(tmp_path / "run", config)
    steps = [line["step"] for line in read_metrics(tmp_path / "run")]
    assert all(
        np.isfinite(line.get("loss", 0)) for line in read_metrics(tmp_path / "run")
    )
    assert steps == sorted(steps)


@pytest.fixture
def bad_batch(monkeypatch, text):
    """Scales the loss of the batch of step 6, counted from 1."""

    def scale_loss(factor, config):
        rows = StepBatches(load_text(config.data).train, config.data, config.seed)[5]
        true_loss = model.next_byte_loss

        def loss(graph, params, tokens):
            scale = jnp.where((tokens == rows).all(), factor, 1.0)
            return scale * true_loss(graph, params, tokens)

        monkeypatch.setattr(model, "next_byte_loss", loss)

    return scale_loss


def test_a_jump_of_the_loss_stops_the_run(text, tmp_path, bad_batch):
    config = with_loop(tiny_config(text, b2=0.91), max_loss_jump=1.0)
    bad_batch(1.5, config)
    sentence = (
        r"step 6 has loss \d\.\d+, more than --max-loss-jump 1.0 above \d\.\d+, "
        r"the mean of those before; the last good checkpoint: step 4\."
    )
    for _ in range(2):  # a run that goes on remembers the losses
        with pytest.raises(DivergedError, match=sentence):
            run(tmp_path / "run", config)
    assert run(tmp_path / "run", with_loop(config, max_loss_jump=0.0))["step"] == STEPS


def test_an_update_that_is_not_finite_is_left_out(text, tmp_path, bad_batch, capsys):
    config = tiny_config(text, b2=0.92, skip_nonfinite=True)
    config = with_loop(config, save_every=1, snapshot_every=1)
    bad_batch(np.nan, config)
    run(tmp_path / "run", config)
    said = "run: step 6 has loss nan and gradient norm nan: left out."
    assert said in capsys.readouterr().out
    before, after = (state_of(tmp_path / "run", config, step) for step in (5, 6))
    assert_same(before["params"], after["params"])
    inner = [state["opt_state"].inner_state for state in (before, after)]
    assert_same(*inner)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "lr" in line] == [*range(1, STEPS + 1)]
    assert 6 not in [line["step"] for line in lines if "loss" in line]
    branch = branch_config(config, BRANCH, COOLDOWN)
    run(tmp_path / "branch", branch, (tmp_path / "run", BRANCH))


def test_ten_updates_in_a_row_are_left_out_at_most(text, tmp_path):
    config = tiny_config(text, peak=9e5, warmup_steps=0, steps=40, skip_nonfinite=True)
    with pytest.raises(DivergedError, match=r"norm nan; .*: step 12\."):
        run(tmp_path / "run", config)
    left_out = [line for line in read_metrics(tmp_path / "run") if "loss" not in line]
    assert len([line for line in left_out if "lr" in line]) == 10


@pytest.mark.parametrize("steps", [(3, 5), (10, 99)])
def test_a_profile_changes_nothing(trunk, text, tmp_path, steps):
    config = with_loop(tiny_config(text), profile=steps)
    loss = final_loss(text, tmp_path / "run", config)
    assert loss == read_evaluations(trunk)[-1]["val_loss"]
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert read_manifest(tmp_path / "run")["config"] == config


def final_loss(text, folder, config):
    return run(folder, config)["val_loss"]


def test_eight_devices_equal_one(text, tmp_path):
    config = with_loop(tiny_config(text, steps=52), save_every=99, snapshot_every=99)
    eight = with_loop(config, devices=8)
    one_loss = final_loss(text, tmp_path / "one", config)
    assert abs(final_loss(text, tmp_path / "eight", eight) - one_loss) < 1e-5
    w = state_of(tmp_path / "eight", eight, 52)["params"]["embed"]["embedding"]
    assert len(w.sharding.device_set) == 8
    assert w.addressable_shards[0].data.size == w.size // 8


def test_a_checkpoint_of_eight_devices_resumes_on_one(trunk, text, tmp_path):
    config = tiny_config(text)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", with_loop(config, devices=8), stop_at=6)
    loss = run(tmp_path / "run", config)["val_loss"]
    assert abs(loss - read_evaluations(trunk)[-1]["val_loss"]) < 1e-5


def test_accumulated_micro_batches_equal_the_batch(trunk, text, tmp_path):
    config = with_changes(tiny_config(text), accumulate=4)
    loss = final_loss(text, tmp_path / "run", config)
    assert abs(loss - read_evaluations(trunk)[-1]["val_loss"]) < 1e-4


def test_schedule_free_needs_no_cooldown(text, tmp_path):
    config = tiny_config(text, optimizer="schedule_free")
    first, *_, last = (
        run(tmp_path / "run", config),
        *read_evaluations(tmp_path / "run"),
    )
    assert last["val_loss"] == first["val_loss"] < 5.5
    with pytest.raises(UserError, match="needs no cooldown"):
        tiny_config(text, optimizer="schedule_free", cooldown_steps=3)


def test_a_config_survives_json(text):
    config = tiny_config(text)
    assert from_json(type(config), json.loads(json.dumps(to_json(config)))) == config
    with pytest.raises(KeyError, match="stepps"):
        from_json(type(config), {"stepps": 3})
