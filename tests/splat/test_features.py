"""What `render` offers beside colour: each output and option against a dense float64 form or a plain call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from splat.projection import project
from splat.visibility import blending_weights


N, WIDTH, HEIGHT, VIEWS, CAPACITY = 40, 21, 18, 2, 2048


def scene(seed=0, spread=0.5, size=-1.9):
    rng = np.random.default_rng(seed)
    fields = (
        rng.uniform(-spread, spread, (N, 3)),
        rng.normal(size=(N, 4)),
        rng.normal(size, 0.5, (N, 3)),
        rng.normal(1.0, 1.5, N),
        rng.normal(0, 0.5, (N, 4, 3)),
    )
    return splat.Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields))


CAMERAS = splat.orbit_cameras(0.3, views=VIEWS, fov=0.6, width=WIDTH, height=HEIGHT, azimuth_offset=0.3)
FEATURES = jnp.asarray(np.random.default_rng(5).normal(size=(N, 5)), jnp.float32)
COTANGENT = jnp.asarray(np.random.default_rng(6).normal(size=(VIEWS, HEIGHT, WIDTH, 3)), jnp.float32)


def dense(gaussians, cameras, antialiased=False):
    """Blending weights [V, N, H, W], transmittance behind each splat and depths, of our projection, float64."""
    projected = project(gaussians, cameras, antialiased=antialiased)
    means, conics, opacities, depths = (
        np.asarray(a, np.float64) for a in (projected.means, projected.conics, projected.opacities, projected.depths)
    )
    y, x = np.mgrid[: cameras.height, : cameras.width] + 0.5
    dx, dy = x - means[..., 0, None, None], y - means[..., 1, None, None]
    conic = conics[..., None, None]
    sigma = 0.5 * (conic[:, :, 0] * dx**2 + conic[:, :, 2] * dy**2) + conic[:, :, 1] * dx * dy
    alpha = opacities[..., None, None] * np.exp(-sigma)
    alpha = np.where(alpha >= 1 / 255, np.minimum(alpha, 0.999), 0)
    weights, after = np.zeros_like(alpha), np.ones_like(alpha)
    for v in range(len(depths)):
        order = np.argsort(depths[v], kind="stable")
        through = np.cumprod(1 - alpha[v, order], axis=0)
        before = np.concatenate([np.ones_like(through[:1]), through[:-1]])
        weights[v, order] = np.where(through > 1e-4, alpha[v, order] * before, 0)
        after[v, order] = through
    return weights, after, depths


@pytest.fixture(scope="module")
def everything():
    """All outputs at once, and the gradients of screen-space means, plain and absolute."""

    @jax.jit
    def run(gaussians, cameras, features, offset, absolute):
        def loss(features, offset, absolute):
            out = splat.render(
                gaussians,
                cameras,
                capacity=CAPACITY,
                features=features,
                mean2d_offset=offset,
                absolute_offset=absolute,
                options=splat.RenderOptions(median_depth=True, normals=True),
            )
            return jnp.sum(COTANGENT * out.rgb), out

        return jax.grad(loss, argnums=(1, 2), has_aux=True)(features, offset, absolute)

    zeros = jnp.zeros((VIEWS, N, 2))
    gradients, out = run(scene(), CAMERAS, FEATURES, zeros, zeros)
    return gradients, out, dense(scene(), CAMERAS)


def test_features_normals_and_median_depth(everything):
    _, out, (weights, after, depths) = everything
    assert not bool(out.overflow)
    expected = np.einsum("vnhw,nc->vhwc", weights, np.asarray(FEATURES, np.float64))
    np.testing.assert_allclose(out.features, expected, atol=5e-6)

    # Shortest axes by rotating basis vectors with quaternions, turned towards the camera.
    q = np.asarray(scene().quats, np.float64)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    axis = np.eye(3)[np.argmin(np.asarray(scene().log_scales), axis=-1)]
    axis = axis + 2 * np.cross(q[:, 1:], np.cross(q[:, 1:], axis) + q[:, :1] * axis)
    away = np.asarray(scene().means)[None] - np.asarray(CAMERAS.positions)[:, None]
    normals = np.where(np.einsum("vnc,nc->vn", away, axis)[..., None] > 0, -axis, axis)
    summed = np.einsum("vnhw,vnc->vhwc", weights, normals)
    length = np.linalg.norm(summed, axis=-1, keepdims=True)
    clear = length[..., 0] > 0.05
    np.testing.assert_allclose(np.asarray(out.normals)[clear], (summed / np.maximum(length, 1e-9))[clear], atol=5e-5)
    assert not np.any(np.asarray(out.normals)[np.asarray(out.alpha) == 0])

    reached = after <= 0.5
    first = np.where(reached, depths[..., None, None], np.inf).min(axis=1)
    expected = np.where(reached.any(axis=1), first, 0.0)
    assert 0.2 < (expected > 0).mean() < 0.95
    unclear = np.abs(after - 0.5).min(axis=1) < 1e-5
    np.testing.assert_allclose(np.asarray(out.median_depth)[~unclear], expected[~unclear], rtol=1e-6)


def test_outputs_asked_for_do_not_change_the_image(everything):
    plain = splat.render(scene(), CAMERAS, capacity=CAPACITY)
    np.testing.assert_allclose(plain.rgb, everything[1].rgb, atol=1e-6)
    assert plain.features is None and plain.normals is None and plain.median_depth is None


def test_absolute_gradients_are_sums_over_the_pixels_of_absolute_values(everything):
    """Against one backward pass for each pixel of one view."""
    (plain, absolute), *_ = everything

    @jax.jit
    def pixel_gradients(rows):
        def one(mask):
            def loss(offset):
                out = splat.render(scene(), CAMERAS, capacity=CAPACITY, mean2d_offset=offset)
                return jnp.sum(mask[..., None] * COTANGENT * out.rgb)

            return jax.grad(loss)(jnp.zeros((VIEWS, N, 2)))

        return jax.lax.map(one, rows)

    pixels = jnp.eye(HEIGHT * WIDTH).reshape(-1, 1, HEIGHT, WIDTH)
    masks = jnp.concatenate([pixels, jnp.zeros_like(pixels)], axis=1)
    each = np.asarray(pixel_gradients(masks), np.float64)[:, 0]
    scale = np.abs(each).sum(0).max()
    np.testing.assert_allclose(np.asarray(absolute)[0] / scale, np.abs(each).sum(0) / scale, atol=2e-6)
    np.testing.assert_allclose(np.asarray(plain)[0] / scale, each.sum(0) / scale, atol=2e-6)
    assert np.all(np.asarray(absolute) >= np.abs(plain) * (1 - 1e-5) - 1e-6)


def test_median_depth_gradient_reaches_the_splats_it_shows():
    def loss(means):
        gaussians = scene().replace(means=means)
        out = splat.render(gaussians, CAMERAS, capacity=CAPACITY, options=splat.RenderOptions(median_depth=True))
        return jnp.sum(out.median_depth)

    gradient = jax.jit(jax.grad(loss))(scene().means)
    _, after, depths = dense(scene(), CAMERAS)
    reached = after <= 0.5
    first = np.where(reached, depths[..., None, None], np.inf).argmin(axis=1)
    expected = np.zeros((N, 3))
    for v in range(VIEWS):
        forward = np.asarray(CAMERAS.world_to_camera)[v, 2, :3]
        counts = np.bincount(first[v][reached[v].any(0)], minlength=N)
        expected += counts[:, None] * forward[None]
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_antialiased_keeps_the_light_of_small_gaussians():
    """Dense images with the compensated opacity; the light of a far, tiny gaussian is that of its own area."""
    gaussians = scene(size=-4.0)
    options = splat.RenderOptions(antialiased=True)
    out = splat.render(gaussians, CAMERAS, options=options)
    weights, _, _ = dense(gaussians, CAMERAS, antialiased=True)
    np.testing.assert_allclose(out.alpha, weights.sum(1), atol=5e-6)
    sharp, plain = (project(gaussians, CAMERAS, antialiased=a) for a in (True, False))
    covariance = np.linalg.inv(np.asarray(plain.conics, np.float64)[..., [0, 1, 1, 2]].reshape(VIEWS, N, 2, 2))
    before = np.linalg.det(covariance - 0.3 * np.eye(2))
    ratio = np.sqrt(np.maximum(before, 0) / np.linalg.det(covariance))
    np.testing.assert_allclose(np.asarray(sharp.opacities) / np.asarray(plain.opacities), ratio, atol=2e-4)
    assert ratio.max() < 0.9
    needles = gaussians.replace(log_scales=gaussians.log_scales.at[:, 1:].set(-90.0))
    grad = jax.grad(lambda g: jnp.sum(splat.render(g, CAMERAS, capacity=CAPACITY, options=options).rgb))(needles)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grad))


def test_blending_weights_add_up_to_the_coverage(everything):
    weights = blending_weights(scene(), CAMERAS, capacity=CAPACITY)
    _, out, (expected, *_) = everything
    np.testing.assert_allclose(weights, expected.sum((2, 3)), atol=2e-4)
    np.testing.assert_allclose(jnp.sum(weights, axis=1), jnp.sum(out.alpha, axis=(1, 2)), rtol=1e-5)


def test_backgrounds_for_each_view_and_as_images(everything):
    rng = np.random.default_rng(8)
    left = 1 - np.asarray(everything[1].alpha)[..., None]
    light = np.asarray(splat.render(scene(), CAMERAS, capacity=CAPACITY).rgb)
    for background in (rng.uniform(size=(VIEWS, 3)), rng.uniform(size=(VIEWS, HEIGHT, WIDTH, 3))):
        out = splat.render(scene(), CAMERAS, capacity=CAPACITY, background=jnp.asarray(background, jnp.float32))
        behind = background if background.ndim == 4 else background[:, None, None]
        np.testing.assert_allclose(out.rgb, light + left * behind, atol=2e-6)


def test_broken_features_make_a_gaussian_invalid():
    features = FEATURES.at[3, 2].set(jnp.nan)
    with pytest.warns(UserWarning, match="ignored 1"):
        out = splat.render(scene(), CAMERAS, capacity=CAPACITY, features=features)
    alone = splat.render(scene(), CAMERAS, capacity=CAPACITY, features=FEATURES, active=jnp.arange(N) != 3)
    np.testing.assert_array_equal(out.features, alone.features)


@pytest.mark.parametrize("shared", ["nothing", "cameras", "gaussians"])
def test_scenes_as_leading_axes(shared):
    """[2, 1] scenes of [VIEWS] cameras equal four separate renderings."""
    kinds = [scene(0), scene(1)]
    poses = [CAMERAS, splat.orbit_cameras(0.1, views=VIEWS, fov=0.5, width=WIDTH, height=HEIGHT)]
    gaussians = kinds[0] if shared == "gaussians" else jax.tree.map(lambda *a: jnp.stack(a)[:, None], *kinds)
    cameras = poses[0] if shared == "cameras" else jax.tree.map(lambda *a: jnp.stack(a)[:, None], *poses)
    background = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 1, VIEWS, 3)), jnp.float32)
    features = FEATURES if shared == "gaussians" else jnp.stack([FEATURES, -FEATURES])[:, None]
    offset = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, VIEWS, N, 2)), jnp.float32)
    out = splat.render(
        gaussians, cameras, background=background, features=features, mean2d_offset=offset, capacity=2 * CAPACITY
    )
    assert out.rgb.shape == (2, 1, VIEWS, HEIGHT, WIDTH, 3) and out.radii.shape == (2, 1, VIEWS, N, 2)
    assert out.pairs.shape == () and not bool(out.overflow)
    pairs = 0
    for i in range(2):
        alone = splat.render(
            kinds[0 if shared == "gaussians" else i],
            poses[0 if shared == "cameras" else i],
            capacity=CAPACITY,
            background=background[i, 0],
            features=features if shared == "gaussians" else features[i, 0],
            mean2d_offset=offset[i, 0],
        )
        for name in ("rgb", "alpha", "depth", "features", "radii"):
            np.testing.assert_allclose(getattr(out, name)[i, 0], getattr(alone, name), atol=3e-6, err_msg=name)
        pairs += int(alone.pairs)
    assert int(out.pairs) == pairs


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"features has shape \(3, 2\)"):
        splat.render(scene(), CAMERAS, features=jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="absolute_offset"):
        splat.render(scene(), CAMERAS, absolute_offset=jnp.zeros((N, 2)))
    with pytest.raises(ValueError, match="'panorama'"):
        splat.render(scene(), CAMERAS.replace(model="panorama"))
    with pytest.raises(ValueError, match="distortion"):
        splat.render(scene(), CAMERAS.replace(distortion=jnp.zeros((VIEWS, 3))))
    two = jax.tree.map(lambda a: jnp.stack([a, a]), scene())
    with pytest.raises(ValueError, match="leading axes"):
        splat.render(two, jax.tree.map(lambda a: jnp.stack([a, a, a]), CAMERAS))


def test_extreme_scenes_stay_finite_with_every_option():
    """Values and all gradients, through a distorting lens, of scenes with broken proportions."""
    lens = CAMERAS[:1].replace(distortion=jnp.array([[-0.25, 0.08, 0.003, -0.002, -0.01]]))
    zeros = jnp.zeros((1, N, 2))
    every = splat.RenderOptions(antialiased=True, exact_tiles=True, normals=True, median_depth=True)

    @jax.jit
    def run(gaussians, lens):
        def loss(gaussians, lens, offset, absolute, features):
            out = splat.render(
                gaussians,
                lens,
                capacity=CAPACITY,
                features=features,
                mean2d_offset=offset,
                absolute_offset=absolute,
                options=every,
            )
            images = out.rgb, out.alpha, out.depth, out.features, out.median_depth, out.normals
            return sum(jnp.sum(image) for image in images), out

        inputs = gaussians, lens, zeros, zeros, FEATURES
        return jax.grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)(*inputs)

    rng = np.random.default_rng(0)
    for _ in range(30):
        means = rng.normal(0, rng.choice([1e-3, 0.3, 1.0, 4.0, 1e4]), (N, 3))
        log_scales = rng.uniform(-120, 20) * rng.choice([0, 1]) + rng.uniform(0, 12) * rng.normal(size=(N, 3))
        fields = {
            "means": means,
            "quats": rng.normal(size=(N, 4)),
            "log_scales": log_scales,
            "opacity_logits": rng.uniform(-110, 110) + rng.normal(size=N),
            "sh": rng.normal(size=(N, 4, 3)),
        }
        for name in rng.choice(["means", "quats", "log_scales"], 2):
            fields[name][rng.integers(N)] = rng.choice([-1e30, -1e9, -1e-9, 0.0, 1e-30, 30.0, 1e30])
        result = run(splat.Gaussians(**{k: jnp.asarray(v, jnp.float32) for k, v in fields.items()}), lens)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))
