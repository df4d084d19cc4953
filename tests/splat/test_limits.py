"""What must never be silent and never NaN: overflow, broken numbers, empty scenes, inactive rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import splat


N, SIZE, CAPACITY = 24, 20, 512


def scene(seed=0):
    rng = np.random.default_rng(seed)
    fields = (
        rng.uniform(-0.5, 0.5, (N, 3)),
        rng.normal(size=(N, 4)),
        rng.normal(-2.0, 0.4, (N, 3)),
        rng.normal(0.5, 1, N),
        rng.normal(size=(N, 1, 3)),
    )
    return splat.Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields))


FIELDS = [np.asarray(leaf) for leaf in jax.tree.leaves(scene())]
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


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-42, 1e-34])
def test_zero_quaternions_are_invalid_and_those_too_short_for_float32_too(value):
    grads, out = everything(spoil(scene(), "quats", value))
    assert int(out.invalid) == 1
    assert_finite((grads, out.rgb))


@pytest.mark.parametrize(
    "field, value",
    [
        ("log_scales", 80.0),
        ("log_scales", 3e38),
        ("log_scales", jnp.array([10.0, -50.0, -50.0])),
        ("log_scales", -200.0),
        ("log_scales", -3e38),
        ("log_scales", -95.0),  # the last is a denormal scale
        ("means", 1e30),
        ("means", 3e38),
        ("means", 1e-42),
        ("opacity_logits", 100.0),
        ("opacity_logits", -100.0),
        ("opacity_logits", -3e38),
        ("quats", 1e-30),
        ("quats", 1e30),
        ("quats", 3e38),
        ("sh", 1e6),
        ("sh", -1e6),
    ],
)
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


def test_one_gaussian_over_everything():
    """So wide that alpha is its opacity in every pixel: colour, coverage and depth in closed form."""
    gaussians = scene().replace(means=jnp.zeros((N, 3)), log_scales=jnp.full((N, 3), 12.0, jnp.float32))
    (grads, _), out = everything(gaussians, jnp.arange(N) == 5)
    opacity = 1 / (1 + np.exp(-float(gaussians.opacity_logits[5])))
    color = np.maximum(0.5 + 0.28209479 * np.asarray(gaussians.sh[5, 0]), 0)
    pixels = np.broadcast_to((opacity * color + 1 - opacity).astype(np.float32), (1, SIZE, SIZE, 3))
    np.testing.assert_allclose(out.rgb, pixels, atol=1e-5)
    np.testing.assert_allclose(out.alpha, np.full((1, SIZE, SIZE), opacity), atol=1e-5)
    np.testing.assert_allclose(out.depth, np.full((1, SIZE, SIZE), 3.44), rtol=1e-5)
    assert int(out.pairs) == 9 and np.asarray(out.visible)[0, 5]
    assert_finite(grads)


def far_sighted(focal, centre):
    """`CAMERAS` with this focal length and centre [2], in pictures' sides."""
    matrix = np.diag([*np.broadcast_to(focal, 2) * SIZE, 1.0])
    matrix[:2, 2] = np.multiply(centre, SIZE)
    return CAMERAS.replace(intrinsics=jnp.asarray(matrix[None], jnp.float32))


def test_a_needle_beyond_all_footprints_is_drawn_as_one_that_crosses_the_picture():
    def drawn(longest):
        # The world's y lies along the picture's rows.
        scales = jnp.tile(jnp.array([[-16.0, longest, -16.0]], jnp.float32), (N, 1))
        quats = jnp.tile(jnp.array([[1.0, 0.0, 0.0, 0.0]], jnp.float32), (N, 1))
        needle = scene().replace(means=jnp.zeros((N, 3)), quats=quats, log_scales=scales)
        return everything(needle, jnp.arange(N) == 5, far_sighted(1e3, (0.5, 0.5)))

    (grads, _), out = drawn(15.0)
    _, shorter = drawn(3.0)
    assert_finite((grads, out))
    assert float(out.alpha.max()) > 0.3 and float(out.alpha.min()) == 0.0
    np.testing.assert_allclose(out.rgb, shorter.rgb, atol=1e-5)


