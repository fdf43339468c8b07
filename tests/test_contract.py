"""One suite for every transform: what optax asks of an optimizer, and what we promise.

A new transform gets all of it by adding a record to CASES.
"""

import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp_v0
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

import optax_wsd


class Case(NamedTuple):
    """A transform: how to make an optimizer with it, and what it must refuse."""

    factory: Callable[..., optax.GradientTransformation]
    arguments: dict[str, Any]  # numbers only: they are also traced and injected
    static: dict[str, Any]  # the rest
    refusals: list[tuple[dict[str, Any], str]]
    complete: bool  # an optimizer by itself, or to be chained after one

    def make(self, **changes) -> optax.GradientTransformationExtraArgs:
        tx = self.factory(**(self.arguments | self.static | changes))
        tx = tx if self.complete else optax.chain(optax.adam(0.1), tx)
        return optax.with_extra_args_support(tx)


CASES = {
    "scale_by_cooldown": Case(
        optax_wsd.scale_by_cooldown,
        dict(end_scale=0.1),
        dict(shape=optax_wsd.shapes.linear),
        [(dict(end_scale=-1.0), "end_scale must"), (dict(shape="x"), "shape must")],
        complete=False,
    ),
    "params_ema": Case(
        optax_wsd.params_ema,
        dict(decay=0.9),
        dict(every=2, start_step=1),
        [
            (dict(decay=1.0), "decay must .* got 1.0"),
            (dict(decay=-0.1), "decay must"),
            (dict(every=0), "every must .* got 0"),
            (dict(start_step=-1), "start_step must"),
            (dict(every=1.5), "every must"),
        ],
        complete=False,
    ),
    "params_power_ema": Case(
        optax_wsd.params_power_ema,
        dict(gamma=3.0),
        {},
        [(dict(gamma=-1.0), "gamma must"), (dict(every=0), "every must")],
        complete=False,
    ),
    "params_swa": Case(
        optax_wsd.params_swa,
        {},
        {},
        [(dict(every=0), "every must"), (dict(window=0), "window must")],
        complete=False,
    ),
    "params_swa(window)": Case(
        optax_wsd.params_swa,
        {},
        dict(window=4, every=2),
        [(dict(window=5), "window must")],
        complete=False,
    ),
    "params_lawa": Case(
        optax_wsd.params_lawa,
        {},
        dict(size=3, every=2),
        [(dict(size=0), "size must"), (dict(every=0), "every must")],
        complete=False,
    ),
    "schedule_free": Case(
        optax_wsd.schedule_free,
        dict(learning_rate=0.1),
        dict(direction=optax.scale_by_adam(), b1=0.9),
        [
            (dict(b1=1.0), "b1 must"),
            (dict(b1=-0.1), "b1 must"),
            (dict(learning_rate=-1.0), "learning_rate must"),
            (dict(direction=None), "direction must"),
        ],
        complete=True,
    ),
    "schedule_free_sgd": Case(
        optax_wsd.schedule_free_sgd,
        dict(learning_rate=0.1),
        dict(warmup_steps=3, weight_decay=0.1),
        [(dict(b1=1.5), "b1 must"), (dict(warmup_steps=-1), "warmup_steps must")],
        complete=True,
    ),
    "schedule_free_adamw": Case(
        optax_wsd.schedule_free_adamw,
        dict(learning_rate=0.1),
        dict(warmup_steps=3, weight_decay=0.1),
        [
            (dict(b2=1.0), "b2 must"),
            (dict(weight_decay=-1.0), "weight_decay must"),
            (dict(learning_rate=-1.0), "learning_rate must"),
        ],
        complete=True,
    ),
    "schedule_free_adamw(b1=0)": Case(
        optax_wsd.schedule_free_adamw,
        dict(learning_rate=0.1),
        dict(b1=0.0),
        [],
        complete=True,
    ),
    "schedule_free_radam": Case(
        optax_wsd.schedule_free_radam,
        dict(learning_rate=0.1),
        {},
        [(dict(learning_rate=-1.0), "learning_rate must")],
        complete=True,
    ),
}
STEPS = 9
cases = pytest.mark.parametrize("name", CASES)


