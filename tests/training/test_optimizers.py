"""Optimizers on stacked parameters do what they do on each alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon

from im3d_jax.training import create_state, make_train_steps, optimizers
from im3d_jax.training.stacks import REST, plan_stacks


RNG = np.random.default_rng(0)
SHAPES = {
    "unet.a.kernel": (3, 3, 4, 8),
    "unet.b.kernel": (36, 8),
    "unet.c.temporal_conv.kernel": (36, 8),
    "unet.n.scale": (8,),
    "unet.conv_in.kernel": (3, 3, 2, 4),
    "unet.d.kernel": (150, 40),
    "unet.e.temporal_conv.kernel": (30, 90),
    "unet.f.kernel": (3000, 4),
    "text.token_embedding": (5, 3),
}
PARAMS = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
GRADIENTS = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
MATRICES = {
    "adamw": [name for name in SHAPES if name != "unet.n.scale"],
    "muon": [name for name in SHAPES if name not in ("unet.n.scale", "unet.conv_in.kernel", "text.token_embedding")],
}


def rate(name):
    return 1e-2 if "temporal" in name else 1e-3


def plan(optimizer):
    return plan_stacks(PARAMS, functools.partial(optimizers.is_matrix, optimizer))


@pytest.fixture(scope="module", params=optimizers.OPTIMIZERS)
def updates(request):
    """(optimizer's name, updates of all parameters)."""
    stacks = plan(request.param)
    optimizer = optimizers.make(request.param, stacks, rate, 0.1)
    stacked = stacks.stack(PARAMS)
    made, _ = jax.jit(optimizer.update)(stacks.stack(GRADIENTS), optimizer.init(stacked), stacked)
    return request.param, stacks.unstack(made)


def alone(optimizer, name):
    """What the optimizer does to one parameter."""
    matrix = name in MATRICES[optimizer]
    if optimizer == "muon" and matrix:
        numbers = MuonDimensionNumbers(tuple(range(len(SHAPES[name]) - 1)), (len(SHAPES[name]) - 1,))
        spec = {"w": numbers}
        one = muon(rate(name), consistent_rms=0.2, weight_decay=0.1, muon_weight_dimension_numbers=lambda p: spec)
    else:
        one = optax.adamw(rate(name), b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1 if matrix else 0.0)
    params = {"w": PARAMS[name]}
    norm = optax.tree.norm(GRADIENTS)
    made, _ = one.update({"w": GRADIENTS[name] / norm}, one.init(params), params)
    return made["w"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_part_of_a_stack_moves_as_alone(name, updates):
    optimizer, made = updates
    np.testing.assert_allclose(made[name], alone(optimizer, name), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
def test_layout(optimizer):
    stacks = plan(optimizer)
    stacked = stacks.stack(PARAMS)
    for name, value in stacks.unstack(stacked).items():
        np.testing.assert_array_equal(value, PARAMS[name])
    assert {key: value.shape for key, value in stacked.items() if key in ("64x8", "160x64", "3000x4")} == {
        "64x8": (3, 64, 8), "160x64": (2, 160, 64), "3000x4": (1, 3000, 4)
    }  # fmt: skip
    rest = sum(np.prod(shape) for name, shape in SHAPES.items() if name not in MATRICES[optimizer])
    assert stacked[REST].shape == (rest,)
    sizes = stacks.unstack({key: np.broadcast_to(value, stacked[key].shape) for key, value in
                            stacks.spread(lambda place: float(len(place.name))).items()})  # fmt: skip
    for name, value in sizes.items():
        assert (value == len(name)).all() and value.shape == SHAPES[name]


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
def test_padding_stays_zero(optimizer):
    stacks = plan(optimizer)
    made, stacked = optimizers.make(optimizer, stacks, rate, 0.1), stacks.stack(PARAMS)
    state = made.init(stacked)
    for _ in range(3):
        updates, state = made.update(stacks.stack(GRADIENTS), state, stacked)
        stacked = optax.apply_updates(stacked, updates)
    again = stacks.stack(stacks.unstack(stacked))
    jax.tree.map(np.testing.assert_array_equal, again, stacked)


def test_muon_makes_matrices_nearly_orthogonal():
    stacks = plan("muon")
    optimizer, stacked = optimizers.make("muon", stacks, rate, 0.0), stacks.stack(PARAMS)
    made, _ = optimizer.update(stacks.stack(GRADIENTS), optimizer.init(stacked), stacked)
    values = np.linalg.svd(stacks.unstack(made)["unet.b.kernel"], compute_uv=False)
    assert values.max() / values.min() < 2 < np.linalg.cond(np.asarray(GRADIENTS["unet.b.kernel"]))


def test_a_step_on_stacks_is_the_same_step():
    """Plain descent: with stacks and without, the same parameters and average."""
    optimizer, stacks = optax.sgd(0.1), plan("adamw")

    def loss(params, held, batch, key):
        return sum(jnp.square(value - 1.0).sum() for value in params.values()) * batch["x"].mean(), {}

    data = {"x": jnp.ones((4, 2))}
    made = []
    for params, kind in ((PARAMS, None), (stacks.stack(PARAMS), stacks)):
        steps = make_train_steps(loss, optimizer, batch_size=2, ema=0.5, stacks=kind)
        state, metrics = steps(create_state(jax.random.key(0), params, optimizer), {}, data, 2)
        unstack = (lambda tree: tree) if kind is None else kind.unstack
        made.append((unstack(state.params), unstack(state.ema), metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *made)
