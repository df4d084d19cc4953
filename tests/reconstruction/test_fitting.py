"""Fitting a small known scene: it converges, resumes bit for bit, and never loses pairs silently."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite
from im3d_jax.pipelines import bundle
from im3d_jax.reconstruction import (
    FitConfig,
    Targets,
    capture_config,
    control,
    final_gaussians,
    fit,
    fitting,
    init_state,
    load_state,
    save_state,
)
from im3d_jax.reconstruction.fitting import views_of_step
from splat.strategies import DefaultStrategy


SIZE, VIEWS = 32, 6
CONFIG = FitConfig(
    steps=120,
    capacity=400,
    initial=250,
    initial_radius=0.7,
    densify_every=10,
    densify_from=20,
    densify_until=90,
    strategy=DefaultStrategy(0.0, growth=0.1, split_scale=0.05, min_opacity=0.02, max_scale=0.3),
    perceptual_weight=0.5,
    lr_means=(1e-2, 1e-3),
    lr_sh=2e-2,
    outside_views=2,
)


@pytest.fixture(scope="module")
def cameras():
    return splat.orbit_cameras(0.3, views=VIEWS, width=SIZE, height=SIZE)


@pytest.fixture(scope="module")
def targets(cameras):
    """A coloured, nearly opaque ball of 200 gaussians, as straight-alpha views."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(200, 3))
    means *= (0.6 / np.linalg.norm(means, axis=-1))[:, None]
    colours = 0.5 + 0.4 * np.sin(4 * means + np.array([0, 2, 4])[None])
    scene = splat.Gaussians(
        means=jnp.asarray(means, jnp.float32),
        quats=jnp.zeros((200, 4)).at[:, 0].set(1.0),
        log_scales=jnp.full((200, 3), math.log(0.08)),
        opacity_logits=jnp.full(200, 2.0),
        sh=jnp.asarray((colours - 0.5) / 0.28209479, jnp.float32)[:, None],
    )
    image = splat.render(scene, cameras)
    alpha = image.alpha[..., None]
    rgb = jnp.clip(image.rgb / jnp.maximum(alpha, 1e-4), 0, 1)
    return Targets(jnp.concatenate([rgb, alpha], axis=-1))


