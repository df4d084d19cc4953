"""What is measured of an object, against which truth, and that evaluations go the way of `im3d generate`."""

import math

import jax
import numpy as np
import pytest

from experiments.evaluation.comparisons import Judges, compare, lpips_of_images
from experiments.evaluation.objects import Evaluation, change_sampling, render_turntable
from experiments.evaluation.results import MEASURES
from im3d_jax import generate
from im3d_jax.data.toybox import Toybox
from im3d_jax.errors import InputError
from im3d_jax.generation.plan import PerceptualChoice
from im3d_jax.images.files import as_stored
from im3d_jax.models import lpips
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.pipelines import Drawn, Orbit, bundle, svd
from splat import orbit_cameras
from tests.fake_model import ELEVATION, SIDE, FakeModel, disc, two_levels


class Counting(FakeModel):
    """Counts the parts of fits: device memory is freed before each."""

    fits = 0

    def release(self):
        self.fits += 1


def evaluation_of(model, rounds, **more):
    features = PerceptualChoice(Perceptual(two_levels), "two levels")
    return Evaluation(model.pipeline, "draft", model.view_settings("draft"), rounds, features, **more)


@pytest.fixture(scope="module")
def toy():
    """(caption, object)."""
    return Toybox("test").item(0)


@pytest.fixture(scope="module")
def measured(toy):
    """(record, picture, model) of one object."""
    model = Counting()
    caption, one = toy
    return *evaluation_of(model, (0, 1, 2)).measure(one, caption, 5), model


def true_views(one, views=16, offset=0.0):
    return np.asarray(render_turntable(one, views, SIDE, offset), np.float64)


def on_white(rgba):
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def decibels(error):
    return -10 * np.log10(error)


def test_views_are_compared_with_the_true_frames_but_the_given_one(measured, toy):
    record, _, _ = measured
    true = true_views(toy[1])
    given = np.round(255 * true[0]) / 255
    squared = np.square(on_white(given)[None] - on_white(true[1:]))
    assert record["repeat"]["psnr"] == pytest.approx(decibels(squared.mean((1, 2, 3))).mean(), abs=1e-3)
    inside = (squared.mean(-1) * true[1:, ..., 3]).sum((1, 2)) / true[1:, ..., 3].sum((1, 2))
    assert record["repeat"]["foreground_psnr"] == pytest.approx(decibels(inside).mean(), abs=1e-3)
    views = as_stored(np.stack([disc(frame, 5) for frame in range(1, 16)]))
    squared = np.square(on_white(views) - on_white(true[1:]))
    assert record["views"]["psnr"] == pytest.approx(decibels(squared.mean((1, 2, 3))).mean(), abs=1e-3)


def test_what_the_rounds_have_in_common_is_made_once(measured, toy):
    record, picture, model = measured
    assert model.calls == ["views", "orbit", "refine 1", "refine 2"]
    # Three parts without a refinement; the first is shared by all, the second by one and two rounds.
    assert model.fits == 3 + 2 + 1
    true = float(toy[1].elevation)
    assert record["elevation_deg"]["error"] == pytest.approx(abs(math.degrees(ELEVATION - true)))
    assets = record["assets"]
    assert [assets[rounds]["network_evaluations"] for rounds in "012"] == [24, 33, 42]
    assert record["views"]["network_evaluations"] == 24
    assert assets["2"]["seconds"] > record["views"]["seconds"] > 0
    assert picture.shape == (5 * (SIDE + 2) - 2, 8 * (SIDE + 2) - 2, 3)


def test_fewer_rounds_do_not_change_the_rest(measured, toy):
    model = FakeModel()
    alone, _ = evaluation_of(model, (1,)).measure(toy[1], toy[0], 5)
    assert model.calls == ["views", "orbit", "refine 1"]
    both = [dict(record["assets"]["1"], seconds=0) for record in (measured[0], alone)]
    assert both[0] == both[1]


def test_the_asset_is_the_one_that_the_program_makes():
    """From the picture that the program draws; evaluations do not centre theirs anew."""
    made = evaluation_of(FakeModel(), (0, 2)).make(as_stored(disc(0, 3)), "a cup", 3)
    for rounds in (0, 2):
        asset = generate(FakeModel().pipeline, "a cup", seed=3, quality="draft", rounds=rounds)
        jax.tree.map(np.testing.assert_array_equal, made.assets[rounds].gaussians, asset.gaussians)
        np.testing.assert_array_equal(made.assets[rounds].targets, asset.targets)
    assert not np.array_equal(made.assets[0].gaussians.sh[0], made.assets[2].gaussians.sh[0])


