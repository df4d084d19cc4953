"""Camera models: image points against OpenCV's published formulas, Jacobians against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from splat import lenses, projection


image_points = jax.jit(lenses.image_points)
project = jax.jit(projection.project, static_argnames="antialiased")
LENSES = {
    "none": ("pinhole", None),
    "barrel": ("pinhole", [-0.25, 0.08, 0.003, -0.002, -0.01]),
    "rational": ("pinhole", [0.4, -0.2, 0.001, 0.002, 0.02, 0.6, -0.1, 0.03]),
    "fisheye": ("fisheye", None),
    "bent fisheye": ("fisheye", [-0.03, 0.01, -0.004, 0.0006]),
    "orthographic": ("orthographic", None),
}
K = np.array([[40.0, 0, 21.0], [0, 38.0, 17.0], [0, 0, 1]])


def cameras(name, views=1, dtype=jnp.float32):
    model, distortion = LENSES[name]
    pose = jnp.asarray(np.tile(np.eye(4), (views, 1, 1)), dtype)
    if distortion is not None:
        distortion = jnp.tile(jnp.asarray(distortion, dtype)[None], (views, 1))
    return splat.Cameras(pose, jnp.asarray(np.tile(K, (views, 1, 1)), dtype), 40, 36, distortion, model)


def pixel(name, x, y, z):
    """The formulas of OpenCV's manual (calib3d; fisheye), numpy float64: [..., 2]."""
    model, k = LENSES[name]
    k = np.concatenate([k or [], np.zeros(8)])
    if model == "orthographic":
        u, v = x, y
    elif model == "fisheye":
        a, b = x / z, y / z
        r = np.hypot(a, b)
        theta = np.arctan(r)
        bent = theta * (1 + k[0] * theta**2 + k[1] * theta**4 + k[2] * theta**6 + k[3] * theta**8)
        stretch = np.where(r == 0, 1.0, bent / np.where(r == 0, 1.0, r))
        u, v = stretch * a, stretch * b
    else:
        a, b = x / z, y / z
        q = a * a + b * b
        radial = (1 + k[0] * q + k[1] * q**2 + k[4] * q**3) / (1 + k[5] * q + k[6] * q**2 + k[7] * q**3)
        u = a * radial + 2 * k[2] * a * b + k[3] * (q + 2 * a * a)
        v = b * radial + k[2] * (q + 2 * b * b) + 2 * k[3] * a * b
    return np.stack([K[0, 0] * u + K[0, 2], K[1, 1] * v + K[1, 2]], axis=-1)


def points():
    rng = np.random.default_rng(0)
    z = rng.uniform(0.5, 3, 40)
    x, y = rng.uniform(-0.45, 0.45, (2, 40)) * z
    x[:3], y[:3] = [0.0, 1e-5, 1e-3], [0.0, -1e-5, 0.0]  # on the axis and beside it
    return x, y, z


@pytest.mark.parametrize("name", LENSES)
def test_image_points_and_jacobians(name):
    x, y, z = points()
    out = image_points(cameras(name), *(jnp.asarray(a[None], jnp.float32) for a in (x, y, z)))
    assert np.asarray(out.seen).all()
    expected = pixel(name, x, y, z)
    np.testing.assert_allclose(np.stack([out.u[0], out.v[0]], -1), expected, atol=1e-4)
    step = 1e-5
    for axis, (row_u, row_v) in enumerate(zip(out.row_u, out.row_v, strict=True)):
        shift = np.eye(3)[axis][:, None] * step
        ahead, behind = (pixel(name, *(np.stack([x, y, z]) + s * shift)) for s in (1, -1))
        slope = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(np.stack([row_u[0], row_v[0]], -1), slope, atol=3e-3 if name != "none" else 1e-3)


def scene(n=12, seed=0):
    rng = np.random.default_rng(seed)
    fields = (
        rng.uniform([-0.6, -0.6, 1.5], [0.6, 0.6, 3.0], (n, 3)),
        rng.normal(size=(n, 4)),
        rng.normal(-2.5, 0.4, (n, 3)),
        rng.normal(1, 1, n),
        rng.normal(size=(n, 4, 3)),
    )
    return splat.Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields))


def test_no_distortion_is_the_pinhole():
    """Far outside the image too, where the Jacobian's slopes are clamped."""
    gaussians = scene()
    gaussians = gaussians.replace(means=gaussians.means.at[:4, 0].set(jnp.array([5.0, -4.0, 2.0, 1.2])))
    plain = cameras("none", views=2)
    zeros = plain.replace(distortion=jnp.zeros((2, 5)))
    a, b = (project(gaussians, c) for c in (plain, zeros))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5)


