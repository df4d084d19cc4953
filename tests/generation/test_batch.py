"""Batches: every row is what its run draws alone; rows agree in kind; a row that fails costs only itself."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax import InputError, generate, views
from im3d_jax.errors import ImageError, WeightsError
from im3d_jax.generation.batch import Room, draw_ahead, make_room, staggered
from im3d_jax.generation.loop import asset_stages, view_stages
from im3d_jax.generation.plan import make_plan
from im3d_jax.generation.request import AssetRequest
from im3d_jax.generation.runners import Loop, MemoryRunner
from im3d_jax.images.files import as_stored
from im3d_jax.images.prepare import prepare_image
from im3d_jax.pipelines import Batch, Drawn, Pipeline, ViewTask
from im3d_jax.pipelines.bundle import BundleModel
from im3d_jax.progress import ProgressPrinter
from im3d_jax.weights import load_bundle
from im3d_jax.weights.miniature import miniature, write_miniature
from tests.fake_model import PICTURE_EVALUATIONS, FakeModel, disc
from tests.small_checkpoints import open_small
from tests.tiny import SIDE, write_bundle


ONE_DEVICE = tuple(jax.devices()[:1])


@pytest.fixture(scope="module")
def orbits(tmp_path_factory):
    """A foreign model in miniature."""
    return open_small(
        write_miniature(tmp_path_factory.mktemp("model") / "sv3d_u.safetensors", miniature("sv3d_u")), "sv3d_u"
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = BundleModel(load_bundle(write_bundle(tmp_path_factory.mktemp("model"))))
    return Pipeline(model, model)


def loops_of(pipeline, requests, what="views"):
    """A loop in memory for each request."""
    stages = asset_stages if what == "asset" else view_stages
    plans = [make_plan(request, pipeline, what=what) for request in requests]
    return [Loop(stages(plan, files=False), MemoryRunner()) for plan in plans]


def requests_of(count, first=0):
    return [AssetRequest("mug", seed=seed, quality="draft") for seed in range(first, first + count)]


def off_centre(side=40):
    """A picture that needs preparing: a disc left of the middle."""
    return np.concatenate([disc(0, 5, side), np.zeros((side, 8, 4), np.float32)], axis=1)


def test_rows_are_what_each_run_draws_alone(bundle):
    """Prompts, pictures and both in one call, in batches of two rows, some of which are filled up."""
    picture = off_centre()
    requests = [
        AssetRequest("a red mug", seed=1, quality="draft"),
        AssetRequest(image=picture, seed=2, quality="draft"),
        AssetRequest("a mug", picture, seed=3, quality="draft"),
        AssetRequest("mug", quality="draft"),
        AssetRequest("a mug", seed=4, quality="draft"),
    ]
    loops = loops_of(bundle, requests)
    batches = list(draw_ahead(loops, bundle, Room(ONE_DEVICE, 2)))
    # Three that begin with drawing a picture, one with a picture alone, one with both.
    assert sorted(len(batch) for batch in batches) == [1, 1, 1, 2]
    assert {loop for batch in batches for loop, error in batch if error is None} == set(loops)
    for request, loop in zip(requests, loops, strict=True):
        drawn, alone = loop.finish(), views(bundle, request)
        # Equal to rounding: at most one grey level of few pixels.
        np.testing.assert_allclose(drawn.views.get(), alone.images, atol=1.01 / 255)
        assert np.mean(drawn.views.get() != alone.images) < 1e-3
        assert drawn.orbit.get().elevation == pytest.approx(alone.elevation, abs=1e-2)
        assert loop.runner.evaluations == alone.network_evaluations


def test_a_list_of_requests_is_drawn_in_batches_and_fitted_one_by_one():
    model, requests = FakeModel(rows=2), requests_of(3)
    made = generate(model.pipeline, [dataclasses.replace(request, rounds=0) for request in requests])
    assert model.batches == [2, 1] and len(made) == 3
    alone = generate(FakeModel().pipeline, requests[2], rounds=0)
    jax.tree.map(np.testing.assert_array_equal, made[2].gaussians, alone.gaussians)
    np.testing.assert_array_equal(made[2].views, alone.views)
    assert made[2].network_evaluations == alone.network_evaluations
    assert np.abs(made[0].gaussians.sh - made[2].gaussians.sh).max() > 1e-3


def test_kinds_do_not_share_a_batch(bundle):
    model, settings = bundle.views, bundle.views.view_settings("draft")
    picture = np.zeros((SIDE, SIDE, 4), np.float32)
    for other in (ViewTask(picture, None, 0), ViewTask(None, "mug", 0)):
        with pytest.raises(ValueError, match="cannot share a batch"):
            model.draw_views([ViewTask(picture, "mug", 0), other], settings)
    with pytest.raises(ValueError, match="neither prompt nor picture"):
        model.draw_views([ViewTask(None, None, 0)], settings)
    for tasks in ([], [ViewTask(picture, "mug", 0)] * 3):
        with pytest.raises(ValueError, match="expected 1 to 2 tasks"):
            model.draw_views(tasks, settings, batch=Batch(None, 2))


def test_the_devices_have_another_drawing_to_do_while_one_is_looked_at():
    order = []

    def begin(batch):
        for number in range(1 if batch == "b" else 2):
            order.append(f"start {batch}{number}")
            yield
            order.append(f"wait {batch}{number}")
        return batch

    for batch in staggered("abc", begin):
        order.append(f"use {batch}")
    wanted = "start a0,start b0,wait a0,start a1,start c0,wait b0,wait a1,use a,use b,wait c0,start c1,wait c1,use c"
    assert order == wanted.split(",")


def test_rows_of_a_batch():
    def room(usual, runs, rows=None, devices=4):
        made = make_room(FakeModel(usual).pipeline, runs, rows=rows, devices=ONE_DEVICE * devices)
        return len(made.devices), made.rows

    assert room(8, 100) == (4, 32) and room(2, 100, devices=2) == (2, 4)
    assert room(8, 5) == (4, 8) and room(8, 100, rows=16) == (4, 16)
    # One object at a time, on one device.
    assert room(0, 100) == room(0, 100, rows=64) == (1, 1)
    with pytest.raises(InputError, match="--batch=6 cannot be split over 4 devices; .* --batch=8"):
        room(8, 100, rows=6)


class Spoilt(FakeModel):
    """Rows of some seeds fail; seed 9 spoils the whole batch."""

    def draw_views(self, tasks, settings, **named):
        if any(task.seed == 9 for task in tasks):
            raise WeightsError("the whole batch")
        drawing = super().draw_views(tasks, settings, **named)
        rows = zip(tasks, drawing(), strict=True)
        return lambda: [WeightsError(f"row {task.seed}") if task.seed % 2 else drawn for task, drawn in rows]


def test_a_row_that_fails_costs_only_itself():
    model = Spoilt(rows=2)
    loops = loops_of(model.pipeline, [*requests_of(3), AssetRequest("mug", seed=9), *requests_of(1, 6)])
    one, two, three = draw_ahead(loops, model.pipeline, Room(ONE_DEVICE, 2))
    assert [loop for loop, _ in one] == loops[:2] and one[0][1] is None and str(one[1][1]) == "row 1"
    assert [str(error) for _, error in two] == ["the whole batch"] * 2
    assert [(loop, error) for loop, error in three] == [(loops[4], None)]


class Painter(FakeModel):
    """Draws first pictures for another model: seed 1 fails, seed 2 is noise that no object can be cut out of."""

    name = "painter"

    def draw_pictures(self, prompts, row_seeds, settings, *, batch=None, report=None):
        self.calls += ["picture"] * len(prompts)
        noise = np.random.default_rng(0).uniform(size=(SIDE, SIDE, 4)).astype(np.float32)
        noise[..., 3] = 1.0
        found = {1: WeightsError("NaN or infinite"), 2: Drawn(noise, 3)}
        return lambda: [found.get(seed, Drawn(off_centre(), 11, ("slow as ever",))) for seed in row_seeds]


def test_another_models_pictures_are_cut_out_before_the_views_are_drawn():
    """As their files hold them: in 8 bits before they are cut out and after."""
    model, painter = FakeModel(rows=4), Painter()
    pipeline = Pipeline(model, painter)
    told = io.StringIO()
    plans = [make_plan(request, pipeline, what="views") for request in requests_of(4)]
    loops = [Loop(view_stages(plan, files=False), MemoryRunner(ProgressPrinter(told))) for plan in plans]
    (batch,) = draw_ahead(loops, pipeline, Room(ONE_DEVICE, 4))
    errors = {loops.index(loop): error for loop, error in batch}
    assert errors[0] is None and errors[3] is None and model.batches == [2]
    assert isinstance(errors[1], WeightsError) and isinstance(errors[2], ImageError) and "background" in str(errors[2])
    picture = prepare_image(as_stored(off_centre()), model.image_size, model.target_fraction)
    np.testing.assert_array_equal(loops[0].finish().views.get()[0], as_stored(picture))
    assert loops[0].runner.evaluations == 24 + 11 and "slow as ever" in told.getvalue()
    # A single run draws the same.
    alone = views(pipeline, requests_of(1)[0])
    np.testing.assert_array_equal(alone.images, loops[0].finish().views.get())


def test_runs_that_are_drawn_come_first_and_cost_nothing():
    model = FakeModel(rows=2)
    loops = loops_of(model.pipeline, requests_of(3))
    loops[1].advance()
    loops[1].advance()
    ended, batch = draw_ahead(loops, model.pipeline, Room(ONE_DEVICE, 2))
    assert ended == [(loops[1], None)] and [loop for loop, _ in batch] == [loops[0], loops[2]]
    assert model.batches == [1, 2] and model.calls.count("picture") == 3
    assert all(loop.runner.evaluations == PICTURE_EVALUATIONS + 24 for loop in loops)


def test_wrong_batches_of_a_foreign_model(orbits):
    model, settings = orbits, orbits.view_settings("draft")
    picture = np.ones((model.image_size, model.image_size, 4), np.float32)
    tasks = [ViewTask(picture, None, seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="expected 1 to 1 tasks"):
        model.draw_views(tasks, settings, batch=Batch(None, 1))
    with pytest.raises(ValueError, match="starts from a picture"):
        model.draw_views([ViewTask(None, "mug", 0)], settings)
    with pytest.raises(ValueError, match="cannot be split evenly"):
        Batch(jax.sharding.Mesh(np.asarray(ONE_DEVICE * 2), ("data",)), 3)


def test_weights_that_draw_no_numbers(orbits):
    """The row says so."""

    class Broken:
        """A source whose UNet is damaged."""

        preset, name, remark = orbits.preset, orbits.name, ""

        def load(self, part, dtype):
            params = orbits.parameters(part)
            return jax.tree.map(lambda leaf: leaf * jnp.nan, params) if part == "unet" else params

    model = type(orbits)(Broken(), orbits.memory_preset)
    task = ViewTask(np.ones((model.image_size, model.image_size, 4), np.float32), None, 0)
    (drawn,) = model.draw_views([task], model.view_settings("draft"))()
    assert isinstance(drawn, WeightsError) and "NaN or infinite" in str(drawn)
