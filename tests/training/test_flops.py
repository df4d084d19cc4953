"""Arithmetic of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.training.flops import step_tflop


@pytest.fixture(scope="module")
def linear():
    """A loss of two products, [64, 128] and [128, 32], and its parameters."""

    def objective(params, batch, keys):
        hidden = batch["x"] @ params["first"]
        return jnp.sum(hidden @ params["second"], -1), {}

    params = {"first": np.zeros((64, 128), np.float32), "second": np.zeros((128, 32), np.float32)}
    return objective, params, {"x": np.zeros(64, np.float32)}


@pytest.mark.parametrize("trained", ["all", "second", "none"])
def test_two_products(linear, trained):
    """Forward, the same for activations, and the trained share of it for parameters (2 x 64 x 128 + 2 x 128 x 32)."""
    objective, params, example = linear
    rule = {"all": lambda name: True, "second": lambda name: name == "second", "none": lambda name: False}[trained]
    share = {"all": 1.0, "second": 128 * 32 / (64 * 128 + 128 * 32), "none": 0.0}[trained]
    found = step_tflop(objective, params, example, rule)
    assert found == pytest.approx((2 + share) * 2 * 128 * (64 + 32) / 1e12, rel=0.02)


def test_shapes_are_enough(linear):
    objective, params, example = linear
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert step_tflop(objective, shapes, example, lambda name: True) == step_tflop(
        objective, params, example, lambda name: True
    )
