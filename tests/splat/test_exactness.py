"""Exactness that golden images cannot show: finite differences, and independence of the input's order."""
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat


_path = pathlib.Path(__file__).with_name("reference.py")
_spec = importlib.util.spec_from_file_location("splat_reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

N, WIDTH, HEIGHT, CAPACITY = 70, 21, 27, 2048


def scene():
    rng = np.random.default_rng(7)
    means, quats, scales, opacities, _ = reference.torus(N, seed=7)
    logits, sh = np.log(opacities / (1 - opacities)), rng.normal(0, 0.3, (N, 4, 3))
    params = means, quats, np.log(scales), logits, sh
    return tuple(np.asarray(p, np.float32) for p in params)


CAMERAS = splat.orbit_cameras(0.35, views=1, fov=0.65, width=WIDTH, height=HEIGHT, azimuth_offset=0.4)


@jax.jit
def ours(weights, params, world_to_camera, intrinsics):
    def loss(*inputs):
        params, world_to_camera, intrinsics = inputs
        cameras = splat.Cameras(world_to_camera, intrinsics, WIDTH, HEIGHT)
        out = splat.render(splat.Gaussians(*params), cameras, background=0.5, capacity=CAPACITY)
        return jnp.sum(weights * jnp.concatenate([out.rgb, out.alpha[..., None]], axis=-1)), out

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, world_to_camera, intrinsics)


@jax.jit
def truth(params, world_to_camera, intrinsics):
    rgb, alpha, _, margin = reference.render_view(params, world_to_camera[0], intrinsics[0],
                                                  jnp.full(3, 0.5, params[0].dtype), WIDTH, HEIGHT)
    return jnp.concatenate([rgb, alpha[..., None]], axis=-1), margin


def test_gradients_against_finite_differences_in_float64():
    """Central differences of the dense float64 images along random directions, one kind of input at a time.

    Pixels within 2 % of a cut-off are left out, so that no step crosses one.
    """
    inputs = (scene(), np.asarray(CAMERAS.world_to_camera), np.asarray(CAMERAS.intrinsics))
    rng = np.random.default_rng(0)
    names = ["means", "quats", "log_scales", "opacity_logits", "sh", "world_to_camera", "intrinsics"]
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(jax.tree.map(lambda a: np.asarray(a, np.float64), inputs))
        _, margin = truth(*inputs_of(tree, leaves))
        clear = np.asarray(margin) > 0.02
        weights = rng.normal(size=(HEIGHT, WIDTH, 4)) * clear[..., None]
        expected, directions = {}, {}
        for place, name in enumerate(names):
            direction = rng.normal(size=leaves[place].shape)
            if place > 4:
                direction[:, 3 if name == "world_to_camera" else 2] = 0  # the constant last rows
            values = []
            for sign in (1, -1):
                moved = list(leaves)
                moved[place] = leaves[place] + sign * 1e-6 * direction
                values.append(float(np.sum(weights * np.asarray(truth(*inputs_of(tree, moved))[0]))))
            expected[name], directions[name] = (values[0] - values[1]) / 2e-6, direction
    assert clear.mean() > 0.6
    inputs = jax.tree.map(jnp.asarray, inputs)
    grads, out = ours(jnp.asarray(weights, jnp.float32)[None], *inputs)
    assert not bool(out.overflow)
    for name, grad in zip(names, jax.tree.leaves(grads), strict=True):
        grad = np.asarray(grad, np.float64)
        scale = np.linalg.norm(grad) * np.linalg.norm(directions[name]) / np.sqrt(grad.size)
        assert abs(np.sum(grad * directions[name]) - expected[name]) < 3e-5 * scale, name


def inputs_of(tree, leaves):
    return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in leaves])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_input_does_not_matter(seed):
    """Without depth ties nothing but rounding may change; gradients move with their rows."""
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.normal(size=(1, HEIGHT, WIDTH, 4)), jnp.float32)
    shuffle = rng.permutation(N)
    arguments = CAMERAS.world_to_camera, CAMERAS.intrinsics
    params = tuple(map(jnp.asarray, scene()))
    grads, out = ours(weights, params, *arguments)
    moved, moved_out = ours(weights, tuple(p[shuffle] for p in params), *arguments)
    assert len(np.unique(np.asarray(params[0] @ CAMERAS.world_to_camera[0, 2, :3]))) == N
    np.testing.assert_allclose(moved_out.rgb, out.rgb, atol=1e-6)
    np.testing.assert_allclose(moved_out.depth, out.depth, atol=2e-6)
    np.testing.assert_array_equal(moved_out.radii, out.radii[:, shuffle])
    for a, b in zip(moved[0], grads[0], strict=True):
        np.testing.assert_allclose(a, b[shuffle], atol=2e-6 * float(jnp.abs(b).max()))
    for a, b in zip(moved[1:], grads[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6 * float(jnp.abs(b).max()))
