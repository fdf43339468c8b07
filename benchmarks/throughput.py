"""The GPT example's training step beside GPT-2 in PyTorch, of equal shape.

    pip install torch transformers schedulefree
    python -m benchmarks.throughput
    python -m benchmarks.throughput --width 768 --depth 12 --heads 12 \\
        --vocabulary 50304 --batch 8 --length 1024                     on a GPU

Both train on the same batch with AdamW in float32 on this machine's CPU, or on its GPU
in bfloat16: the example's model, jitted, and `transformers.GPT2LMHeadModel` with the
same width, depth, heads, length and vocabulary, no dropout, and about as many numbers
in its matrices. Beside them stand the example's matrix products alone. Rounds are
interleaved; speeds are medians of ratios within a round. The peak is that of a large
matrix product, the better of both libraries.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from examples.gpt import model
from examples.gpt.config import ModelConfig
from examples.gpt.trainer import keep_freed_memory

from .programs import print_table, versions
from .step_program import OPTIMIZERS, RATE, train_step

MATMUL_SIZE = 1024


class Example:
    """The example's step with one optimizer."""

    def __init__(self, config: ModelConfig, tx, tokens_BxM: np.ndarray):
        step = train_step(model.graph(config), tx)
        self.params = model.init_params(config, 0)
        self.state, self.tokens = tx.init(self.params), jnp.asarray(tokens_BxM)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(
            self.params, self.state, self.tokens
        )
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.params, self.state, _ = self.step(self.params, self.state, self.tokens)
        jax.block_until_ready(self.params)


class Peer:
    """The same step of GPT-2 in PyTorch."""

    compile_seconds = 0.0

    def __init__(self, config: ModelConfig, tokens_BxM: np.ndarray):
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=config.vocabulary,
                n_positions=tokens_BxM.shape[1] - 1,
                n_embd=config.width,
                n_layer=config.depth,
                n_head=config.heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
                use_cache=False,
                tie_word_embeddings=config.tied,
            )
        ).to(device)
        self.model.train()
        if device == "cuda":  # where it pays; attention is PyTorch's flash attention
            self.model = torch.compile(self.model)
        tokens = torch.tensor(tokens_BxM, dtype=torch.long, device=device)
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE)
        self.autocast = torch.autocast(device, torch.bfloat16, device == "cuda")
        self.cross_entropy = torch.nn.functional.cross_entropy

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with self.autocast:
                logits = self.model(self.inputs).logits
                self.loss = self.cross_entropy(
                    logits.flatten(0, 1).float(), self.targets.flatten()
                )
            self.optimizer.zero_grad()
            self.loss.backward()
            self.optimizer.step()
        float(self.loss.detach())


class Products:
    """The matrix products of the example's step and nothing else, forward and back."""

    compile_seconds = 0.0

    def __init__(self, config: ModelConfig, params, tokens_BxM: np.ndarray):
        batch, length = tokens_BxM.shape[0], tokens_BxM.shape[1] - 1
        dtype, heads = model.compute_dtype(config), (batch, config.heads)

        def ones(*shape):
            return jnp.ones(shape, dtype)

        def linear(w):
            inputs, outputs = w.shape
            rows = batch * length
            return ones(rows, inputs), ones(inputs, outputs), ones(rows, outputs)

        def attention():
            width = config.width // config.heads
            vectors = [ones(*heads, length, width) for _ in range(4)]
            return *vectors, *(ones(*heads, length, length) for _ in range(2))

        # Bytes are looked up in the embedding, unless it is the head too.
        used = {k: v for k, v in params.items() if config.tied or k != "embed"}
        matrices = [linear(w) for w in jax.tree.leaves(used) if w.ndim > 1]
        self.factors = matrices, [attention() for _ in range(config.depth)]
        self.products = jax.jit(self._products)

    @staticmethod
    def _products(matrices, attentions):
        linear = [(x @ w, dy @ w.T, x.T @ dy) for x, w, dy in matrices]
        return linear, [
            (q @ k.mT, a @ v, dy @ v.mT, a.mT @ dy, ds @ k, ds.mT @ q)
            for q, k, v, dy, a, ds in attentions
        ]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(self.products(*self.factors))


class Matmul:
    """A product of square matrices, for the peak."""

    def __init__(self, dtype):
        self.a = jnp.full((MATMUL_SIZE, MATMUL_SIZE), 0.01, dtype)
        self.product = jax.jit(jnp.matmul)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(self.product(self.a, self.a))


class TorchMatmul:
    def __init__(self):
        import torch  # pyright: ignore[reportMissingImports]

        self.a = torch.full((MATMUL_SIZE, MATMUL_SIZE), 0.01)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.product = self.a @ self.a


def main(
    width: int = 128,
    depth: int = 3,
    heads: int = 2,
    vocabulary: int = 256,
    batch: int = 16,
    length: int = 128,
    rounds: int = 10,
    steps: int = 5,
) -> None:
    """Prints the table.

    Args:
        width: Width of the model.
        depth: Its blocks.
        heads: Heads in each.
        vocabulary: Tokens there are; 256 are bytes.
        batch: Sequences in a step.
        length: Bytes in a sequence.
        rounds: Interleaved rounds.
        steps: Steps of each in a round.
    """
    keep_freed_memory()  # as the example does; here for both
    on_cpu = jax.default_backend() == "cpu"
    config = ModelConfig(vocabulary, width, depth, heads)
    tokens = np.random.default_rng(0).integers(
        0, config.vocabulary, (batch, length + 1), dtype=np.int32
    )
    timed: dict[str, Any] = {
        f"example, {name}": Example(config, make(), tokens)
        for name, make in OPTIMIZERS.items()
    }
    timed["its matrix products alone"] = Products(
        config, timed["example, adamw"].params, tokens
    )
    matmuls: dict[str, Any] = {"jax": Matmul(jnp.float32 if on_cpu else jnp.bfloat16)}
    base = "example, adamw"
    try:
        timed["GPT-2 in PyTorch, adamw"] = Peer(config, tokens)
        base = "GPT-2 in PyTorch, adamw"
        if on_cpu:
            matmuls["torch"] = TorchMatmul()
    except ImportError:
        print("PyTorch and transformers are not installed: no peer.")
    seconds: dict[str, list[float]] = {name: [] for name in timed | matmuls}
    for round_ in range(rounds + 1):
        for name, case in (timed | matmuls).items():
            start = time.perf_counter()
            case.run(steps)
            if round_ > 0:
                seconds[name].append((time.perf_counter() - start) / steps)

    peak = 2 * MATMUL_SIZE**3 / min(statistics.median(seconds[n]) for n in matmuls)
    flops = model.step_flops(config, timed["example, adamw"].params, batch, length)
    rows = []
    for name, case in timed.items():
        pairs = zip(seconds[base], seconds[name], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        middle = statistics.median(seconds[name])
        rows.append(
            [
                name,
                f"{ratio:.2f}",
                f"{batch * length / middle:,.0f}",
                f"{1e3 * middle:.1f}",
                f"{flops / middle / peak:.0%}",
                f"{case.compile_seconds:.1f}" if case.compile_seconds else "",
            ]
        )
    print(versions("flax", "torch", "transformers"))
    print(
        f"\nwidth {width}, depth {depth}, heads {heads}, {batch} x {length} bytes; "
        f"peak {peak / 1e9:,.0f} Gflop/s\n"
    )
    header = "step,speed,tokens/s,ms,of peak,compile s"
    print_table(header.split(","), rows)


if __name__ == "__main__":
    tyro.cli(main)
