"""What a run gives a Python caller."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator

import jax
import numpy as np

from im3d_jax.errors import InputError, input_errors
from im3d_jax.images.files import encode_png
from im3d_jax.output.renders import render_views
from splat import Cameras, Gaussians, save


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Drawn views of one object.

    Attributes:
        images: [T, H, W, 4] float32 in [0, 1], straight alpha; view 0 is the given or first drawn picture.
        cameras: T cameras, OpenCV; the object lies in the unit sphere, world z up.
        elevation: Of the orbit in radians.
        network_evaluations: That drawing took.
    """

    images: np.ndarray
    cameras: Cameras
    elevation: float
    network_evaluations: int

    def __repr__(self) -> str:
        views, height, width, _ = self.images.shape
        return f"Views({views} of {width}x{height}, elevation {math.degrees(self.elevation):.1f} degrees)"

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the pictures as ``00.png`` and so on into a folder, which is made.

        Raises:
            InputError: The folder cannot be written.
        """
        with _writing(folder):
            os.makedirs(folder, exist_ok=True)
            for index, image in enumerate(self.images):
                with open(os.path.join(folder, f"{index:02d}.png"), "wb") as file:
                    file.write(encode_png(image))


@dataclasses.dataclass(frozen=True, eq=False)
class Asset:
    """Gaussians, and the views that they were fitted to.

    Attributes:
        gaussians: The asset.
        views: [T, H, W, 4] float32 in [0, 1], straight alpha: what was drawn first, or the views of a capture.
        targets: [T, H, W, 4] the views that were fitted last: those of the last refinement.
        cameras: Of the views.
        network_evaluations: Of the whole run.
        seconds: Of the whole run.
        origin: Place of the gaussians' and cameras' origin in the world of a capture; other than zero for captures far
            from their origin, in UTM coordinates for instance.
    """

    gaussians: Gaussians
    views: np.ndarray
    targets: np.ndarray
    cameras: Cameras
    network_evaluations: int
    seconds: float
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __repr__(self) -> str:
        views, height, width, _ = self.views.shape
        return f"Asset({len(self.gaussians)} gaussians, {views} views of {width}x{height})"

    def save(self, path: str | os.PathLike) -> None:
        """Writes the gaussians; the suffix chooses the format: ``.ply``, ``.spz``, ``.splat``, ``.glb``.

        PLY files are in the world of a capture, at `origin`; the other formats cannot hold places far from their own
        origin and leave it out.

        Raises:
            InputError: Another suffix, gaussians that hold a NaN or an infinity, or a path that cannot be written.
        """
        with input_errors(ValueError), _writing(path):
            if any(self.origin) and os.fspath(path).lower().endswith(".ply"):
                save(path, self.gaussians, origin=self.origin)
            else:
                save(path, self.gaussians)

    def render(self, cameras: Cameras) -> np.ndarray:
        """Renders the asset.

        Args:
            cameras: V cameras, for instance `cameras`.

        Returns:
            [V, H, W, 4] float32 in [0, 1], straight alpha.

        Raises:
            InputError: No cameras.
        """
        if not isinstance(cameras, Cameras) or not len(cameras):
            raise InputError("expected one or more cameras as splat.Cameras, for instance those of splat.orbit_cameras")
        return render_views(jax.device_put(self.gaussians), cameras)


@contextlib.contextmanager
def _writing(path: str | os.PathLike) -> Iterator[None]:
    """Tells in one line that a path cannot be written; the system's own error may name a temporary file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); give a path in a folder that can be written"
        ) from error