def test_any_gaussians_before_any_lens_of_a_capture():
    """Within the bounds that docs/splat.md names, and with a loss whose own gradient is moderate."""

    @jax.jit
    def run(gaussians, cameras):
        def loss(gaussians, cameras):
            out = splat.render(gaussians, cameras, background=1.0, capacity=CAPACITY)
            return jnp.mean(out.rgb**2) + jnp.mean(out.alpha**2), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(gaussians, cameras)

    rng = np.random.default_rng(0)
    for _ in range(40):
        focal = 10.0 ** rng.uniform(-2, 4) * 10.0 ** rng.uniform([-0.5, -0.5], 0.5)
        centre = np.where(rng.random(2) < 0.5, 0.5, rng.choice([-1, 1], 2) * 10.0 ** rng.uniform(-1, 3, 2))
        cameras = far_sighted(focal.clip(1e-2, 1e4), centre)
        # Colours stay ordinary: the gradient is as large as they are.
        most = [0 if name == "sh" else 38 for name in ("means", "quats", "log_scales", "opacity_logits", "sh")]
        wild = [
            10.0 ** rng.uniform(-45, top, leaf.shape) * rng.choice([-1, 1], leaf.shape)
            for top, leaf in zip(most, FIELDS, strict=True)
        ]
        chosen = [np.where(rng.random(leaf.shape) < 0.2, new, leaf) for new, leaf in zip(wild, FIELDS, strict=True)]
        grads, out = run(splat.Gaussians(*(jnp.asarray(leaf, jnp.float32) for leaf in chosen)), cameras)
        assert_finite((grads, out))


def test_opacities_of_exactly_zero_and_one():
    logits = scene().opacity_logits.at[:2].set(jnp.array([-3e38, 3e38]))
    gaussians = scene().replace(opacity_logits=logits)
    assert [float(o) for o in gaussians.opacities[:2]] == [0.0, 1.0]
    (grads, _), out = everything(gaussians)
    assert_finite((grads, out))
    assert not np.asarray(out.visible)[0, 0] and np.asarray(out.visible)[0, 1]
    # One opaque gaussian in front of the camera: 0.999 of it, and no more, is ever seen.
    wide = gaussians.replace(means=jnp.zeros((N, 3)), log_scales=jnp.full((N, 3), 5.0, jnp.float32))
    _, alone = everything(wide, jnp.arange(N) == 1)
    np.testing.assert_allclose(alone.alpha, np.full((1, SIZE, SIZE), 0.999), atol=1e-6)


