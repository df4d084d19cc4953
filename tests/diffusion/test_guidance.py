"""Nested guidance: its identities, remedies, batching and the count of evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import (
    Cosine,
    Guidance,
    convert_prediction,
    guide,
    guided_denoiser,
    network_evaluations,
    rescale_guidance,
    stack_conditions,
)


@pytest.fixture(scope="module")
def parts():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4, 5)), jnp.float32)


def test_nested_formula(parts):
    nothing, image, both = parts
    found = guide(parts, (2.0, 7.5))
    np.testing.assert_allclose(found, nothing + 2.0 * (image - nothing) + 7.5 * (both - image), atol=1e-5)
    np.testing.assert_allclose(guide(parts, (1.0, 1.0)), both, atol=1e-6)
    np.testing.assert_array_equal(guide(parts, (0.0, 0.0)), nothing)
    np.testing.assert_allclose(guide(parts[:2], (3.0,)), nothing + 3.0 * (image - nothing), atol=1e-5)
    np.testing.assert_array_equal(guide(parts[:1], ()), nothing)
    np.testing.assert_array_equal(guide(jnp.moveaxis(parts, 0, 1), (2.0, 7.5), axis=1), found)
    assert guide(parts.astype(jnp.bfloat16), (2.0, 7.5)).dtype == jnp.bfloat16


def test_weights_per_frame(parts):
    """A scale for each frame, as SVD's linear curve over a video's second axis."""
    curve = jnp.linspace(1.0, 3.0, 4)
    found = guide(parts[:2], (curve[None, :, None],))
    for frame in range(4):
        np.testing.assert_allclose(found[:, frame], guide(parts[:2, :, frame], (float(curve[frame]),)), atol=1e-6)


def test_rescale(parts):
    guided, conditional = guide(parts, (4.0, 6.0)), parts[2]
    full = rescale_guidance(guided, conditional, 1.0)
    np.testing.assert_allclose(np.std(full, axis=(1, 2)), np.std(conditional, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(rescale_guidance(guided, conditional, 0.0), guided, rtol=1e-6)
    np.testing.assert_allclose(rescale_guidance(guided, conditional, 0.7), 0.7 * full + 0.3 * guided, atol=1e-5)
    flat = jnp.ones((2, 4, 5))
    np.testing.assert_array_equal(rescale_guidance(flat, conditional, 0.7), flat)


@pytest.mark.parametrize(
    "guidance, branches, weights",
    [
        (Guidance(), [(False, False)], ()),
        (Guidance(image=2.0), [(False, False), (True, False)], (2.0,)),
        (Guidance(prompt=3.0), [(False, False), (False, True)], (3.0,)),
        (Guidance(2.0, 3.0), [(False, False), (True, False), (True, True)], (2.0, 3.0)),
        (Guidance(1.0, 3.0), [(True, False), (True, True)], (3.0,)),
        (Guidance(3.0, 3.0), [(False, False), (True, True)], (3.0,)),
        (Guidance(1.0, 1.0), [(True, True)], ()),
        (Guidance(prompt=1.0), [(False, True)], ()),
    ],
)
def test_branches_and_evaluations(guidance, branches, weights):
    assert list(guidance.branches) == branches and guidance.weights == weights
    assert network_evaluations(guidance, 10) == 10 * len(branches)


def network_of(image, prompt):
    """A linear network whose branches are easy to tell apart; conditions are sample-major rows."""

    def network(x, t, index):
        assert image.shape[0] == prompt.shape[0] == x.shape[0]
        return (0.5 - t) * x + image[:, None] + 10 * prompt[:, None] + 0 * index

    return network


@pytest.mark.parametrize("scales", [(2.0, 3.0), (1.0, 3.0), (3.0, 3.0), (1.0, 1.0), (0.0, 2.0)])
def test_guided_denoiser_equals_separate_calls(scales):
    """One batched call, reduced branches included, gives what the formula gives branch by branch."""
    guidance = Guidance(*scales)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)), jnp.float32)
    image, prompt = jnp.array([1.0, 2.0, 3.0]), jnp.array([-1.0, 0.5, 4.0])
    none = jnp.zeros(3)
    stacked = stack_conditions(guidance, image=image, no_image=none, prompt=prompt, no_prompt=none)
    denoise = guided_denoiser(network_of(*stacked), guidance, Cosine(), "v")
    branches = [network_of(i, p)(x, 0.6, 0) for i, p in [(none, none), (image, none), (image, prompt)]]
    v = branches[0] + scales[0] * (branches[1] - branches[0]) + scales[1] * (branches[2] - branches[1])
    expected = convert_prediction(v, x, 0.6, Cosine(), "v", "x0")
    np.testing.assert_allclose(denoise(x, 0.6, 0), expected, atol=2e-5)


def test_one_call_per_step_inside_and_outside_the_interval():
    guidance = Guidance(image=4.0, interval=(0.2, 0.7))
    x = jnp.ones((2, 3))
    image, no_image = jnp.array([1.0, 2.0]), jnp.zeros(2)
    stacked, absent = stack_conditions(guidance, image=image, no_image=no_image)
    assert absent is None
    np.testing.assert_array_equal(stacked, [0, 1, 0, 2])
    calls = []

    def network(x, t, index):
        calls.append(x.shape)
        return stacked[:, None] * jnp.ones_like(x)

    denoise = jax.jit(guided_denoiser(network, guidance, Cosine(), "x0"))
    for t, scale in [(0.9, 1.0), (0.7, 4.0), (0.45, 4.0), (0.1, 1.0)]:
        np.testing.assert_allclose(denoise(x, jnp.float32(t), 0), scale * image[:, None] * x, rtol=1e-6)
    assert calls == [(4, 3)]


def test_rescale_in_the_denoiser():
    guidance = Guidance(image=5.0, rescale=1.0)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 50)), jnp.float32)
    scale = stack_conditions(guidance, image=jnp.full(2, 1.0), no_image=jnp.zeros(2))[0]
    denoise = guided_denoiser(lambda x, t, i: scale[:, None] * x, guidance, Cosine(), "x0")
    np.testing.assert_allclose(denoise(x, 0.5, 0), x, atol=1e-5)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Guidance(image=float("inf")), "image guidance scale"),
        (lambda: Guidance(prompt=2.0, rescale=1.5), "rescale must lie in"),
        (lambda: Guidance(prompt=2.0, interval=(0.8, 0.2)), "interval"),
        (lambda: guide(jnp.zeros((3, 2)), (2.0,)), "need 2 branches, got 3"),
    ],
)
def test_wrong_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
