"""A request and everything else that decides its result: settings of the quality, and the weights by their content."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any, Literal

import numpy as np

from im3d_jax.errors import ImageError, InputError
from im3d_jax.generation.request import AssetRequest
from im3d_jax.images.cutout import cut_out
from im3d_jax.images.cutout_checks import CutOutFigures, measure_cut_out
from im3d_jax.images.prepare import place_object
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.output.run_files import CUT_OUT
from im3d_jax.pipelines import Pipeline, ViewTask
from im3d_jax.reconstruction.presets import with_start
from im3d_jax.weights.lpips_weights import LpipsWeights, open_lpips


@dataclasses.dataclass(frozen=True, eq=False)
class PerceptualChoice:
    """Features of the fit's perceptual term.

    Attributes:
        network: The features.
        name: For run.json.
        sha256: Of their weights. A run folder needs it of features that are not the model's own: the folder could be
            continued with other features otherwise.
    """

    network: Perceptual
    name: str
    sha256: str | None = None

    @classmethod
    def of(cls, lpips: str | os.PathLike | LpipsWeights | PerceptualChoice | None) -> PerceptualChoice | None:
        """Features of LPIPS weights, or of what `load_lpips` reads; choices and None stay what they are.

        Raises:
            InputError: See `load_lpips`; or another value.
        """
        if lpips is None or isinstance(lpips, PerceptualChoice):
            return lpips
        weights = open_lpips(lpips)
        return cls(weights.network(), "LPIPS (VGG16)", weights.sha256)


@dataclasses.dataclass(frozen=True, eq=False)
class GivenPicture:
    """A picture that a user gave.

    Attributes:
        image: [h, w, 3 or 4], as it came.
        cut: [h, w, 4], its object alone.
        prepared: [H, W, 4], the object as the view model wants it.
    """

    image: np.ndarray
    cut: np.ndarray
    prepared: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What will be done.

    Attributes:
        request: What to make.
        what: ``asset``, or ``views`` alone.
        pipeline: Draws.
        views: Settings of the view model.
        pictures: Settings of the picture model, where a picture is drawn.
        given: Whether the request has a picture; it is drawn otherwise.
        perceptual: Features that the fit compares.
        own_features: Whether they are the model's own.
        cut_out: What the given picture's cut-out looks like; None where the picture is drawn.
    """

    request: AssetRequest
    what: Literal["asset", "views"]
    pipeline: Pipeline
    views: Any
    pictures: Any
    given: bool
    perceptual: PerceptualChoice | None
    own_features: bool = True
    cut_out: CutOutFigures | None = None

    def given_picture(self) -> GivenPicture:
        """The given picture, cut out and prepared for the view model.

        Raises:
            ImageError: It cannot be used.
        """
        image = self.request.read_image()
        assert image is not None
        cut, model = cut_out(image), self.pipeline.views
        return GivenPicture(image, cut, place_object(cut, model.image_size, model.target_fraction))

    def task(self, picture: np.ndarray) -> ViewTask:
        """The request as the view model takes it.

        Args:
            picture: [H, W, 4] the first view.
        """
        return ViewTask(picture, self.request.prompt, self.request.seed, self.request.elevation)

    def settings(self) -> dict[str, Any]:
        """JSON values of everything that decides the result: no paths, memory presets or devices.

        Raises:
            InputError: The caller's features have no `sha256`.
        """
        known = self.request.elevation_deg is not None
        settings: dict[str, Any] = {
            "what": self.what,
            "request": self.request.to_json(),
            "model": self.pipeline.views.identity(elevation_known=known),
            "views": dataclasses.asdict(self.views),
        }
        if self.what == "views":
            # What only a fit depends on.
            for name in ("rounds", "start"):
                del settings["request"][name]
            for name in ("fit", "fit_side", "refresh"):
                del settings["views"][name]
        if self.pictures is not None and self.pipeline.pictures is not None:
            settings["picture_model"] = self.pipeline.pictures.picture_identity()
            settings["pictures"] = dataclasses.asdict(self.pictures)
            if self.pipeline.prepares_pictures:
                # The same weights loaded twice draw the same picture, which is then cut out and scaled.
                settings["prepares_pictures"] = True
        if self.perceptual is not None and not self.own_features:
            if not self.perceptual.sha256:
                raise InputError(
                    f"lpips: the features {self.perceptual.name!r} have no sha256, by which a run folder knows them; "
                    "give PerceptualChoice(network, name, sha256), or leave out= away"
                )
            settings["lpips_sha256"] = self.perceptual.sha256
        return settings

    def facts(self) -> dict[str, Any]:
        """What run.json says beside the settings."""
        facts: dict[str, Any] = {"model": self.pipeline.name}
        if self.perceptual is not None:
            facts["perceptual_features"] = self.perceptual.name
        if self.pictures is not None and self.pipeline.pictures is not None and self.pipeline.prepares_pictures:
            facts["image_model"] = self.pipeline.pictures.name
        if self.pipeline.views.memory is not None:
            facts["memory"] = self.pipeline.views.memory
        if self.cut_out is not None:
            figures = {name: round(value, 4) for name, value in dataclasses.asdict(self.cut_out).items()}
            facts["cut_out"] = {**figures, "warnings": self.cut_out.warnings()}
        return facts

    def remarks(self, out: str | os.PathLike | None = None) -> list[str]:
        """Lines for the user before anything is drawn.

        Args:
            out: The run folder, if there is one.

        Returns:
            How weights were read, what of the prompt is not followed, what may be wrong with the picture's cut-out.
        """
        drawer = None if self.pictures is None else self.pipeline.pictures
        used = [self.pipeline.views, *([drawer] if drawer is not None and drawer is not self.pipeline.views else [])]
        lines = [model.remark for model in used if model.remark]
        if self.request.prompt is not None:
            lines += (drawer or self.pipeline.views).prompt_remarks(self.request.prompt)
        if self.cut_out is not None:
            see = "" if out is None else f"; see {pathlib.Path(out) / CUT_OUT}"
            lines += [f"{_picture_name(self.request)}: {text}{see}" for text in self.cut_out.warnings()]
        return lines


