"""Parity with gsplat 1.5.3: its CPU torch functions in float64, composited densely where it needs CUDA."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from splat.binning import build_bins
from splat.options import RenderOptions, resolve
from splat.projection import project
from splat.tiles import TileGrid, tile_ranges


torch = pytest.importorskip("torch")
gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
pytestmark = pytest.mark.parity

_path = pathlib.Path(__file__).with_name("reference.py")
_spec = importlib.util.spec_from_file_location("splat_reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

N, VIEWS, WIDTH, HEIGHT = 80, 2, 37, 29


def scene(kind="torus"):
    """Float32 means, quats, log_scales, logits, sh and cameras."""
    rng = np.random.default_rng(4)
    means, quats, scales, opacities, _ = reference.torus(N, seed=4)
    log_scales, logits = np.log(scales), np.log(opacities / (1 - opacities))
    distance = 3.44
    if kind == "inside":  # cameras among the gaussians: some behind, some beyond the clamp of the Jacobian
        means, distance = rng.uniform(-1.5, 1.5, (N, 3)), 1.0
        log_scales = rng.normal(math.log(0.08), 0.5, (N, 3))
    params = (means, quats, log_scales, logits, rng.normal(0, 0.2, (N, 16, 3)))
    cameras = splat.orbit_cameras(0.3, views=VIEWS, distance=distance, fov=0.7, width=WIDTH, height=HEIGHT)
    return tuple(np.asarray(p, np.float32) for p in params), cameras


def wide(array, grad=False):
    return torch.tensor(np.asarray(array, np.float64), requires_grad=grad)


def project_by_gsplat(params, viewmats, intrinsics, model="pinhole", compensate=False):
    means, quats, log_scales = params[:3]
    covariances = gsplat._quat_scale_to_covar_preci(quats, torch.exp(log_scales), compute_preci=False)[0]
    return gsplat._fully_fused_projection(
        means, covariances, viewmats, intrinsics, WIDTH, HEIGHT, calc_compensations=compensate, camera_model=model
    )


@pytest.mark.parametrize("kind", ["torus", "inside"])
def test_projection(kind):
    params, cameras = scene(kind)
    ours = project(splat.Gaussians(*map(jnp.asarray, params)), cameras)
    viewmats, intrinsics = wide(cameras.world_to_camera), wide(cameras.intrinsics)
    radii, means, depths, conics, _ = project_by_gsplat(list(map(wide, params)), viewmats, intrinsics)
    seen = np.asarray(ours.extents[..., 0]) > 0
    in_front = depths.numpy() > 0.01
    assert np.array_equal(seen, in_front & (np.asarray(ours.opacities) >= 1 / 255))
    assert kind == "torus" or 0.3 < seen.mean() < 0.9
    scale = 1 + np.abs(means.numpy()[seen]).max(axis=-1, keepdims=True)
    assert np.max(np.abs(np.asarray(ours.means)[seen] - means.numpy()[seen]) / scale) < 5e-6
    np.testing.assert_allclose(np.asarray(ours.depths)[seen], depths.numpy()[seen], rtol=2e-6, atol=1e-6)
    largest = np.abs(conics.numpy()[seen]).max(axis=-1, keepdims=True)
    assert np.max(np.abs(np.asarray(ours.conics)[seen] - conics.numpy()[seen]) / largest) < 2e-5
    drawn = (np.asarray(ours.extents) <= radii.numpy() + 1e-2).all(-1) | (radii.numpy() == 0).all(-1)
    assert drawn[seen].all()


def composite_densely(means, conics, depths, opacities, colors, background):
    """One view: rgb [H, W, 3], alpha and the relative distance of any decision from its threshold."""
    order = torch.argsort(depths, stable=True)
    order = order[depths[order] > 0.01]
    means, conics, opacities, colors = means[order], conics[order], opacities[order], colors[order]
    row, column = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    dx, dy = column.reshape(-1, 1) - means[None, :, 0], row.reshape(-1, 1) - means[None, :, 1]
    sigma = 0.5 * (conics[:, 0] * dx**2 + conics[:, 2] * dy**2) + conics[:, 1] * dx * dy
    raw = opacities * torch.exp(-sigma)
    alpha = torch.where(raw >= 1 / 255, torch.clamp(raw, max=0.999), 0.0)
    after = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    kept = after > 1e-4
    weight = torch.where(kept, alpha * before, 0.0)
    left = torch.prod(torch.where(kept, 1 - alpha, 1.0), dim=1)
    rgb = weight @ colors + left[:, None] * background
    gaps = torch.minimum((raw * 255 - 1).abs(), (raw / 0.999 - 1).abs()).amin(1)
    gaps = torch.minimum(gaps, (after / 1e-4 - 1).abs().amin(1))
    size = HEIGHT, WIDTH
    return rgb.reshape(*size, 3), (1 - left).reshape(size), gaps.reshape(size).detach()


@jax.jit
def our_gradients(weights, params, world_to_camera, intrinsics):
    def loss(params, world_to_camera, intrinsics):
        cameras = splat.Cameras(world_to_camera, intrinsics, WIDTH, HEIGHT)
        out = splat.render(splat.Gaussians(*params), cameras, background=0.3, capacity=4096)
        return jnp.sum(weights[0] * out.rgb) + jnp.sum(weights[1] * out.alpha), out

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, world_to_camera, intrinsics)


@pytest.mark.parametrize("kind", ["torus", "inside"])
def test_images_and_gradients(kind):
    """Projection and harmonics are gsplat's own, autograd is torch's; pose and intrinsics included."""
    params, cameras = scene(kind)
    leaves = [wide(p, grad=True) for p in params]
    viewmats, intrinsics = wide(cameras.world_to_camera, True), wide(cameras.intrinsics, True)
    _, means, depths, conics, _ = project_by_gsplat(leaves, viewmats, intrinsics)
    centres = torch.linalg.inv(viewmats)[:, :3, 3]
    directions = leaves[0][None] - centres[:, None]
    coefficients = leaves[4][None].expand(VIEWS, -1, -1, -1)
    colors = torch.clamp(gsplat._spherical_harmonics(3, directions, coefficients) + 0.5, min=0)
    views = [
        composite_densely(means[v], conics[v], depths[v], torch.sigmoid(leaves[3]), colors[v], 0.3)
        for v in range(VIEWS)
    ]
    rgb, alpha, gaps = (torch.stack(images) for images in zip(*views, strict=True))
    clear = (gaps > 1e-6).numpy()
    assert clear.mean() > 0.98
    rng = np.random.default_rng(0)
    weights = rng.normal(size=rgb.shape) * clear[..., None], rng.normal(size=alpha.shape) * clear
    ((rgb * wide(weights[0])).sum() + (alpha * wide(weights[1])).sum()).backward()

    grads, out = our_gradients(
        tuple(jnp.asarray(w, jnp.float32) for w in weights),
        tuple(map(jnp.asarray, params)),
        cameras.world_to_camera,
        cameras.intrinsics,
    )
    assert not bool(out.overflow)
    np.testing.assert_allclose(np.asarray(out.rgb)[clear], rgb.detach().numpy()[clear], atol=3e-6)
    np.testing.assert_allclose(np.asarray(out.alpha)[clear], alpha.detach().numpy()[clear], atol=3e-6)
    names = ["means", "quats", "log_scales", "opacity_logits", "sh", "world_to_camera", "intrinsics"]
    theirs = [leaf.grad.numpy() for leaf in (*leaves, viewmats, intrinsics)]
    for name, ours, truth in zip(names, jax.tree.leaves(grads), theirs, strict=True):
        if name == "world_to_camera":  # the constant last row is read by their inverse only
            ours, truth = ours[:, :3], truth[:, :3]
        if name == "intrinsics":  # they read a skew, which no camera of ours has
            ours, truth = (np.asarray(k)[:, [0, 1, 0, 1], [0, 1, 2, 2]] for k in (ours, truth))
        scale = np.abs(truth).max()
        assert scale > 0, name
        np.testing.assert_allclose(np.asarray(ours) / scale, truth / scale, atol=3e-5, rtol=0, err_msg=name)


def our_lists(projected, grid):
    """For each tile the rows v * N + n in its list, near to far."""
    bins = build_bins(projected, grid)
    firsts, counts, tiles = (np.asarray(a) for a in (bins.blocks.start, bins.blocks.count, bins.blocks.tile))
    lists = [[] for _ in range(grid.tiles)]
    rows = np.asarray(bins.splat_of_pair)
    for first, count, tile in zip(firsts, counts, tiles, strict=True):
        lists[tile] += rows[first : first + count].tolist()
    assert sum(map(len, lists)) == int(bins.pairs) <= grid.capacity
    return lists


@pytest.mark.parametrize("tile", [8, 16])
@pytest.mark.parametrize("kind", ["torus", "inside"])
def test_tile_lists_are_a_subset_in_the_same_order(kind, tile):
    """What gsplat lists and we do not has alpha < 1/255 in every pixel of the tile."""
    params, cameras = scene(kind)
    projected = project(splat.Gaussians(*map(jnp.asarray, params)), cameras)
    options = resolve(RenderOptions(tile_size=tile, block_size=4, slab=8))
    grid = TileGrid(VIEWS, WIDTH, HEIGHT, 8192, options)
    ours = our_lists(projected, grid)
    means, conics, depths = (torch.tensor(np.asarray(a)) for a in (projected.means, projected.conics, projected.depths))
    radii = project_by_gsplat(list(map(wide, params)), wide(cameras.world_to_camera), wide(cameras.intrinsics))[0]
    # gsplat's torch rectangle is of integer radii; the depth order is ours, bit for bit.
    _, keys, rows = gsplat._isect_tiles(means, radii, depths, tile, grid.columns, grid.rows)
    offsets = gsplat._isect_offset_encode(keys, VIEWS, grid.columns, grid.rows).flatten().tolist()
    rows = rows.tolist()
    theirs = [rows[a:b] for a, b in zip(offsets, offsets[1:] + [len(rows)], strict=True)]
    assert sum(map(len, theirs)) > sum(map(len, ours)) > 60
    assert int(jnp.sum(jnp.prod(tile_ranges(projected, grid)[2], axis=-1))) == sum(map(len, ours))
    flat = [np.asarray(a, np.float64).reshape(VIEWS * N, -1) for a in (means, conics, projected.opacities)]
    for number, (mine, all_of_them) in enumerate(zip(ours, theirs, strict=True)):
        kept = set(mine)
        assert [row for row in all_of_them if row in kept] == mine
        dropped = [row for row in all_of_them if row not in kept]
        if not dropped:
            continue
        first_row, first_column = np.unravel_index(number % (grid.rows * grid.columns), (grid.rows, grid.columns))
        y, x = np.mgrid[:tile, :tile] + 0.5
        dx = x.ravel()[None] + first_column * tile - flat[0][dropped, :1]
        dy = y.ravel()[None] + first_row * tile - flat[0][dropped, 1:]
        inside = ((x + first_column * tile < WIDTH) & (y + first_row * tile < HEIGHT)).ravel()
        conic = flat[1][dropped]
        sigma = 0.5 * (conic[:, :1] * dx**2 + conic[:, 2:] * dy**2) + conic[:, 1:2] * dx * dy
        alpha = flat[2][dropped] * np.exp(-sigma)
        assert np.all(alpha[:, inside] < 1 / 255)
