"""A byte-level GPT in Flax NNX: RMSNorm, RoPE, SwiGLU and QK-norm.

Shape suffixes: B batch, L sequence, D width, H heads, K head width, F hidden width,
V vocabulary; N tokens of a device, P parts of them.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec, get_abstract_mesh

from .config import ModelConfig
from .progress import say

PART = 2**25  # logits that a device makes at a time
_INIT = nnx.initializers.lecun_normal()


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, config: ModelConfig, how: dict[str, Any], kernel: str):
        self.heads, self.kernel = config.heads, kernel
        width, ends = config.width, _ends_residual(config)
        self.qkv = _linear(width, 3 * width, how)
        self.out = _linear(width, width, how, ends)
        self.query_norm = nnx.RMSNorm(width // config.heads, **how)
        self.key_norm = nnx.RMSNorm(width // config.heads, **how)

    def __call__(self, x_BxLxD):
        batch, length, width = x_BxLxD.shape
        qkv_BxLx3xHxK = self.qkv(x_BxLxD).reshape(batch, length, 3, self.heads, -1)
        q_BxHxLxK, k_BxHxLxK, v_BxHxLxK = jnp.moveaxis(qkv_BxLx3xHxK, (2, 3), (0, 2))
        q_BxHxLxK = rotate(self.query_norm(q_BxHxLxK))
        k_BxHxLxK = rotate(self.key_norm(k_BxHxLxK))
        y_BxHxLxK = attend(q_BxHxLxK, k_BxHxLxK, v_BxHxLxK, self.kernel)
        return self.out(y_BxHxLxK.swapaxes(1, 2).reshape(batch, length, width))


class FeedForward(nnx.Module):
    """SwiGLU: a gated hidden layer, 8/3 as wide as the model."""

    def __init__(self, config: ModelConfig, how: dict[str, Any]):
        hidden = -(-8 * config.width // (3 * 32)) * 32  # a multiple of 32
        self.gate_up = _linear(config.width, 2 * hidden, how)
        self.down = _linear(hidden, config.width, how, _ends_residual(config))

    def __call__(self, x_BxLxD):
        gate_BxLxF, up_BxLxF = jnp.split(self.gate_up(x_BxLxD), 2, axis=-1)
        return self.down(jax.nn.silu(gate_BxLxF) * up_BxLxF)


class Block(nnx.Module):
    def __init__(self, config: ModelConfig, how: dict[str, Any], kernel: str):
        self.attention_norm = nnx.RMSNorm(config.width, **how)
        self.attention = Attention(config, how, kernel)
        self.feed_forward_norm = nnx.RMSNorm(config.width, **how)
        self.feed_forward = FeedForward(config, how)

    def __call__(self, x_BxLxD):
        x_BxLxD = x_BxLxD + self.attention(self.attention_norm(x_BxLxD))
        return x_BxLxD + self.feed_forward(self.feed_forward_norm(x_BxLxD))


class GPT(nnx.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, config: ModelConfig, rngs, remat=False, attention="auto"):
        how = {"dtype": compute_dtype(config), "rngs": rngs}
        self.remat, kernel = remat, attention_kernel(attention)
        # Tied, the embedding is also the head and gives logits of order 1.
        scale = config.width**-0.5 if config.tied else 1.0
        words, width, init = config.vocabulary, config.width, nnx.initializers.normal
        self.embed = nnx.Embed(words, width, embedding_init=init(scale), **how)
        blocks = [Block(config, how, kernel) for _ in range(config.depth)]
        self.blocks, self.norm = nnx.List(blocks), nnx.RMSNorm(config.width, **how)
        self.head = None if config.tied else _linear(width, words, how)

    def __call__(self, tokens_BxL):
        return (self.features(tokens_BxL) @ self.head_DxV()).astype(jnp.float32)

    def features(self, tokens_BxL):
        x_BxLxD = self.embed(tokens_BxL)
        apply = nnx.remat(Block.__call__) if self.remat else Block.__call__
        for block in self.blocks:
            x_BxLxD = apply(block, keep_rows(x_BxLxD))
        return self.norm(keep_rows(x_BxLxD))

    def head_DxV(self):
        weights = self.head.kernel if self.head else self.embed.embedding.T
        return jnp.asarray(weights, self.norm.dtype)


def keep_rows(x_BxLxD):
    """On a mesh the weights come to each device's rows; a TPU would else move both."""
    mesh = get_abstract_mesh()
    if mesh.empty:
        return x_BxLxD
    return jax.lax.with_sharding_constraint(x_BxLxD, PartitionSpec(mesh.axis_names))


