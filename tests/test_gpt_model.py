"""The example's model: causal, the same in both NNX modes, stable in low precision."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.gpt import model
from examples.gpt.config import ModelConfig, UserError
from tests.gpt_tiny import quick_compile  # noqa: F401

CONFIG = ModelConfig(width=16, depth=2, heads=2)
TOKENS = np.random.default_rng(0).integers(0, 256, (2, 9))


def logits_of(config, tokens=TOKENS, remat=False):
    return forward(config, remat)(init(config), tokens)


@cache
def forward(config, remat):
    return jax.jit(partial(model.logits, model.graph(config, remat)))


@cache
def init(config):
    return jax.jit(partial(model.init_params, config))(0)


def test_a_byte_changes_no_logits_before_it():
    changed = TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 256
    before, after = logits_of(CONFIG), logits_of(CONFIG, changed)
    assert (before[:, :5] == after[:, :5]).all()
    assert (before[:, 5:] != after[:, 5:]).any(axis=-1).all()


def test_fresh_weights_know_nothing():
    loss = jax.jit(partial(model.next_byte_loss, model.graph(CONFIG)))(
        init(CONFIG), TOKENS
    )
    assert abs(loss - math.log(256)) < 0.7


def test_rotation_shows_only_distances():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8))
    queries, keys = (model.rotate(jnp.tile(x, (1, 1, 12, 1))) for x in (query, key))
    products = np.einsum("bhik,bhjk->ij", queries, keys)
    for distance in range(6):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_is_that_of_jax(dtype):
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 9, 2, 8))
    q, k, v = (jnp.asarray(x, dtype) for x in (q, k, v))
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    heads_first = (x.swapaxes(1, 2) for x in (q, k, v))
    actual = model.attend(*heads_first).swapaxes(1, 2)
    assert actual.dtype == dtype
    atol = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(actual, float), np.asarray(expected, float), atol=atol
    )


def test_remat_changes_nothing():
    def grads(remat):
        loss = partial(model.next_byte_loss, model.graph(CONFIG, remat))
        return jax.jit(jax.grad(loss))(init(CONFIG), TOKENS)

    plain, saved = grads(False), grads(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, saved)


def test_a_tied_head_is_the_embedding():
    tied = ModelConfig(width=16, depth=2, heads=2, tied=True)
    missing = init(CONFIG).keys() - init(tied).keys()
    assert missing == {"head"}
    assert logits_of(tied).shape == (2, 9, 256)


def test_graph_and_tree_mode_give_the_same_logits():
    graph_mode = nnx.get_graph_mode() if hasattr(nnx, "get_graph_mode") else True
    logits = []
    try:
        for mode in (True, False):
            nnx.set_graph_mode(mode)
            forward.cache_clear()
            init.cache_clear()
            logits.append(logits_of(CONFIG))
    finally:
        nnx.set_graph_mode(graph_mode)
    assert (logits[0] == logits[1]).all()


def test_bfloat16_is_for_compute_only():
    low = ModelConfig(width=16, depth=2, heads=2, compute_dtype="bfloat16")
    leaves = jax.tree.leaves(init(low))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert logits_of(low).dtype == jnp.float32
    np.testing.assert_allclose(logits_of(low), logits_of(CONFIG), atol=0.1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 0}, "--width must be at least 1, got 0"),
        ({"width": 20, "heads": 4}, "--width must be a multiple of twice --heads"),
    ],
)
def test_impossible_models_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        ModelConfig(**fields)