def start_params(dtype=jnp.float32):
    return {
        "matrix": jnp.linspace(-1, 1, 16, dtype=dtype).reshape(8, 2),
        "vector": jnp.linspace(1, 2, 8, dtype=dtype),
        "scalar": jnp.asarray(0.5, dtype),
    }


def gradient(params, step):
    """Gradients of a noisy quadratic: a pure function of params and step."""
    return jax.tree.map(lambda p: (p + jnp.sin(3.0 * step + p)).astype(p.dtype), params)


@functools.cache
def optimizer(name):
    """The plain optimizer of a case, of which the programs below are kept."""
    return CASES[name].make()


def one_step(tx, params, state, step, **extra_args):
    updates, state = tx.update(gradient(params, step), state, params, **extra_args)
    return optax.apply_updates(params, updates), state


@functools.cache
def programs(tx):
    """Jitted init and step of an optimizer, and the traces of the step so far."""
    traces = []

    @jax.jit
    def init(params):
        state = tx.init(params)
        try:
            return optax_wsd.start_cooldown(state, 2 * STEPS)
        except ValueError:
            return state

    @jax.jit
    def step(params, state, step):
        traces.append(step)
        return one_step(tx, params, state, step)

    return init, step, traces


def started(tx, params):
    """A fresh state; a cooldown in it is under way, so that it does something."""
    return programs(tx)[0](params)


def train(tx, params, steps=STEPS, state=None, first=0):
    """Trains with one jitted step, as users do; fails where it is compiled twice."""
    state = started(tx, params) if state is None else state
    _, step_fn, traces = programs(tx)
    before = len(traces)
    for step in range(first, first + steps):
        params, state = step_fn(params, state, jnp.float32(step))
    assert len(traces) <= before + 1
    return params, state


@functools.cache
def trained(name):
    """What most tests compare with: params and state of the plain run."""
    return train(optimizer(name), start_params())


@jax.jit
def evaluated(params, state):
    return optax_wsd.eval_params(state, params)


def assert_same(got, want, **tolerance):
    """Params, state and evaluated params agree."""
    (params, state), (params_want, state_want) = got, want
    chex.assert_trees_all_close(params, params_want, **tolerance)
    chex.assert_trees_all_close(
        evaluated(params, state), evaluated(params_want, state_want), **tolerance
    )


@cases
def test_every_wrong_argument_is_refused_by_name(name):
    for bad, message in CASES[name].refusals:
        with pytest.raises(ValueError, match=message):
            CASES[name].make(**bad)


@cases
def test_a_transform_that_needs_params_says_so(name):
    tx = optimizer(name)
    if name == "scale_by_cooldown":
        pytest.skip("it scales updates and needs no params")
    with pytest.raises(ValueError, match="params"):
        tx.update(start_params(), tx.init(start_params()))


@cases
def test_jit_equals_eager(name):
    tx, params = optimizer(name), start_params()
    eager = params, started(tx, params)
    for step in range(STEPS):
        eager = one_step(tx, *eager, jnp.float32(step))
    assert_same(trained(name), eager, rtol=2e-5, atol=1e-6)


@cases
def test_scan_equals_a_loop(name):
    tx, params = optimizer(name), start_params()

    def body(carry, step):
        return one_step(tx, *carry, step), None

    carry, _ = jax.lax.scan(
        body, (params, started(tx, params)), jnp.arange(STEPS, dtype=jnp.float32)
    )
    assert_same(carry, trained(name), rtol=2e-5, atol=1e-6)


@cases
def test_vmap_over_params_equals_each_alone(name):
    tx = optimizer(name)
    scales = jnp.array([1.0, -0.5, 2.0])
    batch = jax.vmap(lambda s: jax.tree.map(lambda p: s * p, start_params()))(scales)
    state = jax.vmap(functools.partial(started, tx))(batch)
    step_fn = jax.jit(jax.vmap(functools.partial(one_step, tx), (0, 0, None)))
    for step in range(STEPS):
        batch, state = step_fn(batch, state, jnp.float32(step))
    average = jax.vmap(evaluated)(batch, state)
    for i in range(3):
        alone = train(tx, jax.tree.map(lambda p, i=i: scales[i] * p, start_params()))
        pick = functools.partial(jax.tree.map, lambda x, i=i: x[i])
        chex.assert_trees_all_close(pick(batch), alone[0], rtol=2e-5, atol=1e-6)
        want = evaluated(*alone)
        chex.assert_trees_all_close(pick(average), want, rtol=2e-5, atol=1e-6)


