"""Muon on stacked matrices does what it does on each alone; the rest gets AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon

from im3d_jax.training.optimizers import is_matrix, muon_with_adamw, stacked


RNG = np.random.default_rng(0)
SHAPES = {
    "unet.a.kernel": (3, 3, 4, 8),
    "unet.b.kernel": (36, 8),
    "unet.c.temporal_conv.kernel": (36, 8),
    "unet.n.scale": (8,),
    "unet.conv_in.kernel": (3, 3, 2, 4),
}
PARAMS = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
GRADIENTS = {name: jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
RATES = {"temporal": 1e-2, "spatial": 1e-3}


def group(name):
    return "temporal" if "temporal" in name else "spatial"


@pytest.fixture(scope="module")
def updates():
    rates = {name: optax.constant_schedule(rate) for name, rate in RATES.items()}
    optimizer = muon_with_adamw(rates, group, weight_decay=0.1)
    return jax.jit(optimizer.update)(GRADIENTS, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("name", [name for name in SHAPES if is_matrix(name, PARAMS[name])])
def test_a_matrix_of_a_stack_moves_as_alone(name, updates):
    axes = len(SHAPES[name]) - 1
    numbers = MuonDimensionNumbers(tuple(range(axes)), (axes,))
    alone = muon(
        RATES[group(name)], consistent_rms=0.2, weight_decay=0.1, muon_weight_dimension_numbers=lambda p: {"w": numbers}
    )
    params = {"w": PARAMS[name]}
    expected, _ = alone.update({"w": GRADIENTS[name]}, alone.init(params), params)
    np.testing.assert_allclose(updates[name], expected["w"], rtol=1e-4, atol=1e-7)


def test_updates_of_matrices_are_nearly_orthogonal(updates):
    made = np.asarray(updates["unet.c.temporal_conv.kernel"] + 1e-2 * 0.1 * PARAMS["unet.c.temporal_conv.kernel"])
    values = np.linalg.svd(made, compute_uv=False)
    assert values.max() / values.min() < 2.5
    assert np.linalg.cond(np.asarray(GRADIENTS["unet.c.temporal_conv.kernel"])) > 2.5


def test_ends_and_norms_are_no_matrices(updates):
    """Adam's first step is the rate for every entry, which no orthogonal matrix of this shape is."""
    for name in ("unet.n.scale", "unet.conv_in.kernel"):
        assert not is_matrix(name, PARAMS[name])
        np.testing.assert_allclose(np.abs(updates[name]), np.abs(updates[name]).mean(), rtol=1e-3)
    assert set(updates) == set(SHAPES)


def test_stacking_is_a_change_of_layout_only():
    """Stacks of a transformation that treats entries alike change nothing."""
    plain, wrapped = optax.adam(1e-2), stacked(optax.adam(1e-2), group, is_matrix)
    a, _ = plain.update(GRADIENTS, plain.init(PARAMS), PARAMS)
    b, state = wrapped.update(GRADIENTS, wrapped.init(PARAMS), PARAMS)
    for name in SHAPES:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-6)
    assert any(leaf.shape == (2, 36, 8) for leaf in jax.tree.leaves(state))
