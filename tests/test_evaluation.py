"""eval_params and train_params: what they find, and where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from orbax.checkpoint import v1 as ocp

import optax_wsd

STEPS = 5


def start():
    return {"a": jnp.asarray([0.1, -1.0]), "b": {"c": jnp.asarray(2.0)}}


def train(tx, params, steps=STEPS):
    state = tx.init(params)
    step = jax.jit(tx.update)
    for k in range(steps):
        grads = jax.tree.map(lambda p, k=k: p + jnp.sin(3.0 * k + p), params)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def averaged():
    return optax.chain(optax.sgd(0.1), optax_wsd.params_ema(0.5))


def schedule_free():
    return optax_wsd.schedule_free_sgd(0.1)


NESTINGS = {
    "chain": lambda tx: optax.chain(optax.identity(), optax.chain(tx)),
    "named_chain": lambda tx: optax.named_chain(("it", tx)),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, {"a": True, "b": True}),
    "partition": lambda tx: optax.partition(
        {"one": tx, "other": tx}, {"a": "one", "b": "other"}
    ),
    "extra args": optax.with_extra_args_support,
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "inject": lambda tx: optax.inject_hyperparams(lambda r: optax.chain(tx))(r=1.0),
}


@pytest.mark.parametrize("make", [averaged, schedule_free])
@pytest.mark.parametrize("nesting", NESTINGS)
def test_found_in_any_nesting(nesting, make):
    params, state = train(make(), start())
    want = optax_wsd.eval_params(state, params)
    assert not np.any(want["a"] == params["a"])
    nested_params, nested = train(NESTINGS[nesting](make()), start())
    for evaluate in (optax_wsd.eval_params, jax.jit(optax_wsd.eval_params)):
        got = evaluate(nested, nested_params)
        assert jax.tree.structure(got) == jax.tree.structure(params)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), got, want
        )


@pytest.mark.parametrize("make", [averaged, schedule_free])
def test_found_in_a_state_restored_without_a_target(make, tmp_path):
    params, state = train(make(), start())
    ocp.save(tmp_path / "step", {"params": params, "opt_state": state})
    with pytest.warns(UserWarning, match="Sharding info"):
        restored = ocp.load(tmp_path / "step")
    got = optax_wsd.eval_params(restored["opt_state"], restored["params"])
    want = optax_wsd.eval_params(state, params)
    jax.tree.map(np.testing.assert_array_equal, got, want)


class Model(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.asarray([0.1, -1.0]))
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0))])


@pytest.mark.parametrize("make", [averaged, schedule_free])
def test_found_in_nnx(make):
    """Params in, params of the same Variables out: they can go into a model."""
    model = Model()
    first = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    plain_params, plain_state = train(make(), nnx.to_pure_dict(first))
    optimizer = nnx.Optimizer(model, make(), wrt=nnx.Param)
    for k in range(STEPS):
        params = nnx.state(model, nnx.Param)
        optimizer.update(
            model, jax.tree.map(lambda p, k=k: p + jnp.sin(3.0 * k + p), params)
        )
    params = nnx.state(model, nnx.Param)
    got = optax_wsd.eval_params(optimizer.opt_state, params)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    pure = optax_wsd.eval_params(optimizer.opt_state, nnx.to_pure_dict(params))
    jax.tree.map(np.testing.assert_array_equal, pure, nnx.to_pure_dict(got))
    want = optax_wsd.eval_params(plain_state, plain_params)
    nnx.update(model, got)
    np.testing.assert_allclose(model.weight[...], want["weight"], rtol=1e-6)
    kernel = want["layers"][0]["kernel"]
    np.testing.assert_allclose(model.layers[0].kernel[...], kernel, rtol=1e-6)


def test_found_in_a_linen_train_state():
    train_state = TrainState.create(apply_fn=None, params=start(), tx=averaged())
    train_state = train_state.apply_gradients(grads=start())
    train_state = train_state.apply_gradients(grads=start())
    got = optax_wsd.eval_params(train_state.opt_state, train_state.params)
    p1 = start()["a"] * 0.9
    p2 = p1 - 0.1 * start()["a"]
    np.testing.assert_allclose(got["a"], (p1 + 2 * p2) / 3, rtol=1e-6)


def test_no_average_is_the_params():
    params, state = train(optax.adam(0.1), start())
    assert optax_wsd.eval_params(state, params) == params


def test_each_group_has_its_own_average_and_masked_leaves_none():
    tx = optax.partition(
        {
            "slow": optax.chain(optax.sgd(0.1), optax_wsd.params_swa()),
            "fast": optax.chain(optax.sgd(0.1), optax_wsd.params_ema(0.0)),
            "none": optax.sgd(0.1),
        },
        {"a": "slow", "b": {"c": "fast"}, "d": "none"},
    )
    params, state = train(tx, start() | {"d": jnp.ones(2)})
    alone, alone_state = train(
        optax.chain(optax.sgd(0.1), optax_wsd.params_swa()), start()
    )
    got = optax_wsd.eval_params(state, params)
    want = optax_wsd.eval_params(alone_state, alone)["a"]
    np.testing.assert_allclose(got["a"], want, rtol=1e-6)
    np.testing.assert_allclose(got["b"]["c"], params["b"]["c"], rtol=1e-6)  # the last
    assert got["d"] is params["d"]


def two_averages():
    return optax.named_chain(
        ("opt", optax.sgd(0.1)),
        ("slow", optax_wsd.params_ema(0.9)),
        ("mean", optax_wsd.params_swa()),
        ("fast", optax_wsd.params_ema(0.0)),
    )


def test_which_takes_a_name_of_the_chain_or_of_the_factory():
    params, state = train(two_averages(), start())
    fast = optax_wsd.eval_params(state, params, which="fast")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), fast, params)
    by_factory = optax_wsd.eval_params(state, params, which="params_swa")
    by_name = optax_wsd.eval_params(state, params, which="mean")
    jax.tree.map(np.testing.assert_array_equal, by_factory, by_name)
    assert not np.any(by_name["a"] == params["a"])


@pytest.mark.parametrize(
    ("which", "match"),
    [
        (None, r"which must be the name .* slow/params_ema and mean/params_swa and"),
        ("params_ema", "slow/params_ema and fast/params_ema"),
        (
            "schedule_free",
            "which must be a name in the state, which has slow/params_ema",
        ),
    ],
)
def test_two_averages_or_none_of_the_name_are_refused(which, match):
    params, state = train(two_averages(), start())
    with pytest.raises(ValueError, match=match):
        optax_wsd.eval_params(state, params, which=which)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"a": jnp.zeros(2)}, "params must be the tree .* 'b/c'.* got 'no such leaf'"),
        (
            {"a": jnp.zeros(3), "b": {"c": jnp.zeros(())}},
            r"'a' of \(2,\), got 'shape \(3,\)'",
        ),
    ],
)
def test_params_of_another_tree_are_refused(other, match):
    _, state = train(averaged(), start())
    with pytest.raises(ValueError, match=match):
        optax_wsd.eval_params(state, other)


@pytest.mark.parametrize("b1", [0.9, 0.6, 0.3, 0.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_training_goes_on_from_the_evaluated_weights(b1, dtype):
    """y comes back from x; for bfloat16 to the rounding of the last update."""
    first = jax.tree.map(lambda p: p.astype(dtype), start())
    params, state = train(optax_wsd.schedule_free_adamw(0.1, b1=b1), first, 20)
    x = optax_wsd.eval_params(state, params)
    back = optax_wsd.train_params(state, x)
    same = jax.tree.map(lambda p, q: p.dtype == q.dtype, back, params)
    assert jax.tree.all(same)
    tolerance = dict(rtol=1e-6, atol=0 if dtype == jnp.float32 else 0.1 * 2**-8)
    jax.tree.map(
        lambda p, q: np.testing.assert_allclose(
            p.astype(jnp.float32), q.astype(jnp.float32), **tolerance
        ),
        back,
        params,
    )


def test_an_average_leaves_the_way_back_alone():
    params, state = train(averaged(), start())
    x = optax_wsd.eval_params(state, params)
    jax.tree.map(np.testing.assert_array_equal, optax_wsd.train_params(state, x), x)


def test_float32_params_give_the_unrounded_average_of_bfloat16_ones():
    first = jax.tree.map(lambda p: p.astype(jnp.bfloat16), start())
    params, state = train(averaged(), first)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    got = optax_wsd.eval_params(state, wide)
    np.testing.assert_array_equal(got["a"], state[1].params_ema["a"])


def test_params_may_be_named_value():
    params = {"value": jnp.ones(2), "w": {"value": jnp.zeros(2)}}
    params, state = train(averaged(), params)
    got = optax_wsd.eval_params(state, params)
    np.testing.assert_array_equal(got["value"], state[1].params_ema["value"])
    np.testing.assert_array_equal(got["w"]["value"], state[1].params_ema["w"]["value"])


@pytest.mark.parametrize(
    "make",
    [
        averaged,
        schedule_free,
        lambda: optax_wsd.schedule_free_adamw(0.1, b1=0.3),
        lambda: optax.chain(optax.sgd(0.1), optax_wsd.params_lawa(2, every=1)),
    ],
)
def test_a_stack_of_states_is_evaluated_as_each_alone(make):
    """As vmap over seeds makes it, without a vmap around; two seeds of two numbers."""
    tx, seeds = make(), [start(), jax.tree.map(jnp.square, start())]
    alone = [train(tx, params, 3) for params in seeds]
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    params, state = (stack(*parts) for parts in zip(*alone, strict=True))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-6)
    for convert in (optax_wsd.eval_params, optax_wsd.train_params):
        want = stack(*(convert(s, p) for p, s in alone))
        jax.tree.map(close, convert(state, params), want)
    with pytest.raises(ValueError, match=r"params must be a stack of \(2,\)"):
        optax_wsd.eval_params(state, start() | {"a": jnp.zeros(())})


@pytest.mark.parametrize("make", [averaged, schedule_free])
def test_found_as_one_vector_under_flatten(make):
    params, state = train(optax.flatten(make()), start() | {"list": [jnp.ones(2)]})
    plain, plain_state = train(make(), start() | {"list": [jnp.ones(2)]})
    for convert in (optax_wsd.eval_params, optax_wsd.train_params):
        got, want = convert(state, params), convert(plain_state, plain)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), got, want
        )
    with pytest.raises(ValueError, match=r"params must be the tree of .*got 'shape"):
        optax_wsd.eval_params(state, {"a": params["a"], "b": params["b"]})


@pytest.mark.parametrize("make", [averaged, schedule_free])
def test_found_as_pairs_under_split_real_and_imaginary(make):
    first = start() | {"z": jnp.asarray([1 + 2j, -1j])}
    params, state = train(optax.contrib.split_real_and_imaginary(make()), first)
    parts = {"real": params["z"].real, "imaginary": params["z"].imag}
    (inner,) = (state.inner_state,)
    pairs = optax_wsd.eval_params(inner, params | {"z": parts})
    got = optax_wsd.eval_params(state, params)
    np.testing.assert_allclose(got["z"].real, pairs["z"]["real"], rtol=1e-6)
    np.testing.assert_allclose(got["z"].imag, pairs["z"]["imaginary"], rtol=1e-6)
    np.testing.assert_array_equal(got["a"], pairs["a"])
    assert got["z"].dtype == params["z"].dtype and np.all(got["z"] != params["z"])


@pytest.mark.parametrize("make", [averaged, schedule_free])
def test_an_average_in_lookahead_is_refused_and_right_after_it(make):
    def run(tx):
        params = optax.LookaheadParams.init_synced(start())
        state, seen = tx.init(params), []
        for _ in range(4):
            updates, state = tx.update(params.fast, state, params)
            params = optax.apply_updates(params, updates)
            seen.append(params)
        return params, state, seen

    params, state, _ = run(optax.lookahead(make(), 2, 0.5))
    with pytest.raises(ValueError, match="opt_state must be without .*optax.lookahead"):
        optax_wsd.eval_params(state, params.fast)
    ahead = optax.lookahead(optax.sgd(0.1), 2, 0.5)
    params, state, seen = run(optax.chain(ahead, optax_wsd.params_swa()))
    got = optax_wsd.eval_params(state, params)
    mean = np.mean([p.slow["a"] for p in seen], 0)
    np.testing.assert_allclose(got.slow["a"], mean, rtol=1e-6)