@pytest.fixture(scope="module")
def features():
    """Two convolutions with random weights, as arguments."""
    rng = np.random.default_rng(1)
    kernels = [jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32) for shape in ((3, 3, 4, 8), (3, 3, 8, 8))]

    def apply(kernels, images):
        maps = []
        for kernel in kernels:
            images = jax.lax.conv_general_dilated(
                images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            images = jnp.tanh(images)
            maps.append(images)
        return maps

    return jax.tree_util.Partial(apply, kernels)


@pytest.fixture(scope="module")
def start(cameras):
    return init_state(jax.random.key(0), CONFIG, cameras)


@pytest.fixture(scope="module")
def fitted(start, targets, cameras, features):
    calls = []
    state, info = fit(start, targets, cameras, CONFIG, features=features, progress=lambda *call: calls.append(call))
    return state, info, calls


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_start_is_a_ball_of_faint_gaussians(start):
    used = final_gaussians(start)
    distance = np.linalg.norm(used.means, axis=-1)
    assert len(used) == 250 and distance.max() <= 0.7
    # Uniform in the ball: half of the points lie within 0.5^(1/3) of the radius.
    assert abs((distance < 0.7 * 0.5 ** (1 / 3)).mean() - 0.5) < 0.12
    np.testing.assert_allclose(used.opacities, 0.1, atol=1e-6)


def test_fit_reaches_the_views(fitted, targets, cameras):
    state, info, calls = fitted
    result = final_gaussians(state)
    image = splat.render(result, cameras, background=1.0)
    # Grey would score about 17 dB here.
    assert float(metrics.psnr(image.rgb, composite(targets.rgba)).mean()) > 24
    assert info["loss"] < 0.3 * float(calls[0][2].split()[1].rstrip(","))
    assert info["gaussians"] == len(result) and 250 < len(result) <= 400
    assert [call[0] for call in calls] == list(range(10, 121, 10)) and calls[-1][1] == 120
    assert int(state.step) == 120 and set(info) >= {"perceptual", "ssim", "mask", "loss", "pairs"}


def test_stopped_saved_and_resumed_equals_uninterrupted(fitted, start, targets, cameras, features, tmp_path):
    state = start
    for stop in (33, 50, 120):
        state, _ = fit(state, targets, cameras, CONFIG, features=features, stop_step=stop)
        assert int(state.step) == stop
        save_state(tmp_path / "fit.npz", state)
        state = load_state(tmp_path / "fit.npz", CONFIG)
    assert_same(state, fitted[0])


def test_the_input_state_survives(fitted, start):
    assert int(start.step) == 0 and np.isfinite(np.asarray(start.gaussians.means)).all()
    assert int(start.active.sum()) == 250


def test_newborn_gaussians_have_no_moments(start, targets, cameras, features):
    before, _ = fit(start, targets, cameras, CONFIG, features=features, stop_step=20)
    after = control.densify(before, CONFIG)
    born = np.asarray(after.active & ~before.active)
    assert born.sum() == 25
    for moments in (after.first_moments, after.second_moments):
        assert all(np.abs(np.asarray(leaf)[born]).max() == 0 for leaf in jax.tree.leaves(moments))
    kept = np.asarray(before.active & after.active)
    assert np.abs(np.asarray(after.second_moments.means)[kept]).max() > 0
    assert float(after.statistics.counts.max()) == 0


def test_overflow_repeats_the_segment_with_more_room(start, targets, cameras, features, monkeypatch):
    grown = []

    def grow(pairs, margin):
        # To a size that is compiled already.
        grown.append(pairs)
        return start.pair_capacity

    monkeypatch.setattr(fitting, "round_capacity", grow)
    cramped = start.replace(pair_capacity=256)
    recovered, info = fit(cramped, targets, cameras, CONFIG, features=features, stop_step=12)
    assert len(grown) == 1 and grown[0] > 256 and info["pairs"] <= start.pair_capacity
    expected, _ = fit(start, targets, cameras, CONFIG, features=features, stop_step=12)
    assert_same(recovered, expected)


def test_saved_states_are_equal_bytes_and_other_settings_are_refused(fitted, tmp_path):
    save_state(tmp_path / "a.npz", fitted[0])
    save_state(tmp_path / "b.npz", fitted[0])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    with pytest.raises(ValueError, match="other settings"):
        load_state(tmp_path / "a.npz", dataclasses.replace(CONFIG, capacity=500))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    with pytest.raises(ValueError, match="is not a saved fit"):
        load_state(tmp_path / "cut.npz", CONFIG)


def test_views_come_in_shuffled_cycles():
    key = jax.random.PRNGKey(3)
    choose = jax.jit(views_of_step, static_argnums=(2, 3))
    drawn = np.concatenate([choose(key, jnp.int32(step), 5, 2) for step in range(10)])
    cycles = drawn.reshape(4, 5)
    assert all(sorted(cycle) == list(range(5)) for cycle in cycles.tolist())
    assert len({tuple(cycle) for cycle in cycles.tolist()}) > 1
    np.testing.assert_array_equal(choose(key, jnp.int32(4), 5, 2), drawn[8:10])


def test_targets_of_another_size_are_refused(start, cameras):
    with pytest.raises(ValueError, match="resize the views"):
        fit(start, Targets(jnp.zeros((VIEWS, 16, 16, 4))), cameras, CONFIG)


def test_presets_and_settings_are_checked():
    fits = {name: quality.fit for name, quality in bundle.QUALITIES.items()}
    assert [fits[name].steps for name in ("draft", "standard", "best")] == [300, 1200, 2400]
    assert all(hash(config) is not None and config.capacity <= 10_000 for config in fits.values())
    with pytest.raises(ValueError, match="initial <= capacity"):
        FitConfig(initial=10, capacity=5)
    with pytest.raises(ValueError, match="got strategy='mcmc'; expected an object such as splat"):
        FitConfig(strategy="mcmc")
    with pytest.raises(ValueError, match="got strategy='best'; expected one of default, mcmc"):
        capture_config(strategy="best")


def test_saved_settings_say_which_strategy_they_belong_to():
    for name in ("default", "mcmc"):
        saved = json.loads(json.dumps(dataclasses.asdict(capture_config(7000, strategy=name))))
        assert saved["strategy"]["name"] == name
        assert saved["strategy"].get("reset_every") == (3000 if name == "default" else None)
        assert saved["strategy"].get("cap") == (40_000 if name == "mcmc" else None)


def test_room_for_pairs_follows_the_growth_within_limits():
    config = capture_config(7000, capacity=160_000)
    assert fitting.first_pair_margin(config, 10_000, "gpu") == 3.0
    assert fitting.first_pair_margin(config, 50, "gpu") == 3.0, "few points promise nothing"
    assert fitting.first_pair_margin(config, 160_000, "gpu") == fitting.first_pair_margin(config, 10_000, "cpu") == 1.0
