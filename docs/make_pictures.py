"""The pictures of the guide, computed with the package itself.

    python -m docs.make_pictures

Drawn to be read at the width of a phone, on a light and on a dark page. That of a plan
takes a minute of training, once, in runs/plan.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import optax_wsd
from optax_wsd import shapes

matplotlib.use("svg")

from matplotlib import pyplot as plt  # noqa: E402

TRUNK = Path("runs/plan")
SIZE = "--width 48 --depth 2 --sequence-length 64 --batch-size 8 --peak 8e-3"
RUNS = (
    ["train", "--out", str(TRUNK), "--steps", "1000", *SIZE.split()],
    ["cooldown", "--from", f"{TRUNK}@600", "--steps", "120"],
    ["plan", str(TRUNK)],
)
FOLDER = Path(__file__).parent / "pictures"
GRAY = "#757d86"  # as readable on white as on black
PHASES = {"warmup": "#e08a1e", "stable": "#3b8ede", "cooldown": "#22a06b"}
MODEL = {"color": PHASES["cooldown"], "marker": "o", "ls": "", "label": "a model"}
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": GRAY,
    "axes.labelcolor": GRAY,
    "axes.edgecolor": GRAY,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "font.size": 9.5,
    "lines.linewidth": 2,
    "svg.hashsalt": "optax-wsd",
}

SHAPES = {
    "linear": shapes.linear,
    "one_minus_sqrt": shapes.one_minus_sqrt,
    "one_minus_square": shapes.one_minus_square,
    "cosine": shapes.cosine,
    "mirror_cosine": shapes.mirror_cosine,
    "power(1.7)": shapes.power(1.7),
    "one_minus_power(0.25)": shapes.one_minus_power(0.25),
    "lowered_linear(0.7)": shapes.lowered_linear(0.7),
    "exponential(0.01)": shapes.exponential(0.01),
}

TOTAL = 1000
WSD = optax_wsd.wsd_schedule(1.0, TOTAL, warmup_steps=80, cooldown_steps=250)
POWER = optax_wsd.inverse_power_schedule(1.0, warmup_steps=80)
INFINITE = optax_wsd.infinite_schedule(
    1.0, 0.4, warmup_steps=80, transition_steps=300, shape=shapes.cosine
)
WSD_S = optax_wsd.wsds_schedule(
    1.0, (400, 700, TOTAL), warmup_steps=80, cooldown_steps=100
)
COOLED_INFINITE = optax_wsd.cooldown_schedule(INFINITE, 850, 150)
STABLE = optax.warmup_constant_schedule(0.0, 1.0, 80)
WARMUP = (0, 80)
SCHEDULES = {
    "wsd_schedule": WSD,
    "wsds_schedule": WSD_S,
    "multistep_schedule": optax_wsd.multistep_schedule(
        1.0, (800, 900), warmup_steps=80
    ),
    "infinite_schedule": INFINITE,
    "inverse_power_schedule": POWER,
    "then cooldown_schedule": optax_wsd.cooldown_schedule(POWER, 750, 250),
}


def draw_shapes():
    figure, grid = plt.subplots(5, 2, figsize=(4.8, 8), sharex=True, sharey=True)
    p = jnp.linspace(0, 1, 201)
    *cells, last = grid.flat  # the last has the legend
    for axes, (name, shape) in zip(cells, SHAPES.items(), strict=True):
        axes.plot(p, 1 - p, color=GRAY, lw=1, ls=":", label="linear")
        axes.plot(p, shape(p), color=PHASES["cooldown"], label="the shape")
        axes.set_title(name)
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
    grid[-2, 1].tick_params(labelbottom=True)
    last.set_axis_off()
    last.legend(*grid[0, 0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.supxlabel("part of the cooldown done", fontsize=STYLE["axes.labelsize"])
    save(figure, "shapes")


def draw_schedules():
    figure, grid = plt.subplots(3, 2, figsize=(4.8, 5.4), sharex=True, sharey=True)
    steps = np.arange(TOTAL + 1)
    for axes, (name, schedule) in zip(grid.flat, SCHEDULES.items(), strict=True):
        axes.plot(steps, schedule(steps), color=PHASES["stable"])
        axes.set_title(name)
        axes.set_xticks([0, 500, 1000])
        axes.set_yticks([0, 0.5, 1])
    for axes in grid[-1]:
        axes.set_xlabel("step")
    save(figure, "schedules")


def draw_choices():
    """What you know about the end, and what to take; a dot is a model to use."""
    branches = (300, 400), (550, 700), (800, 1000)
    any_time = (300, 550, 800, 1000)
    ema = average_weights(optax_wsd.params_power_ema(4.0), TOTAL)
    rows = {
        "The end is known and fixed": (
            "wsd_schedule with a linear\ncooldown of 60 % or more",
            optax_wsd.wsd_schedule(
                1.0, TOTAL, warmup_steps=80, cooldown_steps=600, shape=shapes.linear
            ),
            ([WARMUP], [(80, 400)], [(400, 1000)]),
            (1000,),
        ),
        "The end is open, or there are several budgets": (
            "a stable phase, scale_by_cooldown\nand start_cooldown",
            STABLE,
            ([WARMUP], [(80, 1000)], []),
            (),
        ),
        "You want a model at any time": (
            "params_power_ema beside\nthe stable phase",
            STABLE,
            ([WARMUP], [(80, 1000)], []),
            any_time,
        ),
        "You have no plan at all": (
            "schedule_free_adamw with\ngrowing_b1_schedule",
            STABLE,
            ([WARMUP], [(80, 1000)], []),
            any_time,
        ),
        "New data keeps arriving": (
            "infinite_schedule, ended by\ncooldown_schedule",
            COOLED_INFINITE,
            ([WARMUP], [(80, 850)], [(850, 1000)]),
            (1000,),
        ),
    }
    figure, grid = plt.subplots(
        len(rows), 2, figsize=(4.8, 5), width_ratios=(2, 3), sharex="col"
    )
    for (axes, words), (known, row) in zip(grid, rows.items(), strict=True):
        take, schedule, phases, models = row
        draw_phases_of(axes, schedule, phases)
        axes.plot(models, schedule(np.array(models)), **MODEL)
        axes.set_ylim(-0.12, 1.12)
        axes.set_xticks([])
        axes.set_yticks([])
        words.set_axis_off()
        words.text(0, 0.98, known, va="top", weight="bold")
        words.text(0, 0.66, take, va="top", linespacing=1.3)
    for start, end in branches:
        branch = optax_wsd.cooldown_schedule(STABLE, start, end - start)
        draw_phases_of(grid[1, 0], branch, ([], [], [(start, end)]))
        grid[1, 0].plot(end, 0, **MODEL)
    grid[2, 0].fill_between(
        np.arange(1, TOTAL + 1),
        0.6 * ema / ema.max(),
        color=PHASES["stable"],
        alpha=0.3,
    )
    legend(figure, grid[0, 0])
    save(figure, "choices")


def draw_phases():
    rows = {
        "WSD: one stable phase, then one cooldown": (
            WSD,
            ([WARMUP], [(80, 750)], [(750, 1000)]),
        ),
        "WSD-S: a cooldown for each budget, then back up": (
            WSD_S,
            (
                [WARMUP],
                [(80, 300), (400, 600), (700, 900)],
                [(300, 399), (600, 699), (900, 1000)],
            ),
        ),
        "infinite: falls to a constant; cooled down when asked": (
            COOLED_INFINITE,
            ([WARMUP], [(80, 850)], [(850, 1000)]),
        ),
    }
    figure, grid = plt.subplots(3, 1, figsize=(4.8, 5), sharex=True, sharey=True)
    for axes, (title, (schedule, phases)) in zip(grid, rows.items(), strict=True):
        axes.plot(np.arange(TOTAL + 1), schedule(np.arange(TOTAL + 1)), GRAY, lw=1)
        draw_phases_of(axes, schedule, phases)
        axes.set_title(title, loc="left")
        axes.set_yticks([0, 0.5, 1])
    grid[-1].set_xlabel("step")
    legend(figure, grid[0])
    save(figure, "phases")


def draw_phases_of(axes, schedule, phases):
    """Colours the spans of steps of warmup, stable phase and cooldown."""
    for (name, color), spans in zip(PHASES.items(), phases, strict=True):
        for i, (first, last) in enumerate(spans):
            steps = np.arange(first, last + 1)
            label = name if i == 0 else None
            axes.plot(steps, schedule(steps), color=color, lw=2.5, label=label)


def legend(figure, axes):
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False
    )


def draw_averages():
    steps = 400
    rows = {
        "params_ema(0.99)": optax_wsd.params_ema(0.99),
        "params_power_ema(4.0)": optax_wsd.params_power_ema(4.0),
        "params_swa(start_step=200)": optax_wsd.params_swa(start_step=200),
        "params_swa(window=150)": optax_wsd.params_swa(window=150),
        "params_lawa(5, every=30)": optax_wsd.params_lawa(5, every=30),
    }
    weights = {name: average_weights(tx, steps) for name, tx in rows.items()}
    name = "schedule_free, over z"
    weights[name] = schedule_free_weights(steps, decoupling=None)
    weights[f"{name}, decoupling=50"] = schedule_free_weights(steps, decoupling=50.0)
    figure, rows = plt.subplots(len(weights), 1, figsize=(4.8, 7.4), sharex=True)
    for axes, (name, weight) in zip(rows, weights.items(), strict=True):
        axes.stairs(weight, fill=True, color=PHASES["stable"])
        axes.set_title(name, loc="left")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    rows[-1].set_xlabel(f"update whose params are averaged, after {steps} updates")
    save(figure, "averages")


def average_weights(average, steps):
    """The weight of every update in the average, read off params that are unit vectors.

    After update t the params are e_t, so that the average is the vector of weights.
    """
    tx = optax.chain(optax.identity(), average)

    def step(carry, target):
        params, state = carry
        updates, state = tx.update(target - params, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.zeros(steps)
    carry, _ = jax.lax.scan(step, (params, tx.init(params)), jnp.eye(steps))
    return np.asarray(optax_wsd.eval_params(carry[1], carry[0]))


def schedule_free_weights(steps, decoupling):
    """The weight of every z in x, with directions that make z a unit vector."""
    b1 = 0.9
    tx = optax_wsd.schedule_free(optax.identity(), 1.0, b1=b1, decoupling=decoupling)

    def step(carry, target):
        params, state = carry
        z = params - b1 * state.schedule_free_gap
        gradient = z - target
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jnp.zeros(steps)
    carry, _ = jax.lax.scan(step, (params, tx.init(params)), jnp.eye(steps))
    return np.asarray(optax_wsd.eval_params(carry[1], carry[0]))


def draw_plan():
    """What `plan` draws."""
    for command in RUNS:
        subprocess.run([sys.executable, "-m", "examples.gpt", *command], check=True)
    shutil.copy(TRUNK / "plan.png", FOLDER)


def save(figure, name):
    figure.set_layout_engine("constrained")
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main():
    FOLDER.mkdir(exist_ok=True)
    draw_plan()
    plt.style.use(STYLE)
    draw_shapes()
    draw_schedules()
    draw_phases()
    draw_choices()
    draw_averages()


if __name__ == "__main__":
    main()
