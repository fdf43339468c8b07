# /// script
# dependencies = ["numpyro"]
# ///
"""NumPyro: `SVI` with `optax_to_numpyro`; the state is a tree of arrays."""

import pickle

import jax

from .checks import load_page

page = load_page(__name__)
key = jax.random.key(1)


class Run:
    def __init__(self, tx):
        self.svi = page.new_svi(tx)
        self.update = jax.jit(self.svi.update)
        self.state = self.svi.init(key, page.x, page.y)

    def change(self, **changes):
        step, (params, opt_state) = self.state.optim_state
        inner = changes.get("params", params), changes.get("opt_state", opt_state)
        self.state = self.state._replace(optim_state=(step, inner))

    @property
    def params(self):
        return self.state.optim_state[1][0]

    @params.setter
    def params(self, params):
        self.change(params=params)

    @property
    def opt_state(self):
        return self.state.optim_state[1][1]

    @opt_state.setter
    def opt_state(self, opt_state):
        self.change(opt_state=opt_state)

    def train(self, steps):
        for _ in range(steps):
            state = self.state._replace(rng_key=key)  # the same draws in every run
            self.state, _ = self.update(state, page.x, page.y)

    def loss(self, params):
        step, (_, opt_state) = self.state.optim_state
        state = self.state._replace(optim_state=(step, (params, opt_state)))
        return float(self.svi.evaluate(state, page.x, page.y))

    def save(self, folder):
        (folder / "state.pkl").write_bytes(pickle.dumps(self.state))

    def restore(self, folder):
        self.state = pickle.loads((folder / "state.pkl").read_bytes())