def test_the_true_elevation_moves_only_the_cameras(measured):
    asset = measured[0]["assets"]["0"]
    assert asset["estimated"]["cameras"] != asset["true"]["cameras"]
    assert asset["estimated"]["between"] != asset["estimated"]["cameras"]
    assert asset["targets"] == {name: measured[0]["views"][name] for name in MEASURES}


def test_models_of_other_orbits_are_compared_with_their_own_frames(toy):
    """Six views, clockwise: drawn true, they are as near to the truth as 8 bits are."""
    caption, one = toy

    class Turning(FakeModel):
        num_views, directions = 6, ("ccw", "cw")
        order = np.asarray([0, 5, 4, 3, 2, 1])

        def draw_views(self, tasks, settings, **named):
            return lambda: [Drawn(true_views(one, 6)[self.order].astype(np.float32), 1) for _ in tasks]

        def find_orbit(self, views, settings, **named):
            cameras = orbit_cameras(float(one.elevation), views=6, width=SIDE, height=SIDE)[self.order]
            return Orbit(cameras, float(one.elevation), {"elevation_deg": 0, "elevation": "given", "direction": "cw"})

    record, picture = evaluation_of(Turning(), (0,)).measure(one, caption, 0)
    assert record["views"]["psnr"] > 45 and record["repeat"]["psnr"] < 30
    assert record["assets"]["0"]["targets"]["psnr"] > 45 and record["elevation_deg"]["error"] < 1e-3
    assert picture.shape == (3 * (SIDE + 2) - 2, 3 * (SIDE + 2) - 2, 3)
    # The cameras that the asset was fitted to are those that it is compared at: clockwise, it would be mirrored.
    assert record["assets"]["0"]["estimated"]["cameras"] == pytest.approx(record["assets"]["0"]["true"]["cameras"])


def test_more_judges_measure_the_same_pictures(measured, toy):
    """Without weights nothing is added; with them, similarities are of the views but the first, LPIPS against truth."""
    record = measured[0]
    assert record["truth"] == {} and record["assets"]["0"]["rerendered"] == {} and "lpips" not in record["views"]

    class MeanColours:
        def similarities(self, views, *, prompt, image):
            return {"clip_text": float(len(prompt)), "clip_image": float(np.abs(views - image[None]).mean())}

    views = np.stack([disc(frame, 5) for frame in range(16)])
    found = Judges(clip=MeanColours()).similarities(views, "a cup", views[0])
    assert found == {"clip_text": 5.0, "clip_image": pytest.approx(np.abs(views[1:] - views[:1]).mean())}
    rng = np.random.default_rng(0)
    weights = {
        name: jax.numpy.asarray(rng.normal(size=shape) * 0.05 + 0.01, np.float32)
        for name, shape in lpips.expected_shapes().items()
    }
    made, true = rng.uniform(size=(2, 3, 16, 16, 4)).astype(np.float32)
    features = Perceptual(two_levels)
    compared = compare(features, made, true, skip=1, weights=weights)
    wanted = lpips.lpips(weights, on_white(made[1:]), on_white(true[1:]))
    assert compared["lpips"] == pytest.approx(float(np.mean(wanted)), rel=1e-4)
    np.testing.assert_allclose(lpips_of_images(weights, made, true)[1:], wanted, rtol=1e-4)
    assert compared | {"lpips": 0} == compare(features, made, true, skip=1) | {"lpips": 0}


def test_sampling_is_changed_in_a_copy():
    usual = bundle.QUALITIES["draft"]
    changed = change_sampling(usual, "refine", {"steps": 4, "image": 2.0, "start": 0.3})
    assert changed.refine == bundle.Sampling(4, 2.0, 1.0, start=0.3)
    assert changed.views == usual.views and changed.fit == usual.fit and changed is not usual
    assert bundle.QUALITIES["draft"] is usual and change_sampling(usual, "views", {}) is usual
    with pytest.raises(InputError, match="the sampling of views has no steps and no image with this model"):
        change_sampling(svd.QUALITIES["draft"], "views", {"steps": 3, "image": 2.0})
