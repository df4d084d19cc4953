"""Guidance by frame and the conditions of SVD and SV3D."""

import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import (
    Guidance,
    Karras,
    convert_prediction,
    frame_guided_denoiser,
    frame_scales,
    guided_denoiser,
    stack_conditions,
)
from im3d_jax.diffusion import video_conditions as conditions


def test_scales_of_frames():
    np.testing.assert_allclose(frame_scales("constant", 3, 1, 2.5), [2.5, 2.5, 2.5])
    np.testing.assert_allclose(frame_scales("linear", 14, 1, 3), np.linspace(1, 3, 14), rtol=1e-6)
    triangle = frame_scales("triangle", 21, 1, 2.5)
    np.testing.assert_allclose(triangle[[0, 5, 10, 15, 20]], [1, 1.75, 2.5, 1.75, 1], rtol=1e-6)
    np.testing.assert_allclose(triangle, triangle[::-1], rtol=1e-6)
    # SV3D's wave of period 1 as Stability AI's guider states it.
    place = np.linspace(0, 1, 20)
    wave = 2 * np.abs(place - np.floor(place + 0.5))
    np.testing.assert_allclose(frame_scales("triangle", 20, 1, 2.5), 1 + 1.5 * wave, rtol=1e-6)
    assert frame_scales("linear", 1, 1, 3).tolist() == [1]


def network(bias):
    return lambda x, t, index: 0.5 * x + bias


def test_guidance_by_frame():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    image, none = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32), jnp.zeros((2, 4, 3))
    stacked, _ = stack_conditions(Guidance(image=2.0), image=image, no_image=none)
    process, t = Karras(), np.float32(0.4)
    constant = frame_guided_denoiser(network(stacked), frame_scales("constant", 4, 1, 2), process, "edm_v")
    expected = guided_denoiser(network(stacked), Guidance(image=2.0), process, "edm_v")
    np.testing.assert_allclose(constant(x, t, 0), expected(x, t, 0), rtol=1e-6)

    scales = frame_scales("linear", 4, 1, 3)
    found = frame_guided_denoiser(network(stacked), scales, process, "edm_v")(x, t, 0)
    for frame, scale in enumerate(scales):
        output = 0.5 * x[:, frame] + scale * image[:, frame]
        wanted = convert_prediction(output, x[:, frame], t, process, "edm_v", "x0")
        np.testing.assert_allclose(found[:, frame], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 guidance scales do not match samples of 4 frames"):
        frame_guided_denoiser(network(stacked), scales[:3], process, "edm_v")(x, t, 0)


def test_noised_condition():
    image, noise = jnp.full((1, 2, 2, 3), 0.5), jnp.ones((1, 2, 2, 3))
    np.testing.assert_allclose(conditions.augment_image(image, noise, 0.02), 0.51 * np.ones((1, 2, 2, 3)), rtol=1e-6)
    x, latent = jnp.ones((1, 3, 2, 2, 4)), jnp.full((1, 2, 2, 4), 7.0)
    both = conditions.concatenate_condition(x, latent)
    assert both.shape == (1, 3, 2, 2, 8)
    np.testing.assert_array_equal(both[..., :4], x)
    np.testing.assert_array_equal(both[:, :, ..., 4:], np.full((1, 3, 2, 2, 4), 7.0))


def test_scalar_conditions():
    np.testing.assert_allclose(conditions.svd_vector(2), [[6, 127, 0.02]] * 2, rtol=1e-6)
    np.testing.assert_allclose(conditions.sv3d_vector(3), [[1e-5]] * 3, rtol=1e-6)
    # As simple_video_sample.py states them, in degrees.
    elevations = np.linspace(-5, 30, 21)
    azimuths = np.linspace(0, 360, 22)[1:] % 360
    polar = [np.deg2rad(90 - e) for e in elevations]
    turned = [np.deg2rad((a - azimuths[-1]) % 360) for a in azimuths]
    found = conditions.sv3d_pose_vector(np.deg2rad(elevations)[None], np.deg2rad(azimuths + 77)[None])
    assert found.shape == (1, 21, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, :, 0], 1e-5, rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], polar, rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 2], turned, rtol=1e-5)
    np.testing.assert_allclose(conditions.sv3d_orbit(21), np.deg2rad(azimuths), atol=1e-12)


def test_place_of_the_given_view():
    orbit = jnp.arange(5)[None, :, None, None, None] * jnp.ones((1, 1, 2, 2, 3))
    first = lambda frames: np.asarray(frames)[0, :, 0, 0, 0].tolist()  # noqa: E731
    assert first(conditions.to_network_order(orbit, "last")) == [1, 2, 3, 4, 0]
    assert first(conditions.to_network_order(orbit, "first")) == [0, 1, 2, 3, 4]
    for given in ("first", "last"):
        there = conditions.to_network_order(orbit, given)
        np.testing.assert_array_equal(conditions.from_network_order(there, given), orbit)


def test_wrong_input_is_named(unchecked):
    with pytest.raises(ValueError, match="unknown guidance curve 'cosine'"):
        frame_scales("cosine", 3, 1, 2)
    image = jnp.ones((1, 2, 2, 3))
    with pytest.raises(ValueError, match="does not match"):
        conditions.augment_image(image, image[:, 0], 0.02)
    with pytest.raises(ValueError, match="a condition of shape .* does not match frames"):
        conditions.concatenate_condition(image[None], image[:, 0])
    with pytest.raises(ValueError, match=r"must be \[B, T\], got shape \(21,\)"):
        conditions.sv3d_pose_vector(np.zeros(21), np.zeros(21))
    with pytest.raises(ValueError, match="'middle', expected first or last"):
        conditions.to_network_order(image, "middle")