@cases
def test_numbers_may_be_traced(name):
    """A sweep over the arguments is one compile, and equals each value alone."""
    arguments = CASES[name].arguments
    if not arguments:
        pytest.skip("it takes no numbers but lengths")

    @jax.jit
    @jax.vmap
    def sweep(values):
        tx, params = CASES[name].make(**values), start_params()

        def step(carry, step):
            return one_step(tx, *carry, step), None

        carry = params, started(tx, params)
        (params, state), _ = jax.lax.scan(step, carry, jnp.arange(float(STEPS)))
        return params, optax_wsd.eval_params(state, params)

    got = sweep({k: jnp.array([v, 0.5 * v]) for k, v in arguments.items()})
    half = CASES[name].make(**{k: 0.5 * v for k, v in arguments.items()})
    for i, alone in enumerate([trained(name), train(half, start_params())]):
        want = alone[0], evaluated(*alone)
        pick = functools.partial(jax.tree.map, lambda x, i=i: x[i])
        chex.assert_trees_all_close(pick(got), want, rtol=5e-5, atol=1e-6)


@cases
def test_params_and_state_can_be_donated_together(name):
    """The state holds no buffer of the params, from the first step on."""
    tx, params = optimizer(name), start_params()
    state = started(tx, params)
    step_fn = jax.jit(functools.partial(one_step, tx), donate_argnums=(0, 1))
    for step in range(STEPS):
        params, state = step_fn(params, state, jnp.float32(step))
    assert_same((params, state), trained(name), rtol=2e-5, atol=1e-6)


@cases
@pytest.mark.parametrize("x64", [False, True], ids=["16 and 32 bits", "64 bits"])
def test_dtypes_are_kept_also_in_a_branch_and_averages_are_at_least_float32(name, x64):
    """Params and state keep their shapes, dtypes and weak types, as a cond asks."""
    with jax.enable_x64(x64):
        tx = optimizer(name)
        if x64:
            params = start_params("float64")
        else:
            params = {d: start_params(d) for d in ("bfloat16", "float16", "float32")}
        state = started(tx, params)

        @jax.jit
        def maybe(do, grads, params, state):
            updates, after = jax.lax.cond(
                do,
                lambda: tx.update(grads, state, params),
                lambda: (grads, state),
            )
            return updates, after, optax_wsd.eval_params(after, params)

        given = gradient(params, 0.0), params, state
        chex.assert_trees_all_equal(maybe(False, *given)[1], state)
        updates, after, average = maybe(True, *given)
        always, _ = jax.jit(tx.update)(given[0], state, params)
        chex.assert_trees_all_close(updates, always, rtol=2e-2)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(average, params)
        chex.assert_tree_all_finite(average)
        ours = after if CASES[name].complete else after[1]
        for leaf in jax.tree.leaves(ours):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                assert leaf.dtype.itemsize >= (8 if x64 else 4)


def parabola(x):
    return jnp.sum(jnp.abs(x - jnp.array([1.0, -1.0])) ** 2)


def rosenbrock(x):
    return jnp.abs(1 - x[0]) ** 2 + 100 * jnp.abs(x[1] - x[0] ** 2) ** 2


@cases
def test_converges_as_optax_asks_of_its_optimizers(name):
    """In 30,000 steps, real and complex; the evaluated params too."""
    case = CASES[name]
    options = {"weight_decay": 0.0} if "weight_decay" in case.static else {}
    if case.complete:
        options["learning_rate"] = 2e-3 if name.endswith("sgd") else 1e-2
    tx = case.make(**options)
    dtypes = jnp.float32, jnp.complex64
    start = [[jnp.zeros(2, dtype) for dtype in dtypes] for _ in (parabola, rosenbrock)]

    def problem(points):
        return sum(map(parabola, points[0])) + sum(map(rosenbrock, points[1]))

    @jax.jit
    def solve(params):
        def body(carry, _):
            params, state = carry
            grads = jax.tree.map(jnp.conj, jax.grad(problem)(params))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), None, 30_000)[0]

    params, state = solve(start)
    for found in (params, optax_wsd.eval_params(state, params)):
        chex.assert_trees_all_equal_shapes_and_dtypes(found, start)
        for points, best in zip(found, ([1.0, -1.0], [1.0, 1.0]), strict=True):
            for point in points:
                np.testing.assert_allclose(point, best, rtol=3e-2, atol=3e-2)