def by_rows(fn, *arrays, shared=()):
    """`fn` of arrays and what is shared; on a mesh each device does its own rows."""
    mesh = get_abstract_mesh()
    if mesh.empty:
        return fn(*arrays, *shared)
    rows = PartitionSpec(mesh.axis_names)
    specs = *(rows for _ in arrays), *(PartitionSpec() for _ in shared)
    sharded = jax.shard_map(fn, in_specs=specs, out_specs=rows, check_vma=False)
    return sharded(*arrays, *shared)


def attention_kernel(name: str) -> str:
    """The name, or for auto that of this machine's accelerator."""
    kernels = {"tpu": "splash", "gpu": "cudnn"}
    here = kernels.get(jax.default_backend(), "written_out")
    return here if name == "auto" else name


def attend(q_BxHxLxK, k_BxHxLxK, v_BxHxLxK, kernel="written_out"):
    """Causal attention, its scores in float32; what a kernel refuses is written out."""
    arrays = q_BxHxLxK, k_BxHxLxK, v_BxHxLxK
    if kernel == "written_out":
        return written_out(*arrays)
    try:
        return by_rows(KERNELS[kernel], *arrays)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        _say_once(f"Attention is written out, as {kernel} refuses: {reason}")
        return written_out(*arrays)


def written_out(q_BxHxLxK, k_BxHxLxK, v_BxHxLxK):
    """On a CPU it takes less time than `jax.nn.dot_product_attention`."""
    scores_BxHxLxM = jnp.einsum(
        "bhlk,bhmk->bhlm", q_BxHxLxK, k_BxHxLxK, preferred_element_type=jnp.float32
    )
    length, width = q_BxHxLxK.shape[2:]
    seen_LxM = np.tril(np.ones((length, length), bool))[None, None]
    scores_BxHxLxM = jnp.where(seen_LxM, scores_BxHxLxM * width**-0.5, -jnp.inf)
    weights_BxHxLxM = jax.nn.softmax(scores_BxHxLxM).astype(v_BxHxLxK.dtype)
    return jnp.einsum("bhlm,bhmk->bhlk", weights_BxHxLxM, v_BxHxLxK)


def cudnn(*qkv_BxHxLxK):
    """For GPUs, in bfloat16."""
    q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = (x.swapaxes(1, 2) for x in qkv_BxHxLxK)
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, is_causal=True, implementation="cudnn"
    ).swapaxes(1, 2)


def splash(q_BxHxLxK, k_BxHxLxK, v_BxHxLxK):
    """For TPUs, in Pallas; lengths are multiples of 128."""
    from jax.experimental.pallas.ops.tpu import splash_attention as sa

    heads, length, width = q_BxHxLxK.shape[1:]
    mask = sa.MultiHeadMask([sa.CausalMask((length, length))] * heads)
    sizes = sa.BlockSizes(*[math.gcd(length, 512)] * 8)  # pyright: ignore
    kernel = sa.make_splash_mha_single_device(mask, block_sizes=sizes)
    return jax.vmap(kernel)(q_BxHxLxK * width**-0.5, k_BxHxLxK, v_BxHxLxK)


KERNELS = {"cudnn": cudnn, "splash": splash}
_say_once = functools.cache(say)


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
    here = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(here if config.compute_dtype == "auto" else config.compute_dtype)


