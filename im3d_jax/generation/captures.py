"""How captures are fitted: the settings that users choose, and what cannot be fitted."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np

from im3d_jax.choices import FEWEST_GAUSSIANS, MOST_GAUSSIANS, check_whole
from im3d_jax.data.captures import Capture
from im3d_jax.errors import CaptureError, InputError
from im3d_jax.reconstruction import FitConfig, capture_config
from im3d_jax.reconstruction.pictures import show_a_scene


StrategyName = Literal["default", "mcmc"]
SMALLEST_SIDE = 11  # pixels of a view: the window of SSIM
SMALLEST_LPIPS_SIDE = 16  # pixels: VGG16 halves four times
# Rows for gaussians of a capture: for views of up to 200x200 pixels, and at most for larger ones.
FEWEST_ROWS, MOST_ROWS, PIXELS_OF_FEWEST = 40_000, 200_000, 200 * 200


@dataclasses.dataclass(frozen=True)
class CaptureSettings:
    """Of the L1 + SSIM fit of a capture.

    Attributes:
        steps: Length of the fit, at least 1.
        strategy: ``default`` (clone, split, prune, reset) or ``mcmc`` (relocate, add noise).
        sh_degree: Of the spherical harmonics, 0 to 4.
        random_background: Composite both images on a new colour each step, for pictures with alpha.
        pose_refinement: Let the poses of the cameras move.
        gaussians: Most gaussians, 100 to 10,000,000; None takes a number by the size of the pictures and the points.

    Raises:
        InputError: A value outside of its range.
    """

    steps: int = 3000
    strategy: StrategyName = "default"
    sh_degree: int = 3
    random_background: bool = False
    pose_refinement: bool = False
    gaussians: int | None = None

    def __post_init__(self):
        # As ints of Python: run.json holds them.
        numbers = {
            "steps": check_whole("steps", self.steps, 1),
            "sh_degree": check_whole("sh_degree", self.sh_degree, 0, 4),
        }
        if self.gaussians is not None:
            numbers["gaussians"] = check_whole("gaussians", self.gaussians, FEWEST_GAUSSIANS, MOST_GAUSSIANS)
        for name, number in numbers.items():
            object.__setattr__(self, name, number)
        if self.strategy not in get_args(StrategyName):
            raise InputError(f"strategy={self.strategy}: expected one of {', '.join(get_args(StrategyName))}")

    def config(self, capture: Capture) -> FitConfig:
        """The fit of a capture."""
        return capture_config(
            self.steps,
            strategy=self.strategy,
            sh_degree=self.sh_degree,
            random_background=self.random_background,
            refine_poses=self.pose_refinement,
            capacity=self.gaussians or usual_rows(capture),
            pictures=capture.points is None and show_a_scene(capture.images, capture.valid),
        )


def usual_rows(capture: Capture) -> int:
    """Most gaussians of a capture where the user does not say: by its pixels, and at least twice its points."""
    pixels = capture.cameras.width * capture.cameras.height
    rows = min(MOST_ROWS, FEWEST_ROWS * max(1, -(-pixels // PIXELS_OF_FEWEST)))
    return max(rows, 0 if capture.points is None else 2 * len(capture.points))


def check_capture(capture: Capture, *, lpips: bool = False, downscale: int = 1, hold_out: int = 0) -> None:
    """Refuses views that no fit can use.

    Args:
        capture: The views.
        lpips: Whether LPIPS will be measured, which needs larger pictures.
        downscale, hold_out: As the capture was loaded, for messages.

    Raises:
        CaptureError: Views that are too small, a single view of an orbit, or views from one place.
    """
    width, height = capture.cameras.width, capture.cameras.height
    smallest = SMALLEST_LPIPS_SIDE if lpips else SMALLEST_SIDE
    if min(width, height) < smallest:
        after = "" if downscale == 1 else f" after --downscale={downscale}"
        raise CaptureError(
            f"{capture.source}: the views have {width}x{height} pixels{after}; expected at least {smallest}x{smallest}"
        )
    if capture.generated and len(capture.images) < 2:
        raise CaptureError(f"{capture.source}: one view; expected at least 2, of which the first is the given picture")
    refuse_one_place(capture, hold_out)


def refuse_one_place(capture: Capture, hold_out: int = 0) -> None:
    """Refuses views from one place: they leave all depths open, and only points can say where to begin.

    Raises:
        CaptureError: All cameras lie in one place, and the capture has no points.
    """
    pose = np.asarray(capture.cameras.world_to_camera, np.float64)
    eyes = -np.einsum("vji,vj->vi", pose[:, :3, :3], pose[:, :3, 3])
    spread = np.ptp(eyes, axis=0).max()
    # The poses are float32: what is left of equal positions is their rounding. A capture whose centre was subtracted
    # in float64 has cameras in different places.
    if capture.points is None and capture.centre is None and spread <= 1e-6 * np.abs(eyes).max():
        left = f" (--hold_out={hold_out} leaves {len(eyes)} to fit)" if hold_out else ""
        raise CaptureError(
            f"{capture.source}: {len(eyes)} view{'s' * (len(eyes) > 1)} from one place{left}, so depth "
            "cannot be recovered; expected views from different places, or a COLMAP model with points"
        )


def settings_json(settings: CaptureSettings, capture: Capture) -> dict[str, Any]:
    """JSON values of settings, the number of gaussians resolved."""
    return dataclasses.asdict(settings) | {"gaussians": settings.gaussians or usual_rows(capture)}
