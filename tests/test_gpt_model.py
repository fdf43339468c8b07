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

CONFIG = ModelConfig(width=16, depth=2, heads=2)
TOKENS = np.random.default_rng(0).integers(0, 256, (2, 9))


def logits_of(config, tokens=TOKENS, remat=False):
    return forward(config, remat)(init(config), tokens)


@cache
def forward(config, remat):
    graph = model.graph(config, remat=remat)
    return jax.jit(lambda params, tokens: nnx.merge(graph, params)(tokens))


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


@pytest.fixture
def interpreted(monkeypatch):
    """Pallas kernels for TPUs run on a CPU."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    make = partial(splash_attention.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", make)


def attention_and_gradients(kernel, arrays, devices=1):
    def loss(arrays, scale):
        return jnp.sum(model.attend(*arrays, kernel).astype(jnp.float32) * scale)

    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
    scale = np.random.default_rng(1).normal(size=arrays[0].shape)
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(loss))(arrays, jnp.asarray(scale, "float32"))


def check_kernel(kernel, dtype, atol, devices, monkeypatch):
    said = []
    monkeypatch.setattr(model, "_say_once", said.append)
    arrays = np.random.default_rng(0).normal(size=(3, 2, 2, 128, 8))
    arrays = [jnp.asarray(x, dtype) for x in arrays]
    actual = attention_and_gradients(kernel, arrays, devices)
    expected = attention_and_gradients("written_out", arrays)
    assert not said
    jax.tree.map(partial(np.testing.assert_allclose, atol=atol), actual, expected)


@pytest.mark.parametrize("devices", [1, 2])
def test_splash_attention_is_the_written_out_one(interpreted, devices, monkeypatch):
    check_kernel("splash", "float32", 1e-4, devices, monkeypatch)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN runs on a GPU only")
def test_cudnn_attention_is_the_written_out_one(monkeypatch):
    check_kernel("cudnn", "bfloat16", 0.1, 1, monkeypatch)


@pytest.mark.parametrize("kernel", ["splash", "cudnn"])
def test_what_a_kernel_refuses_is_written_out_and_said_once(
    kernel, capsys, interpreted
):
    config = ModelConfig(width=12, depth=2, heads=2)  # and 8 bytes, in float32
    loss = partial(model.next_byte_loss, model.graph(config, attention=kernel))
    written = partial(model.next_byte_loss, model.graph(config))
    params = init(config)
    model._say_once.cache_clear()
    actual, expected = (jax.jit(jax.grad(f))(params, TOKENS) for f in (loss, written))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    sentence = f"Attention is written out, as {kernel} refuses: "
    assert capsys.readouterr().out.count(sentence) == 1


def test_attention_of_this_machine():
    here = {"cpu": "written_out", "gpu": "cudnn", "tpu": "splash"}
    assert model.attention_kernel("auto") == here[jax.default_backend()]
    assert model.attention_kernel("splash") == "splash"


@pytest.mark.parametrize(("devices", "tied"), [(0, False), (2, True)])
def test_a_loss_in_parts_is_the_loss(devices, tied, monkeypatch):
    config = ModelConfig(width=16, depth=1, heads=2, tied=tied, vocabulary=300)
    params, graph = init(config), model.graph(config)

    def loss_and_gradients():
        loss = partial(model.next_byte_loss, graph)
        both = jax.jit(lambda p: (loss(p, TOKENS), jax.value_and_grad(loss)(p, TOKENS)))
        return both(params)

    expected = loss_and_gradients()
    monkeypatch.setattr(model, "PART", 3 * 300)  # 16 tokens in parts of 2
    if devices == 0:
        actual = loss_and_gradients()
    else:
        mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
        with jax.set_mesh(mesh):
            actual = loss_and_gradients()
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), actual, expected)


@pytest.mark.parametrize("attention", ["written_out", "splash"])
def test_remat_changes_nothing(attention, interpreted):
    long = np.random.default_rng(0).integers(0, 256, (1, 129))

    def grads(remat):
        graph = model.graph(CONFIG, remat=remat, attention=attention)
        loss = partial(model.next_byte_loss, graph)
        return jax.jit(jax.grad(loss))(init(CONFIG), long)

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
        ({"width": 0}, "--width must be at least 1 and below .*, got 0"),
        ({"width": 20, "heads": 4}, "--width must be a multiple of twice --heads"),
    ],
)
def test_impossible_models_are_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        ModelConfig(**fields)
