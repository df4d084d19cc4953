"""What must never be silent and never NaN: overflow, broken numbers, empty scenes, inactive rows."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat


N, SIZE, CAPACITY = 24, 20, 512


def scene(seed=0):
    rng = np.random.default_rng(seed)
    fields = (rng.uniform(-0.5, 0.5, (N, 3)), rng.normal(size=(N, 4)), rng.normal(-2.0, 0.4, (N, 3)),
              rng.normal(0.5, 1, N), rng.normal(size=(N, 1, 3)))
    return splat.Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields))


CAMERAS = splat.orbit_cameras(0.2, views=1, width=SIZE, height=SIZE)


@jax.jit
def gradients(gaussians, cameras, active):
    def loss(gaussians, cameras):
        out = splat.render(gaussians, cameras, background=1.0, capacity=CAPACITY, active=active)
        return jnp.sum(out.rgb**2) + jnp.sum(out.alpha) + jnp.sum(out.depth), out

    grads, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(gaussians, cameras)
    return grads, out


def everything(gaussians, active=None, cameras=CAMERAS):
    active = jnp.ones(N, bool) if active is None else active
    return gradients(gaussians, cameras, active)


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.all(np.isfinite(np.asarray(leaf)))


def spoil(gaussians, field, value):
    array = getattr(gaussians, field)
    return gaussians.replace(**{field: array.at[3].set(value)})


def without_third(gaussians):
    return everything(gaussians, jnp.arange(N) != 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "opacity_logits", "sh"])
def test_broken_numbers_are_counted_and_left_out(field, value):
    (grads, camera_grads), out = everything(spoil(scene(), field, value))
    (_, expected_camera_grads), expected = without_third(scene())
    assert int(out.invalid) == 1 and int(expected.invalid) == 0
    np.testing.assert_array_equal(out.rgb, expected.rgb)
    assert_finite((grads, camera_grads))
    assert all(not np.any(np.asarray(leaf)[3]) for leaf in jax.tree.leaves(grads))
    np.testing.assert_array_equal(camera_grads.world_to_camera, expected_camera_grads.world_to_camera)


def test_a_zero_quaternion_is_invalid():
    grads, out = everything(spoil(scene(), "quats", 0.0))
    assert int(out.invalid) == 1
    assert_finite((grads, out.rgb))


@pytest.mark.parametrize("field, value", [
    ("log_scales", 80.0), ("log_scales", -200.0), ("log_scales", jnp.array([10.0, -50.0, -50.0])),
    ("means", 1e30), ("means", 3e38), ("opacity_logits", 100.0), ("opacity_logits", -100.0),
    ("quats", 1e-30), ("quats", 1e30), ("sh", 1e6),
])
def test_finite_extremes_stay_finite(field, value):
    grads, out = everything(spoil(scene(), field, value))
    assert int(out.invalid) == 0
    assert_finite((grads, out.rgb, out.alpha, out.depth))


def test_gaussians_at_behind_and_beside_the_camera():
    eye = CAMERAS.positions[0]
    means = jnp.stack([eye, 1.5 * eye, eye * 0.997, eye + jnp.array([0.0, 2.0, 0.0]), eye - 0.02 * eye])
    gaussians = scene()
    gaussians = gaussians.replace(means=gaussians.means.at[:5].set(means))
    grads, out = everything(gaussians)
    assert_finite((grads, out))
    assert not np.asarray(out.visible)[0, :2].any()


def test_inactive_rows_are_as_if_absent():
    active = jnp.arange(N) % 3 != 0
    (grads, _), out = everything(scene(), active)
    transparent = scene().replace(opacity_logits=jnp.where(active, scene().opacity_logits, -50.0))
    _, alone = everything(transparent)
    np.testing.assert_array_equal(out.rgb, alone.rgb)
    assert int(out.pairs) == int(alone.pairs)
    assert not any(np.any(np.asarray(leaf)[::3]) for leaf in jax.tree.leaves(grads))


def test_nothing_active_gives_the_background():
    (grads, _), out = everything(scene(), jnp.zeros(N, bool))
    assert int(out.pairs) == 0 and not np.any(out.alpha) and not np.any(out.depth)
    np.testing.assert_array_equal(out.rgb, np.ones((1, SIZE, SIZE, 3), np.float32))
    assert_finite(grads)


def test_overflow_is_reported_in_and_outside_jit():
    need = splat.count_pairs(scene(), CAMERAS)
    with pytest.warns(UserWarning, match=f"{need} .*room for 20"):
        out = splat.render(scene(), CAMERAS, capacity=20)
    assert int(out.pairs) == need > 20 and bool(out.overflow)
    assert_finite(out)
    full = splat.render(scene(), CAMERAS)
    assert int(full.pairs) == need and not bool(full.overflow)


def test_invalid_warns_outside_jit():
    with pytest.warns(UserWarning, match="ignored 1 gaussians"):
        splat.render(spoil(scene(), "means", np.nan), CAMERAS, capacity=256)


def test_capacity_is_demanded_under_jit():
    with pytest.raises(ValueError, match="count_pairs"):
        jax.jit(lambda g: splat.render(g, CAMERAS).rgb)(scene())


def test_no_gaussians_and_no_pixels():
    empty = jax.tree.map(lambda a: a[:0], scene())
    out = splat.render(empty, CAMERAS, background=jnp.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(out.rgb[0, 3, 4], [0.1, 0.2, 0.3])
    out = splat.render(scene(), splat.orbit_cameras(0.2, views=2, width=0, height=5))
    assert out.rgb.shape == (2, 5, 0, 3) and int(out.pairs) == 0


@pytest.mark.parametrize("change, message", [
    ({"quats": jnp.zeros((N, 3))}, "quats"),
    ({"sh": jnp.zeros((N, 5, 3))}, "sh"),
    ({"means": jnp.zeros((N, 2))}, "means"),
])
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        splat.render(scene().replace(**change), CAMERAS, capacity=CAPACITY)


def test_wrong_background_and_camera_shapes_are_named():
    with pytest.raises(ValueError, match="background"):
        splat.render(scene(), CAMERAS, background=jnp.zeros(4))
    single = CAMERAS.replace(world_to_camera=CAMERAS.world_to_camera[0], intrinsics=CAMERAS.intrinsics[0])
    with pytest.raises(ValueError, match="leading axis"):
        splat.render(scene(), single)


def test_both_inner_forms_agree():
    """The matrix form serves GPUs and TPUs; on the CPU only this test reaches it."""
    from splat import blocks

    rng = np.random.default_rng(0)
    b, k, tile, channels = 5, 8, 4, 3
    rows = rng.uniform(0, 1, (b, k, 6 + channels)).astype(np.float32)
    rows[..., :2] *= tile
    rows[..., 3] *= 0.1
    rows[..., 5] = rng.uniform(0.0, 1.3, (b, k))  # some clamped, some stop
    y, x = (a.ravel() + 0.5 for a in np.meshgrid(np.arange(tile), np.arange(tile), indexing="ij"))
    x, y = (jnp.asarray(np.broadcast_to(a[None], (b, tile**2)), jnp.float32) for a in (x, y))
    start = jnp.asarray(rng.uniform(-8.5, 0.0, (b, tile**2)), jnp.float32)
    rows = jnp.asarray(rows)
    scan, matrix = (jax.jit(form)(rows, x, y, start) for form in (blocks.light_scan, blocks.light_matrix))
    assert 0 < np.mean(np.asarray(scan[..., -1]) < k) < 1
    np.testing.assert_allclose(scan, matrix, atol=2e-6, rtol=1e-5)
    bar = jnp.asarray(rng.normal(size=(b, tile**2, channels)), jnp.float32)
    behind = jnp.asarray(rng.normal(size=(b, tile**2)), jnp.float32)
    arguments = rows, x, y, start, scan[..., -2], scan[..., -1], bar, behind
    ours, theirs = (jax.jit(form)(*arguments) for form in (blocks.gradients_scan, blocks.gradients_matrix))
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("scan", [True, False])
def test_lowers_for_every_platform(monkeypatch, scan):
    """Both inner forms, values and gradients, by lowering alone."""
    from jax import export

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu" if scan else "tpu")

    def loss(gaussians, cameras):
        return jnp.sum(splat.render(gaussians, cameras, capacity=CAPACITY).rgb)

    exported = export.export(jax.jit(jax.grad(loss)), platforms=("cpu", "cuda", "tpu"))(scene(), CAMERAS)
    assert exported.platforms == ("cpu", "cuda", "tpu")
