"""The IM-3D loop (arXiv 2402.08682, figure 2) as generators of stages: the order of all work stands here.

    drawn, input   the picture: given, or drawn from the prompt
    views          the orbit of the picture
    cameras        where its cameras stand
    preview        a video and a sheet of the views
    fit0           gaussians, up to the first refresh
    refine1        their renders, drawn anew, where these contradict the targets; left out where fewer rounds are asked
                   for
    fit1 ...       the fit goes on with these as targets
    asset          the gaussians
    pictures       a turntable
    metrics        figures, and a page that shows all of it

A generator knows neither files nor the insides of models. Whoever drives it (`runners`) does the work of each stage it
yields, keeps the result, and sends a reference to it back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from im3d_jax.data.captures import Capture
from im3d_jax.generation import drawing, fits, products
from im3d_jax.generation.plan import Plan
from im3d_jax.generation.products import PosedViews
from im3d_jax.generation.stages import Ref, Result, Stage, Stages, Workplace
from im3d_jax.generation.stores import AssetFile, FitFile, OrbitFiles, OtherFiles, PictureFile, ViewFiles
from im3d_jax.models import lpips as lpips_distance
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.pipelines import Orbit
from im3d_jax.reconstruction import FitConfig, FitState, final_gaussians, poses
from im3d_jax.viewer import About, about_captures, about_request
from im3d_jax.weights.lpips_weights import LpipsWeights
from splat import Cameras, Gaussians


# Where in the fit the targets are drawn anew, in twelfths: every 500 of 1,200 steps in IM-3D, section 3.4.
REFRESH_TWELFTHS = (5, 10)


@dataclasses.dataclass(frozen=True, eq=False)
class ViewRefs:
    """Where the results of the first half are.

    Attributes:
        picture: [H, W, 4] the first view.
        views: [T, H, W, 4].
        orbit: Their cameras.
    """

    picture: Ref[np.ndarray]
    views: Ref[np.ndarray]
    orbit: Ref[Orbit]


@dataclasses.dataclass(frozen=True, eq=False)
class AssetRefs:
    """Where the results of a whole run are.

    Attributes:
        drawn: The first half; None for views that were given.
        targets: [T, H, W, 4] the views that were fitted last.
        gaussians: The asset.
    """

    drawn: ViewRefs | None
    targets: Ref[np.ndarray]
    gaussians: Ref[Gaussians]


def view_stages(plan: Plan, *, files: bool = True) -> Stages[ViewRefs]:
    """The first half: from the prompt or picture to views and their cameras.

    Args:
        plan: What to draw.
        files: Whether to make what only people look at.
    """
    model = plan.pipeline.views
    settings = {"request": plan.request.to_json() | {"rounds": None, "start": None}}
    store = PictureFile("input.png")
    if plan.given:
        picture = yield Stage(
            "input", "prepare the picture", store, drawing.take_picture(plan), (), settings, early=True
        )
    elif plan.pipeline.prepares_pictures:
        draw = drawing.DrawPicture(plan)
        drawn = yield Stage("drawn", "picture", PictureFile("drawn.png"), draw, (), settings, early=True)
        work = drawing.cut_out_drawn(plan)
        picture = yield Stage("input", "prepare the picture", store, work, (drawn,), early=True)
    else:
        picture = yield Stage("input", "picture", store, drawing.DrawPicture(plan), (), settings, early=True)
    shots = ViewFiles("views", model.num_views)
    views = yield Stage("views", "views", shots, drawing.DrawViews(plan), (picture,), settings, early=True)
    found = OrbitFiles(shots.names, model.family)
    orbit = yield Stage("cameras", "elevation", found, drawing.FindOrbit(plan), (views,), settings)
    if files:
        yield Stage("preview", "video and sheet", OtherFiles(), products.preview_views, (views,))
    return ViewRefs(picture, views, orbit)


def asset_stages(plan: Plan, *, files: bool = True, turntable: products.Turntable | None = None) -> Stages[AssetRefs]:
    """The whole way: views, the fit with its refinements, and the asset.

    Args:
        plan: What to make.
        files: Whether to make what only people look at.
        turntable: The video; `products.TURNTABLE` without.
    """
    drawn = yield from view_stages(plan, files=files)
    config, targets, request = plan.views.fit, drawn.views, plan.request
    network = None if plan.perceptual is None else plan.perceptual.network
    # Cut at every refresh, wanted or not: runs that differ in `rounds` alone have the parts before it in common.
    stops = [config.steps * part // 12 for part in REFRESH_TWELFTHS] + [config.steps]
    state: Ref[FitState] | None = None
    for part, stop in enumerate(stops):
        fit = fits.Fit(config, stop, request.seed, network, plan.views.fit_side, before=plan.pipeline.views.release)
        inputs = (drawn.orbit, targets, *([] if state is None else [state]))
        state = yield _fit_stage(part, _on_orbit(fit), config, stop, inputs)
        if part < request.rounds:
            number = part + 1
            refine = drawing.RefineViews(plan, number)
            noted = {} if plan.views.refresh is None else {f"refine{number}": refine.facts_file}
            shots = ViewFiles(f"views_round{number}", plan.pipeline.views.num_views, noted)
            inputs = (drawn.picture, drawn.orbit, targets, state)
            targets = yield Stage(f"refine{number}", f"refinement {number}", shots, refine, inputs)
    assert state is not None
    gaussians = yield from _asset(state)
    if files:
        # At the views' own size a draft needs no further compiled program.
        turn = products.draw_turntable(turntable or products.TURNTABLE, request.quality != "draft")
        pictures = lambda place, gaussians, orbit: turn(place, gaussians, orbit.cameras)  # noqa: E731
        yield Stage("pictures", "turntable", OtherFiles(), pictures, (gaussians, drawn.orbit))
        inputs = (gaussians, drawn.orbit, drawn.views, targets)
        measure = _measure_orbit(about_request(request.to_json(), plan.pipeline.name))
        yield Stage("metrics", "metrics", OtherFiles(products.VOLATILE), measure, inputs)
    return AssetRefs(drawn, targets, gaussians)


def reconstruction_stages(
    capture: Capture,
    config: FitConfig,
    *,
    seed: int = 0,
    network: Perceptual | None = None,
    side: int | None = None,
    lpips: LpipsWeights | None = None,
    enlarged: bool = True,
    files: bool = True,
    turntable: products.Turntable | None = None,
) -> Stages[AssetRefs]:
    """The second half alone: from views and cameras to an asset.

    Args:
        capture: Views of a run folder, or of a capture.
        config: Of the fit.
        seed: Of everything that is random.
        network: Features of the perceptual term, or None.
        side: Longest side of the views that the fit sees, pixels; None for their own.
        lpips: Weights that LPIPS is measured with.
        enlarged: Whether the turntable may be larger than the views.
        files: Whether to make what only people look at.
        turntable: The video; `products.TURNTABLE` without.
    """
    fit = fits.Fit(config, config.steps, seed, network, side, None if capture.generated else capture)
    work = lambda place: fit(place, capture.cameras, capture.images)  # noqa: E731
    state = yield _fit_stage(0, work, config, config.steps, ())
    gaussians = yield from _asset(state, capture.origin)
    if files:
        turn = products.draw_turntable(turntable or products.TURNTABLE, enlarged)
        pictures = lambda place, gaussians, state: turn(place, gaussians, _refined(capture, state))  # noqa: E731
        yield Stage("pictures", "turntable", OtherFiles(), pictures, (gaussians, state))
        about = about_captures(len(capture.images), seed, generated=capture.generated)
        measure = _measure_capture(capture, about, None if lpips is None else lpips.params)
        measured_with = {} if lpips is None else {"lpips_sha256": lpips.sha256}
        stores = OtherFiles(products.VOLATILE)
        yield Stage("metrics", "metrics", stores, measure, (gaussians, state), measured_with)
    return AssetRefs(None, _Given(capture.images), gaussians)


def _measure_orbit(about: About) -> Any:
    def work(
        place: Workplace, gaussians: Gaussians, orbit: Orbit, first: np.ndarray, targets: np.ndarray
    ) -> Result[dict[str, bytes]]:
        return products.measure_orbit(place, gaussians, about, orbit.cameras, first, targets)

    return work


def _fit_stage(part: int, work: Any, config: FitConfig, stop: int, inputs: tuple[Ref[Any], ...]) -> Stage[FitState]:
    store = FitFile(f"state/fit{part}.npz", config)
    return Stage(f"fit{part}", f"fit to step {stop}", store, work, inputs, {"stop": stop})


def _on_orbit(fit: fits.Fit) -> Any:
    def work(place: Workplace, orbit: Orbit, images: np.ndarray, state: FitState | None = None) -> Result[FitState]:
        return fit(place, orbit.cameras, images, state)

    return work


def _asset(state: Ref[FitState], origin: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Stages[Ref[Gaussians]]:
    def work(place: Workplace, state: FitState) -> Result[Gaussians]:
        return Result(final_gaussians(state))

    return (yield Stage("asset", "asset", AssetFile(origin=origin), work, (state,)))


def _refined(capture: Capture, state: FitState) -> Cameras:
    """The cameras of a capture as the fit has moved them."""
    if state.poses is None:
        return capture.cameras
    return poses.moved(capture.cameras, state.poses.motions, state.extent)


def _measure_capture(capture: Capture, about: About, lpips: lpips_distance.Params | None) -> Any:
    measure = products.measure(about, lpips)

    def work(place: Workplace, gaussians: Gaussians, state: FitState) -> Result[dict[str, bytes]]:
        cameras, images = _refined(capture, state), capture.images
        if capture.generated:
            # The views of the folder are the first sample, and nothing has drawn them anew.
            return products.measure_orbit(place, gaussians, about, cameras, images, images)
        parts = {"views": PosedViews(cameras, images, capture.valid)}
        if capture.test is not None:
            parts["test"] = PosedViews(capture.test.cameras, capture.test.images, capture.test.valid)
        return measure(place, gaussians, parts)

    return work


@dataclasses.dataclass(frozen=True, eq=False)
class _Given:
    """A `Ref` to what was there before the run."""

    value: np.ndarray

    def get(self) -> np.ndarray:
        """See `Ref`."""
        return self.value