def test_a_hundred_thousand_gaussians_in_one_tile():
    """More than 1,500 under each pixel of one tile; colours against a float64 loop over the pixels."""
    count = 100_000
    rng = np.random.default_rng(1)
    z = rng.permutation(np.linspace(2.0, 4.0, count))
    pixel = rng.integers(0, 64, count)
    column, row = pixel % 8, pixel // 8
    means = np.stack([(column - 3.5) * z / 800, (row - 3.5) * z / 800, z], -1)  # on the pixels' centres
    opacities = rng.uniform(0.004, 0.02, count)
    colors = rng.uniform(0, 1, (count, 3))
    fields = (
        means,
        np.tile([1.0, 0, 0, 0], (count, 1)),
        np.full((count, 3), -30.0),
        np.log(opacities / (1 - opacities)),
        (colors - 0.5)[:, None] / 0.28209479177,
    )
    gaussians = splat.Gaussians(*(jnp.asarray(f, jnp.float32) for f in fields))
    intrinsics = jnp.array([[[800.0, 0, 4], [0, 800, 4], [0, 0, 1]]])
    cameras = splat.Cameras(jnp.eye(4)[None], intrinsics, 8, 8)
    capacity = splat.round_capacity(count)

    @jax.jit
    def run(gaussians):
        def loss(gaussians):
            out = splat.render(gaussians, cameras, capacity=capacity)
            return jnp.sum(out.rgb), out

        return jax.grad(loss, has_aux=True)(gaussians)

    grads, out = run(gaussians)
    assert int(out.pairs) == count and not bool(out.overflow)
    assert_finite((grads, out))
    # The low-pass alone gives a variance of 0.3: neighbours at distance d get exp(-d^2 / 0.6).
    order = np.argsort(np.float32(z), kind="stable")
    for p in (0, 27):
        squared = (column - p % 8) ** 2 + (row - p // 8) ** 2
        alpha = (opacities * np.exp(-squared / 0.6))[order]
        alpha = np.where(alpha >= 1 / 255, alpha, 0.0)
        after = np.cumprod(1 - alpha)
        before = np.concatenate([[1.0], after[:-1]])
        expected = np.where(after > 1e-4, alpha * before, 0.0) @ colors[order]
        np.testing.assert_allclose(out.rgb[0, p // 8, p % 8], expected, atol=2e-4)


WIDE = {"allow_nan": False, "allow_infinity": False, "width": 32}
VALUES = [-1e30, -1e9, -1.0, -1e-9, 0.0, 1e-30, 1e-9, 30.0, 1e9, 1e30]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**31 - 1),
    spread=st.sampled_from([1e-3, 0.3, 1.0, 4.0, 1e4]),
    shrink=st.floats(-120.0, 20.0, **WIDE),
    stretch=st.floats(0.0, 12.0, **WIDE),
    solid=st.floats(-110.0, 110.0, **WIDE),
    spoiled=st.lists(
        st.tuples(
            st.integers(0, N - 1), st.sampled_from(["means", "quats", "log_scales", "sh"]), st.sampled_from(VALUES)
        ),
        max_size=4,
    ),
)
def test_random_scenes_stay_finite_and_in_range(seed, spread, shrink, stretch, solid, spoiled):
    rng = np.random.default_rng(seed)
    fields = {
        "means": rng.normal(0, spread, (N, 3)),
        "quats": rng.normal(size=(N, 4)),
        "log_scales": shrink + stretch * rng.normal(size=(N, 3)),
        "opacity_logits": solid + rng.normal(size=N),
        "sh": rng.normal(size=(N, 1, 3)),
    }
    for place, field, value in spoiled:
        fields[field][place] = np.clip(value, -1e6, 1e6) if field == "sh" else value
    gaussians = splat.Gaussians(**{name: jnp.asarray(f, jnp.float32) for name, f in fields.items()})
    grads, out = everything(gaussians)
    zero_quats = np.sum(np.all(np.abs(np.asarray(gaussians.quats)) <= 1e-32, axis=-1))
    assert int(out.invalid) == zero_quats
    assert_finite((grads, out))
    assert np.all(np.asarray(out.alpha) >= 0) and np.all(np.asarray(out.alpha) <= 1)
    assert np.all(np.asarray(out.depth) >= 0) and np.all(np.asarray(out.rgb) >= 0)


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


@pytest.mark.parametrize(
    "change, message",
    [
        ({"quats": jnp.zeros((N, 3))}, "quats"),
        ({"sh": jnp.zeros((N, 5, 3))}, "sh"),
        ({"means": jnp.zeros((N, 2))}, "means"),
    ],
)
def test_wrong_shapes_are_named(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        splat.render(scene().replace(**change), CAMERAS, capacity=CAPACITY)


def test_wrong_background_and_camera_shapes_are_named(unchecked):
    with pytest.raises(ValueError, match="background"):
        splat.render(scene(), CAMERAS, background=jnp.zeros(4))
    single = CAMERAS.replace(world_to_camera=CAMERAS.world_to_camera[0], intrinsics=CAMERAS.intrinsics[0])
    with pytest.raises(ValueError, match="leading axis"):
        splat.render(scene(), single)


def test_inner_forms_agree():
    """The matrix form serves TPUs, an unrolled scan GPUs; CPUs use neither."""
    from splat import blocks

    rng = np.random.default_rng(0)
    b, k, tile, channels = 5, 8, 4, 3
    unrolled = {"unroll": 4}
    rows = rng.uniform(0, 1, (b, k, 6 + channels)).astype(np.float32)
    rows[..., :2] *= tile
    rows[..., 3] *= 0.1
    rows[..., 5] = rng.uniform(0.0, 1.3, (b, k))  # some clamped, some stop
    y, x = (a.ravel() + 0.5 for a in np.meshgrid(np.arange(tile), np.arange(tile), indexing="ij"))
    x, y = (jnp.asarray(np.broadcast_to(a[None], (b, tile**2)), jnp.float32) for a in (x, y))
    start = jnp.asarray(rng.uniform(-8.5, 0.0, (b, tile**2)), jnp.float32)
    rows = jnp.asarray(rows)
    forms = blocks.light_scan, partial(blocks.light_scan, **unrolled), blocks.light_matrix
    scan, *others = (jax.jit(form)(rows, x, y, start) for form in forms)
    assert 0 < np.mean(np.asarray(scan[:, -1]) < k) < 1
    for other in others:
        np.testing.assert_allclose(scan, other, atol=2e-6, rtol=1e-5)
    bar = jnp.asarray(rng.normal(size=(b, channels, tile**2)), jnp.float32)
    behind = jnp.asarray(rng.normal(size=(b, tile**2)), jnp.float32)
    arguments = rows, x, y, start, scan[:, -2], scan[:, -1], bar, behind
    forms = blocks.gradients_scan, partial(blocks.gradients_scan, **unrolled), blocks.gradients_matrix
    ours, *others = (jax.jit(partial(form, absolute=True))(*arguments) for form in forms)
    assert ours.shape == (b, k, 8 + channels)
    for other in others:
        np.testing.assert_allclose(ours, other, atol=2e-5 * float(jnp.abs(ours).max()))


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_lowers_for_every_platform(monkeypatch, backend, every):
    """All inner forms, values and gradients, with every option or none, by lowering alone."""
    from jax import export

    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    arrays = {"features": jnp.ones((N, 2)), "absolute_offset": jnp.zeros((1, N, 2))} if every else {}
    options = splat.RenderOptions(antialiased=every, exact_tiles=every, median_depth=every, normals=every)

    def loss(gaussians, cameras, arrays):
        out = splat.render(gaussians, cameras, capacity=CAPACITY, options=options, **arrays)
        extra = jnp.sum(out.median_depth) + jnp.sum(out.normals) + jnp.sum(out.features) if every else 0.0
        return jnp.sum(out.rgb) + extra

    step = jax.jit(jax.grad(loss, argnums=(0, 2)))
    exported = export.export(step, platforms=("cpu", "cuda", "tpu"))(scene(), CAMERAS, arrays)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("change", [{"tile_size": 0}, {"block_size": 0}, {"slab": -1}, {"unroll": -1}])
def test_sizes_out_of_range_are_named(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}; expected"):
        splat.RenderOptions(**change)


def test_options_take_the_defaults_of_the_backend_where_none_is_given(monkeypatch):
    from splat.options import resolve

    found = {}
    for backend in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        sizes = resolve(splat.RenderOptions(normals=True, unroll=0))
        assert sizes.normals and sizes.unroll == 0 and sizes.block_size == 32 and resolve(sizes) == sizes
        found[backend] = sizes.tile_size, sizes.slab, resolve(splat.RenderOptions()).unroll
    assert found == {"cpu": (8, 96, 1), "gpu": (8, 8192, 8), "tpu": (16, 2048, 0)}