def _picture_name(request: AssetRequest) -> str:
    """The given picture, for messages."""
    return "the picture" if isinstance(request.image, np.ndarray) else pathlib.Path(request.image or "").name


def make_plan(
    request: AssetRequest,
    pipeline: Pipeline,
    *,
    what: Literal["asset", "views"] = "asset",
    lpips: PerceptualChoice | None = None,
) -> Plan:
    """Resolves a request with a model; a given picture is tried here, before anything is written.

    Args:
        request: What to make.
        pipeline: Draws it.
        what: The asset, or its views alone.
        lpips: Features that the user chose for the fit; the model's own otherwise.

    Raises:
        InputError: The model cannot draw the request, the prompt alone names nothing that it knows, or the picture
            cannot be used.
    """
    model, given = pipeline.views, request.image is not None
    if not given and pipeline.pictures is None:
        raise InputError(
            f"{pipeline.name} starts from a picture: give --image=FILE, or a model that draws it from the prompt: "
            "--image_model=DIR (Stable Diffusion) or --image_model=tiny"
        )
    if request.orbit_direction not in ("auto", *model.directions):
        raise InputError(
            f"orbit_direction={request.orbit_direction}: {pipeline.name} draws "
            f"{' or '.join(model.directions)} orbits only; remove the option"
        )
    if not given and pipeline.pictures is not None and request.prompt is not None:
        # Beside a picture, words that are not known cost nothing: the picture says what to draw.
        pipeline.pictures.check_prompt(request.prompt)
    pictures = None if given or pipeline.pictures is None else pipeline.pictures.picture_settings(request.quality)
    perceptual = None
    if what == "asset":
        perceptual = PerceptualChoice(*model.perceptual()) if lpips is None else lpips
    settings: Any = model.view_settings(request.quality)
    settings = dataclasses.replace(settings, fit=with_start(settings.fit, request.start))
    plan = Plan(request, what, pipeline, settings, pictures, given, perceptual, lpips is None)
    if not given:
        return plan
    picture = plan.given_picture()
    figures = measure_cut_out(picture.image, picture.cut)
    if figures.whole_frame:
        raise ImageError(
            f"{_picture_name(request)}: {figures.share:.0%} of the picture would be the object, so it is the whole "
            "frame: cut the object out and give a PNG with alpha, or a photograph before a plain background with room "
            "around the object"
        )
    return dataclasses.replace(plan, cut_out=figures)
