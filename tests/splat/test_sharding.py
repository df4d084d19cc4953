"""Sharded rendering against one device; run as a script it is the part that needs eight fake devices."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, AxisType, Mesh

import splat


COUNT, VIEWS, SIZE, CAPACITY = 40, 8, 16, 1024


def scene():
    """Gaussians (one of them NaN, one inactive, one with a NaN feature), cameras and every array option."""
    rng = np.random.default_rng(0)

    def normal(scale, *shape):
        return np.float32(scale * rng.normal(size=shape))

    # Built with numpy: every jnp operation outside jit is a compilation of its own.
    means, features = normal(0.4, COUNT, 3), normal(1.0, VIEWS, COUNT, 2)
    means[7, 1] = np.nan
    # In one view, hence on one device: the gaussian must be left out on all of them.
    features[5, 11, 0] = np.nan
    gaussians = splat.Gaussians(
        means,
        normal(1.0, COUNT, 4),
        normal(0.4, COUNT, 3) - np.float32(1.8),
        normal(1.5, COUNT),
        normal(0.3, COUNT, 4, 3),
    )
    rig = jax.jit(lambda elevation: splat.orbit_cameras(elevation, views=VIEWS, width=SIZE, height=SIZE))
    arrays = {
        "background": np.float32(rng.uniform(size=(VIEWS, 3))),
        "mean2d_offset": normal(0.1, VIEWS, COUNT, 2),
        "absolute_offset": np.zeros((VIEWS, COUNT, 2), np.float32),
        "features": features,
    }
    return gaussians, jax.device_get(rig(np.linspace(-0.4, 0.6, VIEWS))), arrays, np.arange(COUNT) != 3


def make_step(draw, capacity):
    """Jitted: gradients of a weighted sum of all images to gaussians, cameras and arrays, and the images."""

    def loss(parts, active, weights):
        gaussians, cameras, arrays = parts
        options = splat.RenderOptions(median_depth=True, normals=True)
        out = draw(gaussians, cameras, active=active, capacity=capacity, options=options, **arrays)
        planes = [out.alpha[..., None], out.depth[..., None], out.median_depth[..., None]]
        images = jnp.concatenate([out.rgb, *planes, out.normals, out.features], axis=-1)
        return jnp.sum(images * weights), out

    return jax.jit(jax.grad(loss, has_aux=True))


def assert_close(got, wanted, atol):
    """All leaves agree to `atol` of their largest number."""
    for (path, leaf), other in zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(got), strict=True):
        leaf, other = np.asarray(leaf), np.asarray(other)
        scale = max(1.0, float(np.abs(leaf).max()))
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(other, leaf, atol=atol * scale, rtol=0, err_msg=name)


def compare_with_one_device():
    """Run in a process with eight devices: images, counts and gradients of both modes, and what they lower to."""
    assert len(jax.devices()) == 8, jax.devices()
    gaussians, cameras, arrays, active = scene()
    parts = gaussians, cameras, arrays
    weights = np.float32(np.random.default_rng(1).normal(size=(VIEWS, SIZE, SIZE, 11)))
    wanted, images = make_step(splat.render, CAPACITY)(parts, active, weights)
    assert int(images.invalid) == 2 and not images.overflow and float(np.mean(images.alpha)) > 0.05
    for path, leaf in jax.tree.leaves_with_path(wanted):
        assert float(np.abs(leaf).max()) > 1e-3, jax.tree_util.keystr(path)

    # Pairs add up over views; the gaussian ignored for its features counts like an inactive one.
    offset_free = {**arrays, "mean2d_offset": np.zeros_like(arrays["mean2d_offset"])}
    counted = active & (np.arange(COUNT) != 11)
    of_view = np.array([splat.count_pairs(gaussians, cameras[i : i + 1], active=counted) for i in range(VIEWS)])
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    for axis, split in (("data", False), (("data", "fsdp"), True)):
        devices = 8 if split else 4
        most = int(of_view.reshape(devices, -1).sum(axis=1).max())
        capacity = most + 32
        assert capacity < of_view.sum(), "the room must not suffice for all views on one device"
        draw = functools.partial(splat.render_sharded, mesh=mesh, axis=axis, split_gaussians=split)
        step = make_step(draw, capacity)
        with jax.set_mesh(mesh):
            got, sharded = step(parts, active, weights)
            _, still = step((gaussians, cameras, offset_free), active, weights)
        assert int(still.pairs) == most and not sharded.overflow and sharded.capacity == capacity
        assert_close(sharded.replace(pairs=0, capacity=0), images.replace(pairs=0, capacity=0), 2e-6)
        assert_close(got, wanted, 1e-5)
        assert sharded.rgb.sharding.spec[0] == axis, sharded.rgb.sharding
        assert got[0].means.sharding.is_fully_replicated != split, got[0].means.sharding
        exported = export.export(step, platforms=("tpu", "cuda", "cpu"))(parts, active, weights)
        assert exported.nr_devices == 8 and exported.platforms == ("tpu", "cuda", "cpu")
        assert ("all_to_all" in exported.mlir_module()) == split
        print(f"{axis} equal: {most} pairs on one of {devices} devices, {of_view.sum()} in all")


@pytest.mark.slow
def test_eight_devices_equal_one():
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal:") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": "views"}, r"axis 'views'.*\('data', 'fsdp'\)"),
        ({"axis": ()}, "expected one or several"),
        ({"axis": ("data", "fsdp")}, "8 views do not split over 6 devices"),
        ({"mesh": AbstractMesh((2,), ("fsdp",), axis_types=(AxisType.Explicit,))}, "expected Auto axes"),
        ({"gaussians": 39}, "39 gaussians do not split over 2 devices.*pad them"),
        ({"background": np.zeros((VIEWS // 2, 3))}, "background has shape"),
        ({"scenes": True}, r"one scene.*\(1,\)"),
    ],
)
def test_what_does_not_split(change, message):
    gaussians, cameras, _, _ = scene()
    mesh = AbstractMesh((3, 2), ("data", "fsdp"))
    options = {"mesh": mesh, "axis": "fsdp", "split_gaussians": True, "capacity": 64} | change
    count = options.pop("gaussians", COUNT)
    gaussians = jax.tree.map(lambda leaf: leaf[:count], gaussians)
    if options.pop("scenes", False):
        gaussians = jax.tree.map(lambda leaf: leaf[None], gaussians)
    with pytest.raises(ValueError, match=message):
        splat.render_sharded(gaussians, cameras, **options)


def test_empty_and_overflowing_scenes():
    """No gaussians leave nothing to exchange; outside jit a lack of room is told with the number it takes."""
    gaussians, cameras, _, active = scene()
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    empty = jax.tree.map(lambda leaf: leaf[:0], gaussians)
    out = splat.render_sharded(empty, cameras, mesh, capacity=8, split_gaussians=True, background=0.25)
    assert float(jnp.abs(out.rgb - 0.25).max()) == 0.0 and int(out.pairs) == 0
    gaussians = gaussians.replace(means=np.nan_to_num(gaussians.means))
    with pytest.warns(UserWarning, match="incomplete: .* room for 300"):
        out = splat.render_sharded(gaussians, cameras, mesh, capacity=300, active=active)
    assert out.overflow and int(out.pairs) == splat.count_pairs(gaussians, cameras, active=active) > 300


@pytest.mark.parametrize("alone", ["gaussians", "cameras", "neither"])
def test_scenes_stay_in_front_of_the_split_views(alone):
    """Two scenes on four devices: only views can be split, whoever brings the leading axis."""
    gaussians, cameras, arrays, _ = scene()
    two = functools.partial(jax.tree.map, lambda leaf: np.stack([leaf, leaf]))
    arrays = two(arrays) | {"capacity": CAPACITY, "mesh": AbstractMesh((4,), ("data",))}
    gaussians, cameras = (
        gaussians if alone == "gaussians" else two(gaussians),
        cameras if alone == "cameras" else two(cameras),
    )
    out = jax.eval_shape(lambda g, c: splat.render_sharded(g, c, **arrays), gaussians, cameras)
    assert out.rgb.shape == (2, VIEWS, SIZE, SIZE, 3) and out.radii.shape == (2, VIEWS, COUNT, 2)
    assert out.features.shape == (2, VIEWS, SIZE, SIZE, 2) and out.pairs.shape == out.invalid.shape == ()


if __name__ == "__main__":
    compare_with_one_device()