@cases
def test_accumulated_micro_steps_are_no_steps(name):
    """Eight micro-steps of MultiSteps equal one step on the mean gradient."""
    tx, params = optimizer(name), start_params()
    want = train(tx, params, 3)
    multi = optax.MultiSteps(tx, 8)
    state = started(multi, params)
    update = jax.jit(multi.update)
    for step in range(3):
        mean = gradient(params, jnp.float32(step))
        for micro in range(8):
            noise = (-1) ** micro * 0.5
            grads = jax.tree.map(lambda g, n=noise: g + n, mean)
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            if micro < 7:
                chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, mean))
    assert_same((params, state), want, rtol=1e-4, atol=1e-5)


@cases
def test_a_skipped_step_leaves_the_state_as_it_was(name):
    tx, params = optax.apply_if_finite(optimizer(name), 5), start_params()
    state, update = started(tx, params), jax.jit(tx.update)
    for step in range(4):
        updates, state = update(gradient(params, float(step)), state, params)
        params = optax.apply_updates(params, updates)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        grads = gradient(params, 0.0) | {"vector": jnp.full(8, bad)}
        updates, after = update(grads, state, params)
        chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
        chex.assert_trees_all_equal(after.inner_state, state.inner_state)


@cases
def test_masked_leaves_the_rest_alone(name):
    """Masked-in leaves train as ever, which is leaf by leaf; the others stand still."""
    mask = {"matrix": True, "vector": False, "scalar": True}
    tx = optax.chain(
        optax.masked(optimizer(name), mask),
        optax.masked(optax.set_to_zero(), jax.tree.map(lambda m: not m, mask)),
    )
    params, state = train(tx, start_params())
    assert_moved_or_frozen(name, params, state, frozen="vector")


def assert_moved_or_frozen(name, params, state, frozen):
    """One leaf is bit-identical, also in eval; the others are those of `trained`."""
    want, average, start = trained(name), evaluated(params, state), start_params()
    for got, expected in ((params, want[0]), (average, evaluated(*want))):
        expected = expected | {frozen: got[frozen]}
        chex.assert_trees_all_close(got, expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(got[frozen], start[frozen])


@cases
def test_partition_gives_each_group_its_own(name):
    """Two groups and a frozen one: each as if it were alone, leaf by leaf."""
    labels = {"matrix": "a", "vector": "b", "scalar": "frozen"}
    tx = optax.partition(
        {
            "a": optimizer(name),
            "b": optimizer(name),
            "frozen": optax.set_to_zero(),
        },
        labels,
    )
    params, state = train(tx, start_params())
    assert_moved_or_frozen(name, params, state, frozen="scalar")


def injected(name, **arguments):
    """The optimizer of a case with its numbers given by `optax.inject_hyperparams`."""
    case = CASES[name]
    arguments = case.arguments | arguments

    def factory(**numbers):
        return case.make(**numbers)

    keyword_only = inspect.Parameter.KEYWORD_ONLY
    factory.__signature__ = inspect.Signature(
        [inspect.Parameter(key, keyword_only) for key in arguments]
    )
    return optax.inject_hyperparams(factory)(**arguments)


@cases
def test_inject_hyperparams_equals_constants(name):
    if not CASES[name].arguments:
        pytest.skip("it takes no numbers but lengths")
    got = train(injected(name), start_params())
    assert_same(got, trained(name), rtol=5e-5, atol=1e-6)


NUMBERS = dict(b1=0.75, b2=0.96875, decay=0.75, end_scale=0.25, gamma=3.0)
SPELLINGS = [np.float32, np.float64, np.asarray, jnp.asarray, jnp.bfloat16]


@cases
def test_a_number_is_the_same_however_it_is_spelled(name):
    """The same state and the same updates to the last bit; the same tree injected."""
    known = inspect.signature(CASES[name].factory).parameters
    numbers = {key: value for key, value in NUMBERS.items() if key in known}
    params, results = start_params(), []
    for spell in [lambda number: number, *SPELLINGS]:
        spelled = {key: spell(value) for key, value in numbers.items()}
        tx = CASES[name].make(**spelled)
        results.append(one_step(tx, params, tx.init(params), 1.0))
    for result in results[1:]:
        chex.assert_trees_all_equal(result, results[0])
    tx = injected(name, **numbers)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        tx.init(params).inner_state, CASES[name].make(**numbers).init(params)
    )


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].complete])
def test_a_rate_may_be_a_schedule_also_an_injected_one(name):
    """A constant one equals the constant; a falling one is the same both ways."""
    case, schedule = CASES[name], optax.linear_schedule(0.1, 0.01, STEPS)
    constant = case.make(learning_rate=optax.constant_schedule(0.1))
    tolerance = dict(rtol=2e-5, atol=1e-6)
    assert_same(train(constant, start_params()), trained(name), **tolerance)

    got = train(injected(name, learning_rate=schedule), start_params())
    want = train(case.make(learning_rate=schedule), start_params())
    assert_same(got, want, **tolerance)


