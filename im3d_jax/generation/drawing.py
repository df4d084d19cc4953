"""Work of the stages that draw: the picture, the views, their cameras, and refined views."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from im3d_jax.errors import ImageError, InputError
from im3d_jax.generation.plan import Plan
from im3d_jax.generation.stages import Result, Workplace
from im3d_jax.images.cutout_checks import on_checkerboard
from im3d_jax.images.files import encode_png
from im3d_jax.images.prepare import prepare_image
from im3d_jax.output.renders import render_views
from im3d_jax.output.run_files import CUT_OUT
from im3d_jax.pipelines import Batch, Orbit
from im3d_jax.pipelines.base import ONE, Drawing
from im3d_jax.progress import Report
from im3d_jax.reconstruction import FitState, final_gaussians
from im3d_jax.reconstruction.refresh import refreshed


def _alone(drawing: Drawing) -> Result[np.ndarray]:
    """The one result of a drawing."""
    (drawn,) = drawing()
    if isinstance(drawn, InputError):
        raise drawn
    return Result(drawn.images, drawn.evaluations, drawn.remarks)


@dataclasses.dataclass(frozen=True, eq=False)
class DrawPicture:
    """Draws the first picture from the prompt; no inputs."""

    plan: Plan
    waits = True

    @property
    def key(self) -> Hashable:
        """See `Draw`."""
        return "picture", id(self.plan.pipeline), self.plan.pictures

    def start(
        self, works: Sequence[DrawPicture], inputs: Sequence[Sequence[Any]], batch: Batch, report: Report | None
    ) -> Drawing:
        """See `Draw`."""
        model, requests = self.plan.pipeline.pictures, [work.plan.request for work in works]
        if model is None:
            raise ValueError(
                f"{self.plan.pipeline.name} draws no pictures: a plan without a picture needs one that does"
            )
        prompts, row_seeds = [request.prompt or "" for request in requests], [request.seed for request in requests]
        return model.draw_pictures(prompts, row_seeds, self.plan.pictures, batch=batch, report=report)

    def __call__(self, place: Workplace) -> Result[np.ndarray]:
        """See `Draw`."""
        return _alone(self.start([self], [()], ONE, place.report))


@dataclasses.dataclass(frozen=True, eq=False)
class DrawViews:
    """Draws the orbit of a picture."""

    plan: Plan
    waits = False

    @property
    def key(self) -> Hashable:
        """See `Draw`."""
        return "views", id(self.plan.pipeline), self.plan.views, self.plan.request.prompt is None

    def start(
        self, works: Sequence[DrawViews], inputs: Sequence[Sequence[Any]], batch: Batch, report: Report | None
    ) -> Drawing:
        """See `Draw`."""
        tasks = [work.plan.task(picture) for work, (picture,) in zip(works, inputs, strict=True)]
        return self.plan.pipeline.views.draw_views(tasks, self.plan.views, batch=batch, report=report)

    def __call__(self, place: Workplace, picture: np.ndarray) -> Result[np.ndarray]:
        """See `Draw`."""
        return _alone(self.start([self], [(picture,)], ONE, place.report))


@dataclasses.dataclass(frozen=True, eq=False)
class RefineViews:
    """Renders the fit so far and lets the model draw the views anew (IM-3D, section 3.4)."""

    plan: Plan
    round: int

    @property
    def facts_file(self) -> str:
        """File in a run folder of what was kept of the former targets."""
        return f"state/refine{self.round}.json"

    def __call__(
        self, place: Workplace, picture: np.ndarray, orbit: Orbit, former: np.ndarray, state: FitState
    ) -> Result[np.ndarray]:
        """Work of the stage."""
        renders = render_views(final_gaussians(state), orbit.cameras)
        model, task = self.plan.pipeline.views, self.plan.task(picture)
        # View 0 is the given picture: it is known, and drawing it again could only lose.
        drawn = _alone(model.refine_views([renders], [task], self.plan.views, round=self.round, report=place.report))
        if self.plan.views.refresh is None:
            return drawn
        new = refreshed(former, drawn.value, renders, self.plan.views.refresh)
        remarks = drawn.remarks
        if new.rejected:
            views = ", ".join(map(str, new.rejected))
            remarks += (
                f"round {self.round} of refinement: views {views} would be less sharp and keep their former targets",
            )
        return Result(new.images, drawn.evaluations, remarks, {self.facts_file: new.facts()})


@dataclasses.dataclass(frozen=True, eq=False)
class FindOrbit:
    """Finds the cameras of views."""

    plan: Plan

    def __call__(self, place: Workplace, views: np.ndarray) -> Result[Orbit]:
        """Work of the stage."""
        request = self.plan.request
        orbit = self.plan.pipeline.views.find_orbit(
            views,
            self.plan.views,
            seed=request.seed,
            elevation=request.elevation,
            direction=request.orbit_direction,
            report=place.report,
        )
        return Result(orbit, remarks=orbit.remarks)


def take_picture(plan: Plan) -> Any:
    """Work of the stage that takes the given picture, and shows what was cut out of it."""

    def work(place: Workplace) -> Result[np.ndarray]:
        picture = plan.given_picture()
        shown = {} if place.folder is None else {CUT_OUT: encode_png(on_checkerboard(picture.cut))}
        return Result(picture.prepared, files=shown)

    return work


def cut_out_drawn(plan: Plan) -> Any:
    """Work of the stage that prepares a picture which another model than the view model drew."""

    def work(place: Workplace, drawn: np.ndarray) -> Result[np.ndarray]:
        model = plan.pipeline.views
        try:
            return Result(prepare_image(drawn, model.image_size, model.target_fraction))
        except ImageError as error:
            where = "the drawn picture" if place.folder is None else str(place.folder / "drawn.png")
            raise ImageError(f"{where}: {error}; or try another seed") from error

    return work