def graph(config: ModelConfig, **how):
    """The model without its weights, for `next_byte_loss`; `how` is GPT's."""
    return nnx.graphdef(nnx.eval_shape(lambda: GPT(config, nnx.Rngs(0), **how)))


def init_params(config: ModelConfig, seed) -> dict:
    """Fresh weights: a nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(GPT(config, nnx.Rngs(jax.random.key(seed)))))


def next_byte_loss(graphdef, params, tokens_BxM):
    """Mean cross-entropy in nats of each byte given those before it; M is L + 1."""
    gpt = nnx.merge(graphdef, params)
    x_BxLxD, head_DxV = gpt.features(tokens_BxM[:, :-1]), gpt.head_DxV()
    devices = get_abstract_mesh().size or 1
    tokens = math.prod(x_BxLxD.shape[:2]) // devices
    logits = tokens * head_DxV.shape[1]
    if logits <= PART:
        return cross_entropy(x_BxLxD, tokens_BxM[:, 1:], head_DxV)
    parts = next(n for n in range(-(-logits // PART), tokens + 1) if tokens % n == 0)

    def loss_of_rows(x_BxLxD, targets_BxL, head_DxV):
        x_PxNxD = x_BxLxD.reshape(parts, -1, x_BxLxD.shape[-1])
        targets_PxN = targets_BxL.reshape(parts, -1)
        return cross_entropy_in_parts(x_PxNxD, targets_PxN, head_DxV)[None]

    rows = x_BxLxD, tokens_BxM[:, 1:]
    return by_rows(loss_of_rows, *rows, shared=(head_DxV,)).mean()


def cross_entropy(x_xD, targets_x, head_DxV):
    logits_xV = (x_xD @ head_DxV).astype(jnp.float32)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    return loss(logits_xV, targets_x).mean()


@jax.custom_vjp
def cross_entropy_in_parts(x_PxNxD, targets_PxN, head_DxV):
    """`cross_entropy`, the logits and gradients of a part being made at a time."""
    parts = x_PxNxD, targets_PxN
    return jax.lax.map(lambda xt: cross_entropy(xt[0], xt[1], head_DxV), parts).mean()


def _loss_and_gradients(x_PxNxD, targets_PxN, head_DxV):
    loss_and_gradients = jax.value_and_grad(cross_entropy, (0, 2))

    def step(total_DxV, part):
        loss, (x_NxD, new_DxV) = loss_and_gradients(*part, head_DxV)
        return total_DxV + new_DxV, (loss, x_NxD)

    zeros_DxV, parts = jnp.zeros(head_DxV.shape), (x_PxNxD, targets_PxN)
    total_DxV, (losses_P, x_PxNxD) = jax.lax.scan(step, zeros_DxV, parts)
    head_DxV = (total_DxV / len(losses_P)).astype(head_DxV.dtype)
    return losses_P.mean(), (x_PxNxD / len(losses_P), head_DxV)


def _scale_gradients(gradients, scale):
    x_PxNxD, head_DxV = (x * scale.astype(x.dtype) for x in gradients)
    return x_PxNxD, None, head_DxV


cross_entropy_in_parts.defvjp(_loss_and_gradients, _scale_gradients)


def step_flops(config: ModelConfig, params, batch: int, length: int) -> float:
    """6 for each number in a matrix and token, and 12 for each pair in attention."""
    matrices = sum(x.size for x in jax.tree.leaves(params) if x.ndim > 1)
    matrices -= 0 if config.tied else config.vocabulary * config.width  # embedding
    attention = 12 * config.depth * config.width * length
    return batch * length * (6.0 * matrices + attention)


def _linear(inputs, outputs, how, init=_INIT):
    return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=init, **how)


def _ends_residual(config: ModelConfig):
    """Starts the last map of a residual branch small, so that depth adds no noise."""
    return nnx.initializers.variance_scaling(1 / (2 * config.depth), "fan_in", "normal")