@cases
def test_extra_arguments_are_accepted(name):
    tx, params = optimizer(name), start_params()
    state = started(tx, params)

    @jax.jit
    def both(params, state):
        extra = dict(value=jnp.float32(1.0), unknown="ignored")
        with_extra = one_step(tx, params, state, 0.0, **extra)
        return with_extra, one_step(tx, params, state, 0.0)

    chex.assert_trees_all_equal(*both(params, state))


@cases
def test_map_params_finds_the_params_like_leaves(name):
    """As optax users shard a state: what is like the params, and what is not."""
    tx, params = optimizer(name), start_params()
    state = started(tx, params)
    marked = optax.tree.map_params(
        tx,
        lambda leaf: "params",
        state,
        transform_non_params=lambda leaf: "other",
    )
    chex.assert_trees_all_equal_structs(marked, jax.tree.map(lambda _: "", state))
    for mark, leaf in zip(jax.tree.leaves(marked), jax.tree.leaves(state), strict=True):
        assert mark == "params" or leaf.size <= 2
    is_averaging = name != "scale_by_cooldown"
    ours = marked if CASES[name].complete else marked[1]
    assert ("params" in jax.tree.leaves(ours)) == is_averaging


@cases
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_state_is_sharded_as_its_params(name, axis_type):
    """From init on, eager and jitted, on 8 devices; results equal one device's."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    specs = {"matrix": P("d", None), "vector": P("d"), "scalar": P()}
    tx, want = optimizer(name), trained(name)
    with jax.set_mesh(mesh):
        params = jax.tree.map(
            lambda p, s: jax.device_put(p, NamedSharding(mesh, s)),
            start_params(),
            specs,
        )
        for init in (tx.init, jax.jit(tx.init)):
            ours = init(params) if CASES[name].complete else init(params)[1]
            if CASES[name].complete:
                ours = ours._replace(direction_state=())  # the direction's own affair
            for leaf in jax.tree.leaves(ours):
                if (
                    leaf.size > 1
                    and leaf.shape[-2:] == (8, 2)
                    or leaf.shape[-1:] == (8,)
                ):
                    assert "d" in str(leaf.sharding.spec), (leaf.shape, leaf.sharding)
        params, state = train(tx, params)
        average = evaluated(params, state)
    for key, spec in specs.items():
        assert average[key].sharding.is_equivalent_to(
            NamedSharding(mesh, spec), average[key].ndim
        )
    chex.assert_trees_all_close(params, want[0], rtol=2e-5, atol=1e-6)
    chex.assert_trees_all_close(average, evaluated(*want), rtol=2e-5, atol=1e-6)


@cases
def test_init_works_on_shapes_alone(name):
    tx, params = optimizer(name), start_params()
    abstract = jax.eval_shape(lambda: params)
    want = jax.eval_shape(tx.init, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(tx.init, abstract), want
    )
    chex.assert_trees_all_equal_structs(tx.init(params), want)


def save_and_load_v1(path, tree, target):
    ocp.save(path, tree)
    return ocp.load(path, target) if target is not None else ocp.load(path)


def save_and_load_v0(path, tree, target):
    with ocp_v0.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, target)


@cases
@pytest.mark.parametrize("save_and_load", [save_and_load_v0, save_and_load_v1])
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_orbax_round_trip_goes_on_bit_identical(name, save_and_load, tmp_path):
    """With a target, and without: then the state is found as dicts, and adopted."""
    tx, (params, state) = optimizer(name), trained(name)
    want = train(tx, params, 4, state, first=STEPS)
    target = jax.tree.map(ocp_v0.utils.to_shape_dtype_struct, state)
    restored = save_and_load(tmp_path / "target", state, target)
    chex.assert_trees_all_equal(train(tx, params, 4, restored, first=STEPS), want)
    bare = save_and_load(tmp_path / "bare", state, None)
    chex.assert_trees_all_equal(evaluated(params, bare), evaluated(params, state))
    adopted = optax_wsd.adopt_state(bare, tx.init(params))
    chex.assert_trees_all_equal(train(tx, params, 4, adopted, first=STEPS), want)


class Model(nnx.Module):
    def __init__(self):
        for key, value in start_params().items():
            setattr(self, key, nnx.Param(value))


@cases
@pytest.mark.parametrize("graph", [True, False])
def test_nnx_optimizer_equals_optax(name, graph):
    tx, want = optimizer(name), trained(name)
    model = Model()
    trainer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    if name == "scale_by_cooldown":
        trainer.opt_state = optax_wsd.start_cooldown(trainer.opt_state, 2 * STEPS)

    @nnx.jit(graph=graph)
    def step_fn(model, trainer, step):
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        grads = nnx.state(model, nnx.Param)
        nnx.replace_by_pure_dict(grads, gradient(params, step))
        trainer.update(model, grads)

    for step in range(STEPS):
        step_fn(model, trainer, jnp.float32(step))
    params = nnx.state(model, nnx.Param)
    average = evaluated(params, trainer.opt_state)
    chex.assert_trees_all_equal_structs(average, params)
    tolerance = dict(rtol=2e-5, atol=1e-6)
    chex.assert_trees_all_close(nnx.to_pure_dict(params), want[0], **tolerance)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(average), evaluated(*want), **tolerance
    )


@cases
def test_the_state_can_be_pickled(name):
    _, state = trained(name)
    again = pickle.loads(pickle.dumps(state))
    chex.assert_trees_all_equal(again, state)


@cases
def test_leaves_that_are_no_numbers_pass_through(name):
    """Integers, booleans, random keys, None and empty arrays are left as they are."""
    case, key = CASES[name], jax.random.key(0)
    tx = case.factory(**(case.arguments | case.static))
    others = {
        "integer": jnp.arange(3),
        "boolean": jnp.array([True, False]),
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "key": key,
    }
    params = start_params() | others
    still = jax.tree.map(jnp.zeros_like, others | {"key": None})
    still["key"] = np.zeros(key.shape, jax.dtypes.float0)
    state = started(tx, params)
    for step in range(3):
        grads = gradient(start_params(), float(step)) | still
        updates, state = tx.update(grads, state, params)
        movable = {k: v for k, v in params.items() if k != "key"}
        updates = {k: updates[k] for k in movable}
        params = optax.apply_updates(movable, updates) | {"key": key}
    for average in (params, evaluated(params, state)):
        assert average["key"] == key and average["none"] is None
        assert average["empty"].shape == (0, 3)
        for leaf in ("integer", "boolean"):
            np.testing.assert_array_equal(average[leaf], others[leaf])
            assert average[leaf].dtype == others[leaf].dtype


@cases
def test_params_may_be_python_numbers_float8_and_hold_functions(name):
    """As a whole Equinox module has them: gradients and state lack what is no array."""
    case = CASES[name]
    tx = case.factory(**(case.arguments | case.static))
    params = {
        "number": 0.5,
        "numpy": np.ones(2),
        "float8": jnp.full(3, 448, jnp.float8_e4m3fn),
        "activation": jax.nn.relu,
    }
    state = tx.init(params | {"activation": None})
    grads = {
        "number": 1.0,
        "numpy": np.ones(2, np.float32),
        "float8": jnp.zeros(3, jnp.float8_e4m3fn),
        "activation": None,
    }
    updates, after = tx.update(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert updates["activation"] is None
    average = optax_wsd.eval_params(after, params)
    assert average["activation"] is jax.nn.relu
    np.testing.assert_array_equal(average["float8"].astype(float), 448.0)
