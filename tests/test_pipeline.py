"""Prompt and picture to views on a tiny random model: what is deterministic, counted and conditioned on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax import pipeline
from tests import tiny


PROMPT = "a red mug"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return pipeline.load(tiny.write_bundle(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(1).uniform(size=(32, 32, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def views(pipe, picture):
    """Views of picture and prompt at seed 3, the count of evaluations, and the progress reports."""
    reports = []
    made, count = pipe.draw_views(picture, PROMPT, seed=3, progress=lambda *report: reports.append(report))
    return made, count, reports


def test_facts(pipe):
    assert (pipe.image_size, pipe.num_views, pipe.target_fraction) == (32, 4, 0.55)
    assert pipe.vocabulary() == {"a": [], "mug": [], "red": []}
    assert pipe.lost_text("a red mug a red zork mug") == "mug" and pipe.lost_text("a red mug a red zork") == ""
    assert pipe.unknown_words("a blue mug, Zork!") == ["blue", "Zork"]
    assert pipe.perceptual_name


def test_the_budget_of_evaluations():
    """At most 80 a whole asset: image, views, two rounds."""
    sizes = {}
    for name, quality in pipeline.QUALITIES.items():
        sampled = (quality.image, False, 1), (quality.views, True, 1), (quality.refine, True, 2)
        sizes[name] = sum(
            times * sampling.steps * len(sampling.guidance(image, True).branches) for sampling, image, times in sampled
        )
        assert quality.refine.start < 1 and quality.image.start == quality.views.start == 1
    assert (sizes["draft"], sizes["standard"], sizes["best"]) == (34, 56, 70)


def test_views_from_picture_and_prompt(views, picture):
    made, count, reports = views
    assert made.shape == (4, 32, 32, 4) and made.dtype == np.float32
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1
    np.testing.assert_array_equal(made[0], picture)
    assert count == 10
    assert reports == [(i, 10, "views") for i in range(1, 11)]


def test_the_same_seed_gives_the_same_views(pipe, picture, views):
    again, _ = pipe.draw_views(picture, PROMPT, seed=3)
    np.testing.assert_array_equal(again, views[0])
    other, _ = pipe.draw_views(picture, PROMPT, seed=4)
    np.testing.assert_array_equal(other[0], picture)
    assert np.abs(other[1:] - views[0][1:]).mean() > 1e-3


def test_conditions_matter(pipe, picture, views):
    other_prompt, _ = pipe.draw_views(picture, "a mug", seed=3)
    other_picture, _ = pipe.draw_views(1 - picture, PROMPT, seed=3)
    for other in (other_prompt, other_picture):
        assert np.abs(other[1:] - views[0][1:]).max() > 1e-3


def test_the_host_loop_equals_the_scan(pipe, picture, views):
    """The loop of the program and the jitted sampler of batches are one sampler."""
    key = jax.random.fold_in(jax.random.key(3), pipeline.VIEWS_STREAM)
    noise = jax.random.normal(key, (1, 4, 8, 8, 4))
    given = pipe.conditions([PROMPT], jnp.asarray(picture)[None])
    sampling = pipeline.QUALITIES["standard"].views
    latents = pipe.sample_batch(noise, given, sampling, temporal=True, prompt=True)
    np.testing.assert_allclose(pipe.decode(latents[0])[1:], views[0][1:], atol=2e-3)


def test_one_condition_alone(pipe, picture, monkeypatch):
    guided = dataclasses.replace(pipeline.QUALITIES["draft"], views=pipeline.Sampling(8, 2.0, 1.5))
    monkeypatch.setitem(pipeline.QUALITIES, "draft", guided)
    made, count = pipe.draw_views(picture, None, seed=3, quality="draft")
    assert count == 8 * 2
    np.testing.assert_array_equal(made[0], picture)
    made, count = pipe.draw_views(None, PROMPT, seed=3, quality="draft")
    assert count == 8 * 2 and made.shape == (4, 32, 32, 4) and np.isfinite(made).all()
    assert pipe.draw_views(picture, PROMPT, seed=3, quality="draft")[1] == 8 * 3
    with pytest.raises(ValueError, match="image, a prompt or both"):
        pipe.draw_views(None, None, seed=3)


def test_picture_from_a_prompt(pipe):
    made, count = pipe.draw_image(PROMPT, seed=3)
    assert made.shape == (32, 32, 4) and made.dtype == np.float32 and count == 40
    assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1
    again, _ = pipe.draw_image(PROMPT, seed=3)
    np.testing.assert_array_equal(made, again)
    other, _ = pipe.draw_image(PROMPT, seed=4)
    assert np.abs(other - made).mean() > 1e-3


def test_refinement(pipe, picture, views):
    renders = views[0]
    first, count = pipe.refine(renders, picture, PROMPT, round=1, seed=3)
    assert first.shape == renders.shape and count == 3
    np.testing.assert_array_equal(first[0], picture)
    again, _ = pipe.refine(renders, picture, PROMPT, round=1, seed=3)
    np.testing.assert_array_equal(again, first)
    second, _ = pipe.refine(renders, picture, PROMPT, round=2, seed=3)
    assert np.abs(second[1:] - first[1:]).mean() > 1e-4
    # Half the signal is still there: what is refined matters, also for the same noise.
    other, _ = pipe.refine(1 - renders, picture, PROMPT, round=1, seed=3)
    assert np.abs(other[1:] - first[1:]).mean() > 1e-3


def test_streams_of_noise_are_distinct():
    streams = pipeline.IMAGE_STREAM, pipeline.VIEWS_STREAM, pipeline.REFINE_STREAM
    assert len(set(streams)) == 3


def test_elevation_and_features(pipe, views):
    elevation = pipe.estimate_elevation(views[0])
    assert isinstance(elevation, float) and 0 <= elevation <= math.pi / 4 + 1e-6
    features = pipe.features(jnp.asarray(views[0]))
    assert len(features) == 1 and features[0].shape == (4, 8, 8, 8)
    leaves = jax.tree.leaves(pipe.features)
    assert leaves and all(isinstance(leaf, jax.Array) for leaf in leaves)
