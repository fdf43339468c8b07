"""A byte-level GPT in Flax NNX: RMSNorm, RoPE, SwiGLU and QK-norm.

Shape suffixes: B batch, L sequence, D width, H heads, K head width, F hidden width,
V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec, get_abstract_mesh

from .config import ModelConfig

_INIT = nnx.initializers.lecun_normal()


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, config: ModelConfig, dtype, rngs: nnx.Rngs):
        self.heads = config.heads
        self.qkv = _linear(config.width, 3 * config.width, dtype, rngs)
        self.out = _linear(
            config.width, config.width, dtype, rngs, _ends_residual(config)
        )
        self.query_norm = _norm(config.width // config.heads, dtype, rngs)
        self.key_norm = _norm(config.width // config.heads, dtype, rngs)

    def __call__(self, x_BxLxD):
        batch, length, width = x_BxLxD.shape
        qkv_BxLx3xHxK = self.qkv(x_BxLxD).reshape(batch, length, 3, self.heads, -1)
        q_BxHxLxK, k_BxHxLxK, v_BxHxLxK = jnp.moveaxis(qkv_BxLx3xHxK, (2, 3), (0, 2))
        y_BxHxLxK = attend(
            rotate(self.query_norm(q_BxHxLxK)),
            rotate(self.key_norm(k_BxHxLxK)),
            v_BxHxLxK,
        )
        return self.out(y_BxHxLxK.swapaxes(1, 2).reshape(batch, length, width))


class FeedForward(nnx.Module):
    """SwiGLU: a gated hidden layer, 8/3 as wide as the model."""

    def __init__(self, config: ModelConfig, dtype, rngs: nnx.Rngs):
        hidden = -(-8 * config.width // (3 * 32)) * 32  # a multiple of 32
        self.gate_up = _linear(config.width, 2 * hidden, dtype, rngs)
        self.down = _linear(hidden, config.width, dtype, rngs, _ends_residual(config))

    def __call__(self, x_BxLxD):
        gate_BxLxF, up_BxLxF = jnp.split(self.gate_up(x_BxLxD), 2, axis=-1)
        return self.down(jax.nn.silu(gate_BxLxF) * up_BxLxF)


class Block(nnx.Module):
    def __init__(self, config: ModelConfig, dtype, rngs: nnx.Rngs):
        self.attention_norm = _norm(config.width, dtype, rngs)
        self.attention = Attention(config, dtype, rngs)
        self.feed_forward_norm = _norm(config.width, dtype, rngs)
        self.feed_forward = FeedForward(config, dtype, rngs)

    def __call__(self, x_BxLxD):
        x_BxLxD = x_BxLxD + self.attention(self.attention_norm(x_BxLxD))
        return x_BxLxD + self.feed_forward(self.feed_forward_norm(x_BxLxD))


class GPT(nnx.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, *, remat: bool = False):
        dtype = compute_dtype(config)
        self.remat = remat
        # Tied, the embedding is also the head and gives logits of order 1.
        scale = config.width**-0.5 if config.tied else 1.0
        self.embed = nnx.Embed(
            config.vocabulary,
            config.width,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(scale),
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [Block(config, dtype, rngs) for _ in range(config.depth)]
        )
        self.norm = _norm(config.width, dtype, rngs)
        self.head = (
            None
            if config.tied
            else _linear(config.width, config.vocabulary, dtype, rngs)
        )

    def __call__(self, tokens_BxL):
        x_BxLxD = self.embed(tokens_BxL)
        apply = nnx.remat(Block.__call__) if self.remat else Block.__call__
        for block in self.blocks:
            x_BxLxD = apply(block, keep_rows(x_BxLxD))
        x_BxLxD = self.norm(keep_rows(x_BxLxD))
        head = self.embed.attend if self.head is None else self.head
        logits_BxLxV = head(x_BxLxD)
        return logits_BxLxV.astype(jnp.float32)


def keep_rows(x_BxLxD):
    """On a mesh each device keeps its rows of the batch, and the weights come to it.

    Left to itself the compiler of a TPU moves activations too.
    """
    mesh = get_abstract_mesh()
    if mesh.empty:
        return x_BxLxD
    return jax.lax.with_sharding_constraint(x_BxLxD, PartitionSpec(mesh.axis_names))


def attend(q_BxHxLxK, k_BxHxLxK, v_BxHxLxK):
    """Causal attention, its scores in float32.

    Written out, as on a CPU it takes less time than `jax.nn.dot_product_attention`.
    """
    scores_BxHxLxM = jnp.einsum(
        "bhlk,bhmk->bhlm", q_BxHxLxK, k_BxHxLxK, preferred_element_type=jnp.float32
    )
    length, width = q_BxHxLxK.shape[2:]
    seen_LxM = np.tril(np.ones((length, length), bool))[None, None]
    scores_BxHxLxM = jnp.where(seen_LxM, scores_BxHxLxM * width**-0.5, -jnp.inf)
    weights_BxHxLxM = jax.nn.softmax(scores_BxHxLxM).astype(v_BxHxLxK.dtype)
    return jnp.einsum("bhlm,bhmk->bhlk", weights_BxHxLxM, v_BxHxLxK)


def rotate(x_BxHxLxK):
    """Rotary positions: turns the two halves of K by angles that grow with L."""
    length, half = x_BxHxLxK.shape[2], x_BxHxLxK.shape[3] // 2
    # By NumPy, as constants: XLA would compute them anew for every number turned.
    rate_K = 10_000.0 ** (-np.arange(half) / half)
    angle_LxK = np.outer(np.arange(length), rate_K)[None, None]
    cos, sin = (f(angle_LxK).astype(np.float32) for f in (np.cos, np.sin))
    first, second = jnp.split(x_BxHxLxK.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x_BxHxLxK.dtype)


def compute_dtype(config: ModelConfig):
    """bfloat16 on accelerators and float32 on a CPU, unless the config names one."""
    if config.compute_dtype != "auto":
        return jnp.dtype(config.compute_dtype)
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def graph(config: ModelConfig, remat: bool = False):
    """The model without its weights, for `next_byte_loss`."""
    model = nnx.eval_shape(lambda: GPT(config, nnx.Rngs(0), remat=remat))
    return nnx.graphdef(model)


def init_params(config: ModelConfig, seed) -> dict:
    """Fresh weights: a nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(GPT(config, nnx.Rngs(jax.random.key(seed)))))


def logits(graphdef, params, tokens_BxL):
    return nnx.merge(graphdef, params)(tokens_BxL)


def next_byte_loss(graphdef, params, tokens_BxM):
    """Mean cross-entropy in nats of each byte given those before it; M is L + 1."""
    logits_BxLxV = logits(graphdef, params, tokens_BxM[:, :-1])
    picked = jnp.take_along_axis(logits_BxLxV, tokens_BxM[:, 1:, None], axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits_BxLxV, axis=-1) - picked[..., 0])


def _linear(inputs, outputs, dtype, rngs, init=_INIT):
    return nnx.Linear(
        inputs, outputs, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs
    )


def _ends_residual(config: ModelConfig):
    """Starts the last map of a residual branch small, so that depth adds no noise."""
    return nnx.initializers.variance_scaling(1 / (2 * config.depth), "fan_in", "normal")


def _norm(width, dtype, rngs):
    return nnx.RMSNorm(width, dtype=dtype, rngs=rngs)
