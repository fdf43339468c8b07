"""The example's commands: what they refuse, how they stop, what they report."""

import errno
import functools
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.gpt.__main__ import main, parse
from examples.gpt.checkpoints import Checkpoints
from examples.gpt.processes import Signals
from examples.gpt.progress import read_evaluations, read_metrics
from examples.gpt.runs import find_step, read_manifest
from examples.gpt.trainer import make_trainer
from tests.gpt_tiny import (
    TINY,
    assert_same,
    check_refused,
    state_of,
    tiny_config,
    write_text,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trunk(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("runs") / "trunk"
    assert main(["train", "--out", str(folder), *options(text, steps=12)]) == 0
    return folder


QUICK = "jax_disable_most_optimizations"
RARELY_SAVED = ["--save-every", "9999", "--snapshot-every", "9999"]


def options(text: Path, steps: int) -> list[str]:
    return [*TINY, "--data", str(text), "--steps", str(steps)]


def cool(trunk, out, at=8, steps=4, *more) -> list[str]:
    source = ["--from", f"{trunk}@{at}", "--steps", str(steps)]
    return ["cooldown", *source, "--out", str(out), *more]


def test_a_cooldown_prints_its_progress(trunk, tmp_path, capsys):
    assert main(cool(trunk, tmp_path / "branch", 8, 4)) == 0
    out = capsys.readouterr().out
    line = re.search(r"12/12  loss .*", out)
    assert line is not None
    for part in ("lr ", "cooldown", "tokens/s", "ETA 0:00"):
        assert part in line.group()
    assert re.search(r"branch is done: step 12  val_loss \d\.\d+  val_bpb \d\.\d+", out)
    for part in (
        r"[\d,]+ bytes to train on, [\d,]+ held out",
        r"[\d,]+ parameters on 1 ",
    ):
        assert re.search(part, out)
    own = [line for line in out.splitlines() if str(tmp_path.parent) not in line]
    assert max(map(len, own)) <= 80


def test_a_cooldown_goes_beside_its_trunk_by_default(trunk):
    assert main(["cooldown", "--from", f"{trunk}@8", "--steps", "1"]) == 0
    assert (trunk.parent / "trunk-8+1" / "run.json").exists()


BAD_COOLDOWNS = [
    (lambda t, o: cool(t, o, at=7), "There is no checkpoint of step 7 in .*: 4, 8, 12"),
    (lambda t, o: cool(t, o, steps=0), "--steps must be at least 1 .*, got 0"),
    (lambda t, o: cool(t, o, steps=2**31), "--steps must be .* below 2.*31"),
    (lambda t, o: cool(t.parent / "x", o), "There is no run in .*x"),
    (lambda t, o: ["cooldown", "--from", str(t), "--steps", "3"], "needs RUN@STEP"),
    (lambda t, o: cool(t, o, 8, 4, "--mix", "x"), "--mix needs PATH=SHARE, .*, got x"),
    (lambda t, o: cool(t, o, 8, 4, "--data", "/nowhere"), "No such file .*: /nowhere"),
    (lambda t, o: cool(t, o, 8, 4, "--shape", "square"), "invalid choice.*square"),
    (lambda t, o: cool(t, t / "run.json" / "x"), "Not a directory"),
]


@pytest.mark.parametrize(("command", "sentence"), BAD_COOLDOWNS)
def test_a_bad_cooldown_is_one_sentence_and_exit_code_2(
    trunk, tmp_path, capsys, command, sentence
):
    check_refused(command(trunk, tmp_path / "branch"), sentence, capsys)
    assert not (tmp_path / "branch").exists()


BAD_TRAINING = [
    (["--steps", "0"], "--steps must be at least 1 and below .*, got 0"),
    (["--steps", "9", "--cooldown-steps", "8"], r"\(11 together\) must fit into"),
    (["--peak", "-1"], "--peak must be above 0, got -1.0"),
    (["--peak", "nan"], "--peak must be above 0, got nan"),
    (["--batch-size", "7", "--devices", "2"], "multiple of the number of devices"),
    (["--profile", "5", "5"], "--profile needs START < STOP, from 0 on, got 5 5"),
    (["--devices", "9"], "--devices 9: there are 8"),
    (["--width", str(2**21)], r"need [\d,]+ GiB, and there are \d+: lower --width"),
    (["--sequence-length", "99999"], "--sequence-length 99999 needs"),
    (["--data", "/nowhere"], "No such file or directory: /nowhere"),
    (["--stepps", "3"], "[Uu]nrecognized.*--stepps"),
    (["--lr", "3"], "--lr is called --peak here"),
    (["--preset", "gpt3"], "invalid choice.*gpt3"),
    (["--width", "wide"], "wide"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_TRAINING)
def test_bad_training_is_one_sentence_and_exit_code_2(
    text, tmp_path, capsys, changes, sentence
):
    out = tmp_path / "run"
    command = ["train", "--out", str(out), *options(text, 12), *changes]
    check_refused(command, sentence, capsys)
    assert not out.exists()


def test_memory_that_runs_out_is_one_sentence(text, tmp_path, monkeypatch, capsys):
    def run_out(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("examples.gpt.__main__.run_to_end", run_out)
    command = ["train", "--out", str(tmp_path / "run"), *options(text, 12)]
    check_refused(command, "not enough memory: try a smaller --batch-size", capsys)


def test_a_corrupt_branch_point_is_refused(text, tmp_path, capsys):
    trunk = tmp_path / "trunk"
    assert main(["train", "--out", str(trunk), *options(text, 4)]) == 0
    files = (trunk / "checkpoints" / "000000004").rglob("*")
    largest = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    check_refused(cool(trunk, tmp_path / "b", at=4), "Step 4 in .* is corrupt", capsys)
    assert not (tmp_path / "b").exists()


def test_a_foreign_manifest_is_refused(trunk, tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"config": {"learning_rate": 1}}')
    check_refused(cool(tmp_path, tmp_path / "b"), "is not a run's manifest", capsys)


def test_samples_are_text_from_raw_and_averaged_weights(trunk, capfdbinary):
    texts = []
    for which in ("raw", "ema"):
        command = ["sample", str(trunk), "--prompt", "file", "--tokens", "20"]
        assert main([*command, "--which", which, "--temperature", "0"]) == 0
        texts.append(capfdbinary.readouterr().out)
    assert all(text.startswith(b"file") and len(text) == 25 for text in texts)
    assert main(["sample", f"{trunk}@5"]) == 2


def test_what_a_model_wrote_goes_out_as_it_is(trunk, capfdbinary):
    prompt = b"[:x:] :key:\t\r\xff [bold]"
    command = ["sample", str(trunk), "--prompt", os.fsdecode(prompt), "--tokens", "5"]
    assert main(command) == 0
    out = capfdbinary.readouterr().out
    assert out.startswith(prompt) and len(out) == len(prompt) + 6


def compare_command(out: Path, text: Path) -> list[str]:
    command = ["compare", "--out", str(out), "--budgets", "8", "12", "16"]
    return [*command, *TINY, "--data", str(text), "--cooldown-share", "0.5"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, text):
    out = tmp_path_factory.mktemp("runs") / "compare"
    assert main(compare_command(out, text)) == 0
    return out


def test_compare_reports_all_runs(compared):
    report = json.loads((compared / "report.json").read_text())
    assert set(report) == {"runs", "steps_paid", "compute_ratio", "data"}
    keys = "name schedule budget_steps steps_trained val_loss predicted val_bpb".split()
    assert all(list(run) == keys for run in report["runs"])
    wsd = [run["budget_steps"] for run in report["runs"] if run["schedule"] == "wsd"]
    cosine = [r["steps_trained"] for r in report["runs"] if r["schedule"] == "cosine"]
    assert wsd == cosine == [8, 12, 16]
    assert report["steps_paid"] == {"branched": 8 + 4 + 8 + 8, "cosine": 36}
    assert report["compute_ratio"] == 28 / 36
    assert (compared / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "| 16 | " in (compared / "report.md").read_text()


def test_compare_finds_its_work_done(compared, text, capsys):
    metrics = {p: p.read_bytes() for p in compared.rglob("metrics.jsonl")}
    report = (compared / "report.json").read_text()
    capsys.readouterr()
    assert main(compare_command(compared, text)) == 0
    assert (compared / "report.json").read_text() == report
    assert {p: p.read_bytes() for p in compared.rglob("metrics.jsonl")} == metrics
    out = capsys.readouterr().out
    assert "lr " not in out  # nothing was trained
    assert "Run 8 of 8: schedule-free" in out and "\n| 16 | " in out


def test_compare_stopped_again_and_again_gives_the_same_report(
    compared, text, tmp_path, monkeypatch
):
    calls = itertools.count(1)
    monkeypatch.setattr(Signals, "stop_at", lambda self, step: next(calls) % 13 == 0)
    codes = []
    while not codes or codes[-1] == 143:
        codes.append(main(compare_command(tmp_path / "compare", text)))
    assert len(codes) > 5 and codes[-1] == 0
    reports = [
        json.loads((folder / "report.json").read_text())
        for folder in (compared, tmp_path / "compare")
    ]
    assert reports[0] == reports[1]


def test_a_second_signal_leaves_at_once(monkeypatch):
    monkeypatch.setattr(os, "_exit", sys.exit)
    with Signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.stop_at(1)
        with pytest.raises(SystemExit, match="130"):
            signal.raise_signal(signal.SIGINT)


def save_at_end(text: Path, out: Path, steps: int = 10**6) -> list[str]:
    return ["train", "--out", str(out), *options(text, steps), *RARELY_SAVED]


def check_saved(out: Path, command: list[str], stdout: str) -> int:
    """Asserts that a stopped run was saved, and says so; returns the step."""
    (step,) = map(int, re.findall(r"run is saved at step (\d+)\.", stdout))
    assert f"python -m examples.gpt {' '.join(command)}" in " ".join(stdout.split())
    assert Checkpoints(out / "checkpoints").steps()[-1] == step
    assert [m["step"] for m in read_metrics(out) if "loss" in m][-1] == step
    return step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(
    text, tmp_path, number, monkeypatch, capsys
):
    stop_at = Signals.stop_at

    def signal_at_step_3(self, step):
        if step == 3:
            signal.raise_signal(number)
        return stop_at(self, step)

    monkeypatch.setattr(Signals, "stop_at", signal_at_step_3)
    command = save_at_end(text, tmp_path / "run", steps=12)
    assert main(command) == 128 + number
    assert check_saved(tmp_path / "run", command, capsys.readouterr().out) == 3


def test_ctrl_c_in_a_process_saves(text, tmp_path):
    command = save_at_end(text, tmp_path / "run")
    process = start(command)
    wait_for(process, lambda: read_metrics(tmp_path / "run"))
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, stderr
    check_saved(tmp_path / "run", command, stdout)


def test_a_closed_pipe_saves(text, tmp_path):
    out = tmp_path / "run"
    process = start(save_at_end(text, out))
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 128 + signal.SIGPIPE
    process.stderr.close()
    (*_, step) = Checkpoints(out / "checkpoints").steps()
    assert [m["step"] for m in read_metrics(out) if "loss" in m][-1] == step


def test_ctrl_c_ends_what_does_not_train(trunk):
    process = start(["sample", str(trunk), "--tokens", str(10**8)])
    wait_for(process, lambda: time.sleep(8) or True)  # until it writes
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


def test_a_killed_run_goes_on_bit_for_bit(trunk, text, tmp_path):
    out = tmp_path / "run"
    process = start(["train", "--out", str(out), *options(text, 10**6)])
    wait_for(process, lambda: Checkpoints(out / "checkpoints").steps())
    process.kill()
    process.communicate()
    config = tiny_config(text)
    assert_same(state_of(out, config, 4), state_of(trunk, config, 4))


def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(
    trunk, text, tmp_path, capsys
):
    out = tmp_path / "run"
    assert main(["train", "--out", str(out), *options(text, 4)]) == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = (out / "metrics.jsonl").stat().st_size + 200  # bytes in a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        check_refused(
            ["train", "--out", str(out), *options(text, 12)], "too large", capsys
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    config = tiny_config(text)
    assert_same(state_of(out, config, 4), state_of(trunk, config, 4))
    assert main(["train", "--out", str(out), *options(text, 12)]) == 0
    assert_same(state_of(out, config, 12), state_of(trunk, config, 12))


def test_a_folder_that_cannot_be_written_is_one_sentence(
    text, tmp_path, capsys, monkeypatch
):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    command = ["train", "--out", str(tmp_path / "run"), *options(text, 4)]
    check_refused(command, "error: Read-only file system: .*run", capsys)


def test_a_changed_manifest_is_refused(trunk, tmp_path, capsys):
    shutil.copytree(trunk, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"heads": 1', '"heads": 2'))
    main(["sample", f"{tmp_path}/run"])
    assert "Step 12 in" in (said := capsys.readouterr().out) and "another run's" in said
    check_refused(["sample", f"{tmp_path}/run@12"], "is another run's", capsys)


def test_a_run_may_have_any_name(trunk, text, tmp_path, capsys):
    for name in ("run@home", "run@2024"):
        shutil.copytree(trunk, tmp_path / name)
        assert main(["train", "--out", f"{tmp_path}/{name}", *options(text, 12)]) == 0
        assert find_step(f"{tmp_path}/{name}") == (tmp_path / name, None)
        assert find_step(f"{tmp_path}/{name}@8") == (tmp_path / name, 8)
    assert main(["evaluate", f"{tmp_path}/run@2024"]) == 0
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    check_refused(["train", "--out", out, *options(text, 12)], "must be UTF-8", capsys)


def test_a_run_may_lie_in_its_text(text, tmp_path, monkeypatch):
    shutil.copytree(text, tmp_path / "text")
    monkeypatch.chdir(tmp_path / "text")
    here = Path()
    assert main(["train", *options(here, 4)]) == 0
    assert main(["train", *options(here, 8)]) == 0  # goes on
    assert main(["cooldown", "--from", "runs/trunk@8", "--steps", "2"]) == 0


def test_other_data_at_the_cooldown(trunk, text, tmp_path, capsys):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text("other words\n" * 40)
    command = cool(trunk, tmp_path.parent / "other", 8, 4, "--data", str(tmp_path))
    assert main(command) == 0
    (last,) = read_evaluations(tmp_path.parent / "other")
    assert {"val_loss", "val_loss_mix"} <= set(last)
    assert read_manifest(tmp_path.parent / "other")["data"]["share"] == 1.0
    (tmp_path.parent / "moved").mkdir()
    moved = shutil.copytree(text, tmp_path.parent / "moved" / "text")
    command = cool(trunk, tmp_path.parent / "same", 8, 4, "--data", str(moved))
    assert main(command) == 0
    assert read_manifest(tmp_path.parent / "same")["parent"]["changes"] == []


def test_checkpoints_are_evaluated_on_any_text(trunk, text, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("another text\n" * 99)
    assert main(["evaluate", f"{trunk}@8", str(trunk), "--which", "raw", "ema"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[3:] for row in rows[1:3]] == [
        ["step", "8", "ema"],
        ["step", "12", "raw"],
    ]
    logged = read_evaluations(trunk)[-1]
    shown = [f"{logged[k]:.4f}" for k in ("val_loss", "val_loss_ema")]
    assert [row[0] for row in rows[2:]] == shown
    assert main(["evaluate", str(trunk), "--data", str(tmp_path / "a.txt")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] not in shown


def test_an_export_is_read_back_bit_for_bit(trunk, text, tmp_path, capsys):
    config, out = tiny_config(text), tmp_path / "model.safetensors"
    command = ["export", f"{trunk}@8", "--which", "ema", "--out", str(out)]
    assert main(command) == 0
    weights = make_trainer(config).weights(state_of(trunk, config, 8), which="ema")
    leaves = dict(jax.tree.leaves_with_path(weights))
    found = load_file(out)
    assert len(found) == len(leaves)
    for path, leaf in leaves.items():
        name = ".".join(str(key.key) for key in path)
        np.testing.assert_array_equal(found[name], leaf)
    check_refused(command, "is there already", capsys)


def test_a_run_on_tokens_is_sampled_and_evaluated(text, tmp_path, capsys):
    tokens, out = str(tmp_path / "tokens"), str(tmp_path / "run")
    command = ["tokenize", "--data", str(text), "--vocabulary", "300", "--out", tokens]
    assert main(command) == 0
    assert main(["train", "--out", out, *options(Path(tokens), 4)]) == 0
    (last,) = read_evaluations(tmp_path / "run")
    about = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    bits = last["val_loss"] / np.log(2) / about["bytes_per_token"]
    assert last["val_bpb"] == pytest.approx(bits)
    shutil.rmtree(tokens)  # the run has its own tokenizer
    capsys.readouterr()
    assert main(["sample", out, "--prompt", "file 3", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("file 3")
    evaluate = ["evaluate", out, "--data", str(text)]
    check_refused(evaluate, "not made of the same tokens .* --tokenizer", capsys)
    again = ["tokenize", "--data", str(text), "--out", tokens]
    assert main([*again, "--tokenizer", f"{out}/tokenizer.json"]) == 0
    assert main(["evaluate", out, "--data", tokens]) == 0
    found = float(capsys.readouterr().out.splitlines()[-2].split()[0])
    assert found == pytest.approx(last["val_loss"], abs=1e-4)
    path = tmp_path / "run" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    check_refused(["sample", out], "tokenizer.json was changed", capsys)


def test_options_overrule_a_preset():
    for word in (["--preset", "gpt2-small"], ["--preset=gpt2-small"]):
        model = parse(["train", "--width", "96", *word]).config.model
        assert (model.vocabulary, model.width, model.depth) == (50304, 96, 12)


VERBS = "train cooldown compare evaluate sample merge plan tokenize export".split()


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text_of_its_own(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    out = capsys.readouterr().out
    groups = re.findall(r"options ─+╮\n│ +([A-Z].*?) +│\n│ ─", out)
    flat = " ".join(out.replace("│", " ").split())
    ends = re.findall(r"(.{20}) \((?:default|required)", flat)
    assert len(ends) >= 3
    assert len(set(groups + ends)) == len(groups + ends), groups + ends


def test_lost_metrics_are_said(trunk, text, tmp_path, capsys):
    shutil.copytree(trunk, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"\xff\n[]\n{}\n")
    command = ["train", "--out", str(tmp_path / "run"), *options(text, 12)]
    check_refused(command, "no evaluation in its metrics.jsonl", capsys)


def test_two_four_and_one_processes_go_on_as_one_would(text, tmp_path):
    out, alone = tmp_path / "run", tmp_path / "alone"
    two = start_together(2, out, text, steps=10**6)
    wait_for(two[0], lambda: len(read_evaluations(out)) >= 3)
    two[1].terminate()
    outputs = [process.communicate(timeout=120) for process in two]
    assert [process.returncode for process in two] == [143, 143], outputs
    (step,) = map(int, re.findall(r"run is saved at step (\d+)\.", outputs[0][0]))
    assert Checkpoints(out / "checkpoints").steps()[-1] == step
    assert "run is saved" not in outputs[1][0]
    four = start_together(4, out, text, steps=step + 16)
    outputs = [process.communicate(timeout=240) for process in four]
    assert [process.returncode for process in four] == [0] * 4, outputs
    assert f"from step {step} to {step + 16}" in outputs[0][0]
    assert main(save_at_end(text, out, step + 24)) == 0
    assert main(save_at_end(text, alone, step + 24)) == 0
    one, many = losses_of(alone), losses_of(out)
    assert max(one) == step + 24 and len(one) >= 9
    assert all(abs(loss - many[step]) < 1e-5 for step, loss in one.items())


def test_processes_that_disagree_are_all_refused(text, tmp_path):
    two = start_together(2, tmp_path / "run", text, 8, lambda i: ["--seed", str(i)])
    outputs = [process.communicate(timeout=240) for process in two]
    assert [process.returncode for process in two] == [2, 2], outputs
    for stdout, stderr in outputs:
        assert "Processes [1] have other options than process 0" in stderr
        assert "waits for all at 127.0.0.1" in stdout
    assert not (tmp_path / "run").exists()


def losses_of(folder: Path) -> dict[int, float]:
    return {line["step"]: line["val_loss"] for line in read_evaluations(folder)}


def start_together(count: int, out: Path, text: Path, steps: int, more=lambda i: []):
    """Processes of one run, with a device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            [
                *save_at_end(text, out, steps),
                "--distributed",
                "--devices",
                "0",
                *more(i),
            ],
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(i),
            JAX_NUM_CPU_DEVICES="1",
        )
        for i in range(count)
    ]


def start(command: list[str], **variables: str) -> subprocess.Popen:
    # As this process, so that both compute the same bits.
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(jax.config.read(QUICK)),
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "examples.gpt", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(process: subprocess.Popen, happened: Callable[[], Any]) -> None:
    while process.poll() is None:
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def test_merged_weights_are_a_run_that_can_be_evaluated(trunk, text):
    assert main(["merge", str(trunk), "--last", "3", "--shape", "linear"]) == 0
    merged = trunk.parent / "trunk-12-last-3-linear"
    config = tiny_config(text)
    snapshots = [state_of(trunk, config, step)["params"] for step in (4, 8, 12)]
    params = state_of(merged, config, 12)["params"]
    jax.tree.map(
        lambda new, *old: np.testing.assert_allclose(new, sum(old) / 3, atol=1e-6),
        params,
        *snapshots,
    )
    before = read_metrics(merged)
    assert main(["merge", str(trunk), "--last", "3", "--shape", "linear"]) == 0
    assert [m["val_loss"] for m in read_metrics(merged)] == [before[0]["val_loss"]]
    assert main(["evaluate", str(merged)]) == 0


def test_a_rebuilt_average_is_that_of_the_optimizer(trunk, text):
    config = tiny_config(text)
    assert main(["merge", str(trunk), "--ema", "0.1"]) == 0
    rebuilt = state_of(trunk.parent / "trunk-12-ema-0.1", config, 12)["params"]
    state = state_of(trunk, config, 12)
    average = make_trainer(config).weights(state, which="ema")
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, rebuilt, average)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--last", "4"], "--last must be from 1 to 3, the number of snapshots, got 4"),
        (["--ema", "0.5"], "relative_width must be a finite number"),
    ],
)
def test_a_bad_merge_is_one_sentence_and_exit_code_2(trunk, capsys, options, sentence):
    check_refused(["merge", str(trunk), *options], sentence, capsys)