def test_points_beyond_the_fold_are_unseen():
    """With k1 = -0.25 the radius turns back at 1.155 (66 degrees of field): what lies beyond is not drawn."""
    lens = cameras("none").replace(distortion=jnp.array([[-0.25, 0.0, 0.0, 0.0]]))
    x = jnp.array([[0.5, 1.1, 1.2, 1.9, 2.0, 50.0]])
    out = image_points(lens, x, jnp.zeros_like(x), jnp.ones_like(x))
    np.testing.assert_array_equal(out.seen[0], [True, True, False, False, False, False])
    gaussians = scene(3).replace(means=jnp.array([[0.3, 0, 1.0], [1.95, 0, 1], [-2.0, 0, 1]]))
    visible = project(gaussians, lens).extents[..., 0] > 0
    np.testing.assert_array_equal(visible[0], [True, False, False])


@pytest.mark.parametrize("name", ["rational", "bent fisheye", "orthographic"])
def test_a_small_gaussian_is_the_image_of_its_ellipsoid(name):
    """Independent of any Jacobian: the covariance of 3D samples sent through the formulas."""
    rng = np.random.default_rng(1)
    gaussians = scene(6)
    gaussians = gaussians.replace(log_scales=gaussians.log_scales - 3.0)
    projected = project(gaussians, cameras(name))
    for i in range(6):
        w, x, y, z = np.asarray(gaussians.quats[i], np.float64) / np.linalg.norm(gaussians.quats[i])
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        samples = rng.normal(size=(4000, 3)) * np.exp(np.asarray(gaussians.log_scales[i]))
        samples = np.concatenate([samples, -samples]) @ turn.T + np.asarray(gaussians.means[i])
        pixels = pixel(name, *samples.T)
        covariance = np.cov(pixels.T) + 0.3 * np.eye(2)
        xx, xy, yy = np.asarray(projected.conics[0, i])
        ours = np.linalg.inv([[xx, xy], [xy, yy]])
        np.testing.assert_allclose(ours, covariance, rtol=0.03, atol=0.01)


def test_gradients_to_distortion_pose_and_intrinsics_by_finite_differences():
    """In float64: the sum of all projected numbers along random directions."""
    with jax.enable_x64(True):
        gaussians = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), scene())
        rng = np.random.default_rng(2)
        for name in ("barrel", "bent fisheye"):
            lens = cameras(name, dtype=jnp.float64)
            weights = [rng.normal(size=s) for s in ((1, 12, 2), (1, 12, 3), (1, 12, 3))]

            @jax.jit
            def total(lens, weights=weights):
                out = project(gaussians, lens)
                parts = (out.means, out.conics, out.colors)
                return sum(jnp.sum(w * p) for w, p in zip(weights, parts, strict=True))

            grads = jax.grad(total)(lens)
            for field in ("world_to_camera", "intrinsics", "distortion"):
                value, grad = getattr(lens, field), np.asarray(getattr(grads, field))
                direction = rng.normal(size=value.shape)
                ahead, behind = (float(total(lens.replace(**{field: value + s * 1e-6 * direction}))) for s in (1, -1))
                slope = (ahead - behind) / 2e-6
                assert np.sum(grad * direction) == pytest.approx(slope, rel=1e-4, abs=1e-4), (name, field)


@pytest.mark.parity
@pytest.mark.parametrize("model", ["fisheye", "orthographic"])
def test_projection_is_gsplats(model):
    torch = pytest.importorskip("torch")
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
    gaussians, lens = scene(), cameras(model)
    means, quats, log_scales = (
        torch.tensor(np.asarray(a, np.float64)) for a in (gaussians.means, gaussians.quats, gaussians.log_scales)
    )
    covariances = gsplat._quat_scale_to_covar_preci(quats, torch.exp(log_scales), compute_preci=False)[0]
    pose, intrinsics = (torch.tensor(np.asarray(a, np.float64)) for a in (lens.world_to_camera, lens.intrinsics))
    _, theirs, depths, conics, kept = gsplat._fully_fused_projection(
        means,
        covariances,
        pose,
        intrinsics,
        40,
        36,
        calc_compensations=True,
        camera_model={"orthographic": "ortho"}.get(model, model),
    )
    plain, ours = project(gaussians, lens), project(gaussians, lens, antialiased=True)
    np.testing.assert_allclose(ours.means, theirs.numpy(), atol=3e-5)
    np.testing.assert_allclose(ours.depths, depths.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.conics, conics.numpy(), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(np.asarray(ours.opacities) / np.asarray(plain.opacities), kept.numpy(), rtol=1e-4)
