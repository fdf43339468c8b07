# /// script
# dependencies = ["netket"]
# ///
"""NetKet: `driver.VMC` over an exact state, checkpoints by `flax.serialization`."""

from flax import serialization

from .checks import load_page

page = load_page(__name__)


class Run:
    def __init__(self, tx):
        self.driver = page.new_driver(tx)

    @property
    def params(self):
        return self.driver.state.parameters

    @params.setter
    def params(self, params):
        self.driver.state.parameters = params

    @property
    def opt_state(self):
        return self.driver._optimizer_state

    @opt_state.setter
    def opt_state(self, opt_state):
        self.driver._optimizer_state = opt_state

    def train(self, steps):
        page.run(self.driver, steps)

    def loss(self, params):
        trained = self.params
        self.params = params
        energy = self.driver.state.expect(page.hamiltonian).mean.real
        self.params = trained
        return float(energy)

    def save(self, folder):
        (folder / "driver").write_bytes(serialization.to_bytes(self.driver))

    def restore(self, folder):
        saved = (folder / "driver").read_bytes()
        self.driver = serialization.from_bytes(self.driver, saved)
