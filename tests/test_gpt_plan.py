"""Cooldowns planned from the law of a trunk's loss."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

import optax_wsd
from examples.gpt.__main__ import main
from examples.gpt.checkpoints import Checkpoints, write_json
from examples.gpt.compare import Compare
from examples.gpt.config import (
    DataConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    UserError,
    to_json,
)
from examples.gpt.optimizer import AVERAGE_WIDTHS
from examples.gpt.plan import (
    curve,
    fit_law,
    plan_cooldowns,
    read_law,
    reason,
    recommended_length,
)
from examples.gpt.progress import read_evaluations
from optax_wsd import laws
from tests.gpt_tiny import check_refused, run, tiny_config, write_text

LAW = laws.LossLaw(2.0, 0.3, 0.5, 0.1, 0.7, 0.1, 0.3, 0.01, 1000.0)
STABLE = np.full(1000, 0.01)
FALLING = np.concatenate([np.full(800, 0.01), np.linspace(0.01, 0, 200)])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


def step_of(trunk):
    """The manifest of the step at which branches leave a trunk."""
    (trunk / "checkpoints").mkdir(exist_ok=True)
    return trunk / "checkpoints" / "000000800.json"


def write_curve(folder, parent, rates, steps):
    """The manifest and metrics of a run whose losses follow a law exactly."""
    folder.mkdir()
    config = to_json(tiny_config(folder, steps=len(rates)))
    if parent:
        write_json(
            step_of(folder.parent / "trunk"), {"step": 800, "run": "", "files": {}}
        )
        seal = Checkpoints(folder.parent / "trunk" / "checkpoints").seal(800)
        parent |= {"seal": seal, "changes": []}
    manifest = {"config": config, "parent": parent}
    write_json(folder / "run.json", manifest)
    start = parent["step"] if parent else 0
    lines = [{"step": i + 1, "lr": rates[i]} for i in range(start, len(rates))]
    losses = LAW.predict(rates, np.array(steps))
    pairs = zip(steps, losses, strict=True)
    lines += [{"step": s, "val_loss": float(loss)} for s, loss in pairs]
    text = "".join(json.dumps(line | {"seconds": 0}) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


@pytest.fixture
def trunk(tmp_path):
    write_curve(tmp_path / "trunk", None, STABLE, range(50, 1001, 50))
    return tmp_path / "trunk"


@pytest.fixture
def branch(trunk):
    folder = trunk.parent / "branch"
    parent = {"run": "../trunk", "step": 800}
    write_curve(folder, parent, FALLING, range(820, 1001, 20))
    return folder


def test_a_plan_recommends_a_length_and_the_cooldown_takes_it(trunk, branch, capsys):
    assert main(["plan", str(trunk), "--branches", str(branch)]) == 0
    out = capsys.readouterr().out
    (best,) = [line for line in out.splitlines() if "<- recommended" in line]
    assert "trunk after 1000 steps" in out
    assert (trunk / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert int(best.split()[0]) == recommended_length(trunk, 1000, "one_minus_sqrt")


def test_a_plan_gives_its_intervals_its_reason_and_what_branches_reached(
    trunk, branch, capsys
):
    assert main(["plan", str(trunk), "--branches", str(branch)]) == 0
    out = capsys.readouterr().out
    law = fit_law(trunk, [branch])
    low, high = law.predict_interval(FALLING, 1000)
    reached = LAW.predict(FALLING, 1000)
    assert f"reached {reached:.4f}; the law, which was fitted to it" in out
    assert f"says {(low + high) / 2:.4f} +- {(high - low) / 2:.4f}" in out
    rows = [line.split() for line in out.splitlines() if " +- " in line]
    assert [row[3] for row in rows[:7]] == ["+-"] * 7
    assert "steps are recommended: from there to" in out


def test_a_longer_cooldown_is_recommended_while_its_steps_beat_those_of_the_trunk():
    lengths = [50, 100, 200, 400, 800]
    plan = plan_cooldowns(LAW, STABLE, lengths, "one_minus_sqrt")
    price = (LAW.predict(STABLE, 800) - LAW.predict(STABLE, 1000)) / 200
    each = -np.diff(plan.losses) / np.diff(lengths)
    i = lengths.index(plan.best)
    assert all(each[:i] >= price) and each[i] < price
    flat = LAW._replace(progress=0.01)  # a trunk that brings nothing more
    plan = plan_cooldowns(flat, STABLE, lengths, "one_minus_sqrt")
    assert plan.best == 800
    assert "the longest asked for" in reason(flat, STABLE, plan)


@pytest.mark.parametrize("change", ["doubled", "shuffled", "cut", "wrong types"])
def test_lines_that_were_changed_do_not_change_the_law(trunk, branch, change):
    expected = fit_law(trunk, [branch])
    for path in (trunk / "metrics.jsonl", branch / "metrics.jsonl"):
        lines = path.read_text().splitlines()
        if change == "doubled":
            lines += lines
        elif change == "shuffled":
            lines = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
        elif change == "cut":
            lines.append(lines[-1][:20])
        else:
            wrong = [{"step": "7"}, {"step": 7.5}, {"step": True}, {"step": -1}]
            wrong += [
                {"step": 900, "val_loss": x} for x in (None, "2", [2.0], math.nan)
            ]
            lines += [json.dumps(w | {"seconds": 0}) for w in wrong] + ["7", "null"]
        path.write_text("\n".join(lines) + "\n")
    assert fit_law(trunk, [branch]) == expected
    assert len(curve(trunk)[0]) == 1000


def test_metrics_that_lack_steps_are_refused(trunk, branch, capsys):
    lines = (trunk / "metrics.jsonl").read_text().splitlines()
    (trunk / "metrics.jsonl").write_text("\n".join(lines[:400] + lines[410:]))
    check_refused(["plan", str(trunk)], "was changed: steps are missing", capsys)


def test_a_plan_needs_a_branch_and_says_so(trunk, capsys):
    sentence = "The law of .*trunk cannot be fitted: .*short cooldown"
    check_refused(["plan", str(trunk)], sentence, capsys)


def test_averages_of_a_trunk_stand_in_for_a_branch(trunk):
    """Those of its later half, as far as it is seen."""
    power = optax_wsd.gamma_from_width(AVERAGE_WIDTHS["ema"]) + 1
    lines, averages = [], {}
    for line in map(json.loads, (trunk / "metrics.jsonl").read_text().splitlines()):
        if "val_loss" in line:
            n = line["step"]
            equal = STABLE[:n] * (1 - (np.arange(n) / n) ** power)
            averages[n] = line["val_loss_ema"] = float(LAW.predict(equal, n))
        lines.append(json.dumps(line) + "\n")
    (trunk / "metrics.jsonl").write_text("".join(lines))
    rates, steps, losses = curve(trunk)
    late = [n for n in averages if 400 <= n <= 800]
    expected = laws.fit_loss_law(
        [(rates, steps[steps <= 800], losses[steps <= 800])],
        [(power - 1, (rates, late, [averages[n] for n in late]))],
    )
    assert fit_law(trunk, until=800) == expected
    assert main(["plan", str(trunk)]) == 0


def test_a_written_law_is_read_back_exactly(trunk, branch):
    assert main(["plan", str(trunk), "--branches", str(branch)]) == 0
    assert read_law(trunk / "law.json") == fit_law(trunk, [branch])


def test_a_law_serves_another_trunk_that_has_no_branch(trunk, branch, capsys):
    assert main(["plan", str(trunk), "--branches", str(branch)]) == 0
    expected = capsys.readouterr().out.splitlines()[1:10]
    other = trunk.parent / "other"
    write_curve(other, None, STABLE, range(50, 1001, 50))
    assert main(["plan", str(other), "--law", str(trunk / "law.json")]) == 0
    assert capsys.readouterr().out.splitlines()[1:10] == expected
    assert read_law(other / "law.json") == read_law(trunk / "law.json")


@pytest.mark.parametrize("text", ["", "[]", '{"floor": 1}', '{"flor": 1}', "\x00"])
def test_a_file_that_is_no_law_is_refused(tmp_path, text):
    (tmp_path / "law.json").write_text(text)
    with pytest.raises(UserError, match="law.json is not a law"):
        read_law(tmp_path / "law.json")


def test_a_missing_law_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no law in"):
        read_law(tmp_path / "law.json")


def test_a_plan_takes_a_law_or_branches_not_both(trunk, branch, capsys):
    both = ["--law", str(trunk / "law.json"), "--branches", str(branch)]
    check_refused(["plan", str(trunk), *both], "--law needs no --branches", capsys)


def test_a_law_fitted_until_a_step_does_not_see_later_ones(trunk, branch):
    before = fit_law(trunk, [branch], until=600)
    metrics = (trunk / "metrics.jsonl").read_text()
    later = json.dumps({"step": 900, "val_loss": 2.33, "seconds": 0}) + "\n"
    (trunk / "metrics.jsonl").write_text(metrics + later)
    assert fit_law(trunk, [branch], until=600) == before
    assert fit_law(trunk, [branch]) != before


def test_with_a_law_a_trunk_tells_its_loss_if_cooled(text, tmp_path):
    config, folder = tiny_config(text, steps=4), tmp_path / "trunk"
    run(folder, config)
    law = LAW._replace(peak_value=config.optimizer.peak)
    write_json(folder / "law.json", law._asdict())
    run(folder, tiny_config(text, steps=10))
    first, *others = read_evaluations(folder)
    assert "val_loss_if_cooled" not in first
    assert [line["step"] for line in others] == [8, 10]
    for line in others:  # a fifth of the steps done, from here
        step, steps = line["step"], line["step"] + 2
        rates, *_ = curve(folder)
        cooled = rates[step - 1] * (1 - np.sqrt(np.arange(2) / 2))
        expected = law.predict(np.concatenate([rates[:step], cooled]), steps)
        assert line["val_loss_if_cooled"] == pytest.approx(float(expected), rel=1e-5)
        low, high = law.predict_interval(np.concatenate([rates[:step], cooled]), steps)
        assert line["val_loss_if_cooled_plus_minus"] == pytest.approx((high - low) / 2)


def test_a_damaged_law_does_not_stop_a_run(text, tmp_path, capsys):
    folder = tmp_path / "trunk"
    run(folder, tiny_config(text, steps=4))
    (folder / "law.json").write_text('{"floor": 1}')
    run(folder, tiny_config(text, steps=8))
    assert "No loss if cooled: " in capsys.readouterr().out
    assert [line["step"] for line in read_evaluations(folder)] == [4, 8]


def test_the_loss_if_cooled_is_told_of_trunks_only(text, tmp_path):
    config = tiny_config(text, steps=8, cooldown_steps=4)
    folder = tmp_path / "run"
    run(folder, config)
    write_json(folder / "law.json", LAW._asdict())
    shutil.rmtree(folder / "checkpoints")
    run(folder, config)
    assert all("val_loss_if_cooled" not in line for line in read_evaluations(folder))


@pytest.fixture(scope="module")
def compared(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    compare = Compare(
        out=folder / "runs",
        budgets=(24, 40),
        steps="auto",
        cosine_peak=0.01,
        model=ModelConfig(width=16, depth=1, heads=1),
        data=DataConfig(text, 8, batch_size=8, validation_sequences=16),
        optimizer=OptimizerConfig(peak=0.01, warmup_steps=3),
        loop=LoopConfig(eval_every=2, save_every=4, snapshot_every=4, devices=1),
    )
    compare()
    return compare


def test_compare_lets_the_law_of_the_first_branch_decide_the_others(compared):
    report = json.loads((compared.out / "report.json").read_text())
    assert re.search(
        r"\| 40 \|.*\| [\d.]+ ± [\d.]+ \|", (compared.out / "report.md").read_text()
    )
    branches = [r for r in report["runs"] if r["schedule"] == "wsd"]
    assert [r["budget_steps"] for r in branches] == [24, 40]
    first, second = (r["steps_trained"] for r in branches)
    assert first == 24 - 12  # of 0.64 * 24 the snapshot before
    law = fit_law(compared.out / "trunk", [compared.out / "wsd-24"], until=24)
    rates = np.minimum((np.arange(4) + 1) / 3, 1) * 0.01
    lengths = range(4, 40, 4)
    best = laws.best_cooldown(law, rates, lengths, total_steps=40).best
    assert second == best


def test_compare_decides_the_same_when_it_goes_on(compared):
    before = json.loads((compared.out / "report.json").read_text())
    shutil.rmtree(compared.out / "wsd-40")
    compared()
    after = json.loads((compared.out / "report.json").read_text())
    assert before["runs"] == after["runs"]


def test_compare_with_steps_cools_down_that_long(compared):
    compare = replace(compared, out=compared.out.parent / "fixed", steps=7)
    compare()
    report = json.loads((compare.out / "report.json").read_text())
    branches = [r for r in report["runs"] if r["schedule"] == "wsd"]
    assert [r["steps_trained"] for r in branches] == [8, 8]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "no snapshot before a cooldown of 0: change .*--steps"),
        (["--steps", "auto", "--budgets", "30", "60", "90"], "budgets above 40"),
        (
            ["--budgets", "400", "400", "800"],
            "--budgets must .* grow, got .400, 400",
        ),
        (["--steps", "some"], "invalid choice|some"),
        (["--cosine-peak", "-1"], "--peak must be above 0, got -1"),
    ],
)
def test_compare_refuses_before_it_trains(tmp_path, capsys, options, sentence):
    command = ["compare", "--out", str(tmp_path / "runs"), *options]
    check_refused(command, sentence, capsys)
    assert not (tmp_path / "runs").exists()
