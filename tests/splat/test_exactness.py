"""Exactness that golden images cannot show: finite differences, and independence of the input's order."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from splat.binning import build_bins
from splat.options import RenderOptions, resolve
from splat.projection import project
from splat.tiles import TileGrid


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
    rgb, alpha, _, margin = reference.render_view(
        params, world_to_camera[0], intrinsics[0], jnp.full(3, 0.5, params[0].dtype), WIDTH, HEIGHT
    )
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


def shapes(kind):
    """Gaussians of one kind, N of them: a surface, wide ones, or needles across the whole image."""
    params = scene()
    rng = np.random.default_rng(3)
    log_scales = {
        "torus": params[2],
        "wide": rng.normal(-0.5, 0.8, (N, 3)),
        "needles": np.stack([rng.uniform(-1, 2, N), np.full(N, -7.0), np.full(N, -7.0)], -1),
    }[kind]
    logits = rng.uniform(-6.0, 5.0, N) if kind != "torus" else params[3]
    means = rng.uniform(-1.2, 1.2, (N, 3)) if kind != "torus" else params[0]
    fields = means, params[1], log_scales, logits, params[4]
    return splat.Gaussians(*(jnp.asarray(field, jnp.float32) for field in fields))


EXACT_CAMERAS = splat.orbit_cameras(0.35, views=2, fov=0.6, width=61, height=43)


@jax.jit
def lists_of(gaussians):
    """Projected gaussians and the bins with and without the exact test."""
    projected = project(gaussians, EXACT_CAMERAS)
    sizes = {"tile_size": 8, "block_size": 4, "slab": 8}
    options = [resolve(RenderOptions(exact_tiles=exact, **sizes)) for exact in (False, True)]
    grids = [TileGrid(2, 61, 43, 16384, each) for each in options]
    bins = [build_bins(projected, grid) for grid in grids]
    return projected, [(tiles_of(b, grid), b) for b, grid in zip(bins, grids, strict=True)]


def tiles_of(bins, grid):
    """Tile of each pair in sorted order, -1 behind the last."""
    blocks = bins.blocks
    slot = jnp.arange(grid.capacity)
    number = jnp.searchsorted(jnp.where(blocks.count > 0, blocks.start, grid.capacity), slot, side="right") - 1
    return jnp.where(slot < bins.pairs, blocks.tile[number], -1)


@pytest.mark.parametrize("kind", ["torus", "wide", "needles"])
def test_exact_tiles_drop_only_pairs_that_add_nothing(kind):
    """Same order, same runs; in a dropped tile no pixel's alpha reaches 1/255, computed as the kernels do."""
    projected, ((all_tiles, every), (tiles, exact)) = lists_of(shapes(kind))
    assert int(exact.pairs) < int(every.pairs) < 16384
    pairs = []
    for tile, bins in ((all_tiles, every), (tiles, exact)):
        both = np.stack([np.asarray(tile), np.asarray(bins.splat_of_pair)], -1)[: int(bins.pairs)]
        pairs.append([tuple(pair) for pair in both.tolist()])
    kept = set(pairs[1])
    assert len(kept) == len(pairs[1]) and [pair for pair in pairs[0] if pair in kept] == pairs[1]
    counts = np.bincount([row for _, row in pairs[1]], minlength=2 * N)
    np.testing.assert_array_equal(exact.run_count, counts)
    order = np.argsort(np.asarray(exact.run_start)[counts > 0])
    np.testing.assert_array_equal(
        np.asarray(exact.run_start)[counts > 0][order], np.concatenate([[0], np.cumsum(counts[counts > 0][order])[:-1]])
    )
    dropped = np.array([pair for pair in pairs[0] if pair not in kept])
    mean, conic = (np.asarray(a).reshape(2 * N, -1)[dropped[:, 1]] for a in (projected.means, projected.conics))
    opacity = np.asarray(projected.opacities).reshape(-1)[dropped[:, 1]]
    within = dropped[:, 0] % (8 * 6)
    y, x = np.mgrid[:8, :8].reshape(2, 1, 64).astype(np.float32) + np.float32(0.5)
    x, y = x + 8 * (within % 8)[:, None], y + 8 * (within // 8)[:, None]
    dx, dy = (x - mean[:, :1]).astype(np.float32), (y - mean[:, 1:]).astype(np.float32)
    sigma = 0.5 * (conic[:, :1] * dx * dx + conic[:, 2:] * dy * dy) + conic[:, 1:2] * dx * dy
    alpha = np.where((x < 61) & (y < 43) & (sigma >= 0), opacity[:, None] * np.exp(-sigma), 0)
    assert alpha.max() < 1 / 255


def test_exact_tiles_give_the_same_image_and_gradients():
    gaussians = shapes("wide")

    @functools.partial(jax.jit, static_argnums=1)
    def run(gaussians, exact):
        def loss(gaussians):
            out = splat.render(gaussians, EXACT_CAMERAS, capacity=16384, options=RenderOptions(exact_tiles=exact))
            return jnp.sum(out.rgb * jnp.arange(3.0)[None, None, None]) + jnp.sum(out.depth), out

        return jax.grad(loss, has_aux=True)(gaussians)

    (plain, plain_out), (ours, out) = (run(gaussians, exact) for exact in (False, True))
    np.testing.assert_allclose(out.rgb, plain_out.rgb, atol=2e-6)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    need = splat.count_pairs(gaussians, EXACT_CAMERAS, options=RenderOptions(exact_tiles=True))
    assert need == int(out.pairs) < int(plain_out.pairs)


def test_exact_tiles_overflow_is_reported():
    """Where pairs do not fit, and where not even the rows of tiles do."""
    options = RenderOptions(exact_tiles=True)
    for capacity in (150, 20):
        with pytest.warns(UserWarning, match=f"room for {capacity}"):
            out = splat.render(shapes("wide"), EXACT_CAMERAS, capacity=capacity, options=options)
        assert bool(out.overflow) and np.all(np.isfinite(out.rgb))
