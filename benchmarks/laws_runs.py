"""Short runs of two small GPTs for `benchmarks.laws`: a trunk and its cooldowns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_wsd
from examples.gpt.config import DataConfig, ModelConfig
from examples.gpt.data import StepBatches, load_text, validation_batches
from examples.gpt.model import graph, init_params, next_byte_loss

from .laws import GAMMA


@dataclass(frozen=True)
class Size:
    model: ModelConfig
    data: DataConfig
    warmup: int
    trunk_every: int  # steps between two evaluations of the trunk
    chunk: int  # and of a cooldown
    grid: int  # of the steps at which cooldowns start
    ends: tuple[int, ...]
    shares: dict[float, str]  # part of a run that a cooldown takes, and its shape


SIZES = {
    "80k": Size(
        ModelConfig(width=48, depth=2, heads=2),
        DataConfig(sequence_length=64, batch_size=8, validation_sequences=512),
        *(60, 50, 25, 25, (600, 1000, 1500, 2200, 3000)),
        {0.2: "linear", 0.4: "one_minus_sqrt"},
    ),
    "400k": Size(
        ModelConfig(width=96, depth=3, heads=2),
        DataConfig(sequence_length=128, batch_size=8, validation_sequences=256),
        *(40, 32, 16, 32, (400, 600, 800, 1200)),
        {0.2: "one_minus_sqrt", 0.36: "one_minus_sqrt"},
    ),
}


def make_runs(names: Sequence[str], path: Path, rates_of) -> None:
    """Trains SIZE:SEED:PEAK for each name, and adds a line for each curve."""
    for name in names:
        kind, seed, peak = name.split(":")
        size, trainer = SIZES[kind], Trainer(SIZES[kind], int(seed))
        cooldowns = [
            (round(end * (1 - share) / size.grid) * size.grid, end, shape)
            for end in size.ends
            for share, shape in size.shares.items()
        ]
        states: dict[int | None, Any] = dict.fromkeys(start for start, *_ in cooldowns)
        states[None] = trainer.init()
        for start, end, shape in [(None, size.ends[-1], None), *cooldowns]:
            run = {"size": kind, "seed": int(seed), "peak": float(peak)}
            run |= {"start": start, "end": end, "shape": shape, "warmup": size.warmup}
            steps, losses, averages = [], [], []
            for step, state in trainer.train(states[start], rates_of(run), start or 0):
                if start is None and step in states:
                    states[step] = state
                if start is not None or step % size.trunk_every == 0:
                    steps.append(step)
                    losses.append(round(float(trainer.evaluate(state[0])), 6))
                    if start is None:
                        average = optax_wsd.eval_params(state[1], state[0])
                        averages.append(round(float(trainer.evaluate(average)), 6))
            run |= {"steps": steps, "losses": losses}
            line = json.dumps(run | ({} if start else {"averages": averages}))
            with path.open("a") as file:
                file.write(line + "\n")
            print(f"{name} {start}-{end} {losses[-1]:.4f}", flush=True)


class Trainer:
    """AdamW as in the claims: (0.9, 0.95), weight decay 0.1, clipping at 1."""

    def __init__(self, size: Size, seed: int):
        self.size, self.seed = size, seed
        text, graphdef = load_text(size.data), graph(size.model)
        self.batches = StepBatches(text.train, size.data, seed)
        windows = validation_batches(text, size.data)
        validation = windows.reshape(-1, 32, windows.shape[-1])

        @jax.jit
        def chunk(state, rates, tokens):
            def step(state, inputs):
                (params, opt_state), (rate, tokens_BxM) = state, inputs
                grads = jax.grad(lambda p: next_byte_loss(graphdef, p, tokens_BxM))(
                    params
                )
                updates, opt_state = _adamw(rate).update(grads, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), None

            return jax.lax.scan(step, state, (rates, tokens))[0]

        @jax.jit
        def evaluate(params):
            losses = jax.lax.map(
                lambda tokens: next_byte_loss(graphdef, params, tokens), validation
            )
            return jnp.mean(losses)

        self.chunk, self.evaluate = chunk, evaluate

    def init(self):
        params = init_params(self.size.model, self.seed)
        return params, _adamw(0.0).init(params)

    def train(self, state, rates: np.ndarray, start: int):
        for begin in range(start, len(rates), self.size.chunk):
            stop = min(begin + self.size.chunk, len(rates))
            tokens = np.stack([self.batches[i] for i in range(begin, stop)])
            state = self.chunk(state, rates[begin:stop].astype(np.float32), tokens)
            yield stop, state


def _adamw(rate) -> optax.GradientTransformation:
    def is_matrix(params):
        return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)

    adamw = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, mask=is_matrix)
    average = optax_wsd.params_power_ema(GAMMA)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw, average)
