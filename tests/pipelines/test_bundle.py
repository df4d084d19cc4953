"""A bundle's drawing on tiny random weights: what is deterministic, counted and conditioned on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.pipelines import ViewTask
from im3d_jax.pipelines.bundle import QUALITIES, BundleModel, Sampling
from im3d_jax.weights import load_bundle


PROMPT = "a red mug"


@pytest.fixture(scope="module")
def model(bundle):
    return BundleModel(load_bundle(bundle))


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(1).uniform(size=(32, 32, 4)).astype(np.float32)


def draw(model, picture, prompt=PROMPT, seed=3, settings=QUALITIES["standard"], report=None):
    """Views of one task, and the network evaluations that they took."""
    (drawn,) = model.draw_views([ViewTask(picture, prompt, seed)], settings, report=report)()
    return drawn.images, drawn.evaluations


@pytest.fixture(scope="module")
def views(model, picture):
    """Views of picture and prompt at seed 3, the count of evaluations, and the progress reports."""
    reports = []
    made, count = draw(model, picture, report=lambda *report: reports.append(report))
    return made, count, reports


def test_facts(model):
    assert (model.image_size, model.num_views, model.target_fraction) == (32, 4, 0.55)
    assert model.vocabulary() == {"a": [], "mug": [], "red": []}
    assert model.prompt_remarks("a red mug a red zork") == [
        "words outside the model's vocabulary, ignored: zork; see im3d doctor --vocabulary"
    ]
    ignored, lost = model.prompt_remarks("a blue mug a red Zork! mug a mug")
    assert ignored.startswith("words outside the model's vocabulary, ignored: blue, Zork;")
    assert lost == "the prompt is longer than the model reads; ignored end: a mug"
    assert model.identity(elevation_known=True) == model.picture_identity()
    assert model.picture_identity()["name"] == "bundle" and len(model.picture_identity()["sha256"]) == 64


def test_the_budget_of_evaluations():
    """At most 80 a whole asset: picture, views, two rounds."""
    sizes = {}
    for name, quality in QUALITIES.items():
        sampled = (quality.picture, False, 1), (quality.views, True, 1), (quality.refine, True, 2)
        sizes[name] = sum(
            times * sampling.steps * len(sampling.guidance(image, True).branches) for sampling, image, times in sampled
        )
        assert quality.refine.start < 1 and quality.picture.start == quality.views.start == 1
    assert (sizes["draft"], sizes["standard"], sizes["best"]) == (34, 56, 70)


def test_views_from_picture_and_prompt(views, picture):
    made, count, reports = views
    assert made.shape == (4, 32, 32, 4) and made.dtype == np.float32
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1
    np.testing.assert_array_equal(made[0], picture)
    assert count == 10
    assert reports == [(i, 10, "views") for i in range(1, 11)]


def test_the_same_seed_gives_the_same_views(model, picture, views):
    again, _ = draw(model, picture, report=lambda *report: None)
    np.testing.assert_array_equal(again, views[0])
    other, _ = draw(model, picture, seed=4)
    np.testing.assert_array_equal(other[0], picture)
    assert np.abs(other[1:] - views[0][1:]).mean() > 1e-3


def test_conditions_matter(model, picture, views):
    other_prompt, _ = draw(model, picture, "a mug")
    other_picture, _ = draw(model, 1 - picture)
    for other in (other_prompt, other_picture):
        assert np.abs(other[1:] - views[0][1:]).max() > 1e-3


def test_the_host_loop_equals_the_scan(model, picture, views):
    """The loop that reports its steps and the one program of batches are one sampler."""
    made, count = draw(model, picture)
    np.testing.assert_allclose(made[1:], views[0][1:], atol=2e-3)
    assert count == views[1]


def test_one_condition_alone(model, picture):
    guided = dataclasses.replace(QUALITIES["draft"], views=Sampling(8, 2.0, 1.5))
    made, count = draw(model, picture, None, settings=guided)
    assert count == 8 * 2
    np.testing.assert_array_equal(made[0], picture)
    made, count = draw(model, None, settings=guided)
    assert count == 8 * 2 and made.shape == (4, 32, 32, 4) and np.isfinite(made).all()
    assert draw(model, picture, settings=guided)[1] == 8 * 3
    with pytest.raises(ValueError, match="neither prompt nor picture"):
        draw(model, None, None)


def test_tasks_of_one_batch_agree(model, picture):
    for other in (ViewTask(None, PROMPT, 1), ViewTask(picture, None, 1)):
        with pytest.raises(ValueError, match="cannot share a batch"):
            model.draw_views([ViewTask(picture, PROMPT, 0), other], QUALITIES["draft"])


def test_picture_from_a_prompt(model):
    def picture_of(seed):
        (drawn,) = model.draw_pictures([PROMPT], [seed], model.picture_settings("standard"))()
        return drawn.images, drawn.evaluations

    made, count = picture_of(3)
    assert made.shape == (32, 32, 4) and made.dtype == np.float32 and count == 40
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1
    np.testing.assert_array_equal(made, picture_of(3)[0])
    assert np.abs(picture_of(4)[0] - made).mean() > 1e-3


def test_refinement(model, picture, views):
    def refine(renders, round):
        task = ViewTask(picture, PROMPT, 3)
        (drawn,) = model.refine_views([renders], [task], QUALITIES["standard"], round=round)()
        return drawn.images, drawn.evaluations

    renders = views[0]
    first, count = refine(renders, 1)
    assert first.shape == renders.shape and count == 3
    np.testing.assert_array_equal(first[0], picture)
    np.testing.assert_array_equal(refine(renders, 1)[0], first)
    assert np.abs(refine(renders, 2)[0][1:] - first[1:]).mean() > 1e-4
    # Half the signal is still there: what is refined matters, also for the same noise.
    assert np.abs(refine(1 - renders, 1)[0][1:] - first[1:]).mean() > 1e-3


def test_orbit_and_features(model, views):
    find = lambda elevation: model.find_orbit(  # noqa: E731
        views[0], QUALITIES["draft"], seed=0, elevation=elevation, direction="auto", report=None
    )
    found, given = find(None), find(0.3)
    assert isinstance(found.elevation, float) and 0 <= found.elevation <= math.pi / 4 + 1e-6
    assert found.facts["elevation"] == "estimated" and given.facts["elevation"] == "given" and given.elevation == 0.3
    assert given.facts == {"elevation_deg": 17.189, "elevation": "given", "direction": "ccw"}
    assert len(found.cameras) == 4 and (found.cameras.width, found.cameras.height) == (32, 32)
    network, name = model.perceptual()
    features = network.features(jnp.asarray(views[0]))
    assert len(features) == 1 and features[0].shape == (4, 8, 8, 8) and "autoencoder" in name
    leaves = jax.tree.leaves(network)
    assert leaves and all(isinstance(leaf, jax.Array) for leaf in leaves), "weights are arguments, no constants"
