"""Optimizers on nested parameters do what they do to each alone, whatever is stacked inside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon

from im3d_jax.training import make_optimizer, schedule
from im3d_jax.training.optimizers import OPTIMIZERS, is_muon_matrix
from im3d_jax.training.stacks import REST, plan_stacks
from im3d_jax.weights import flatten, unflatten


RNG = np.random.default_rng(0)
SHAPES = {
    "unet": {
        "a": {"kernel": (3, 3, 4, 8)},
        "b": {"kernel": (36, 8)},
        "c": {"temporal_conv": {"kernel": (36, 8)}},
        "n": {"scale": (8,)},
        "conv_in": {"kernel": (3, 3, 2, 4)},
        "d": {"kernel": (150, 40)},
        "e": {"temporal_conv": {"kernel": (30, 90)}},
        "f": {"kernel": (3000, 4)},
    },
    "text": {"token_embedding": (5, 3)},
}
is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
draw = lambda shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)  # noqa: E731
PARAMS, GRADIENTS = (jax.tree.map(draw, SHAPES, is_leaf=is_shape) for _ in range(2))
NAMES = sorted(flatten(PARAMS))


def rate(name):
    return 1e-2 if "temporal" in name else 1e-3


@pytest.fixture(scope="module", params=OPTIMIZERS)
def updates(request):
    """(optimizer's name, updates of all parameters by name)."""
    optimizer = make_optimizer(request.param, rate, weight_decay=0.1)
    made, _ = jax.jit(optimizer.update)(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    return request.param, flatten(made)


def alone(optimizer, name):
    """What the optimizer does to one parameter."""
    value, gradient = flatten(PARAMS)[name], flatten(GRADIENTS)[name]
    decay = 0.1 if name.endswith(("kernel", "token_embedding")) else 0.0
    if optimizer == "muon" and is_muon_matrix(name, value):
        spec = {"w": MuonDimensionNumbers(tuple(range(value.ndim - 1)), (value.ndim - 1,))}
        one = muon(rate(name), consistent_rms=0.2, weight_decay=decay, muon_weight_dimension_numbers=lambda p: spec)
    else:
        one = optax.adamw(rate(name), b1=0.9, b2=0.99, eps=1e-8, weight_decay=decay)
    params = {"w": value}
    made, _ = one.update({"w": gradient / optax.tree.norm(GRADIENTS)}, one.init(params), params)
    return made["w"]


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_moves_as_alone(name, updates):
    optimizer, made = updates
    np.testing.assert_allclose(made[name], alone(optimizer, name), rtol=1e-3, atol=1e-7)


def test_updates_are_nested_as_the_parameters_are(updates):
    assert jax.tree.structure(unflatten(updates[1], PARAMS)) == jax.tree.structure(PARAMS)


def test_stacks_there_and_back():
    flat = flatten(PARAMS)
    stacks = plan_stacks(flat, is_muon_matrix)
    stacked = stacks.stack(flat)
    for name, value in stacks.unstack(stacked).items():
        np.testing.assert_array_equal(value, flat[name])
    assert {key: value.shape for key, value in stacked.items() if key in ("64x8", "160x64", "3000x4")} == {
        "64x8": (3, 64, 8), "160x64": (2, 160, 64), "3000x4": (1, 3000, 4)
    }  # fmt: skip
    rest = sum(value.size for name, value in flat.items() if not is_muon_matrix(name, value))
    assert stacked[REST].shape == (rest,)
    spread = stacks.spread(lambda place: float(len(place.name)))
    sizes = stacks.unstack({key: np.broadcast_to(value, stacked[key].shape) for key, value in spread.items()})
    for name, value in sizes.items():
        assert (value == len(name)).all() and value.shape == flat[name].shape


def test_muon_makes_matrices_nearly_orthogonal(updates):
    optimizer, made = updates
    if optimizer != "muon":
        pytest.skip("of Muon")
    values = np.linalg.svd(made["unet.b.kernel"] + 0.1 * rate("") * PARAMS["unet"]["b"]["kernel"], compute_uv=False)
    assert values.max() / values.min() < 2 < np.linalg.cond(np.asarray(GRADIENTS["unet"]["b"]["kernel"]))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer=lion: expected adamw or muon"):
        make_optimizer("lion", rate)


def test_schedule_rises_holds_and_falls_to_zero():
    share = schedule(4, 0.5)
    shares = [float(share(jnp.int32(step), jnp.int32(20))) for step in range(20)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0] and shares[4:10] == [1.0] * 6
    assert shares[10:] == pytest.approx([1.0 - i / 10 for i in range(10)])
    assert float(schedule(4, 0.0)(jnp.int32(19), jnp.int32(20))) == 1.0
