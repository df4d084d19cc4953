"""A capture: posed pictures of one object or scene, in memory."""

import dataclasses
import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np

from im3d_jax.errors import CaptureError
from splat.cameras import Cameras


@dataclasses.dataclass(frozen=True)
class Capture:
    """Posed pictures.

    Attributes:
        cameras: V cameras, OpenCV, in the capture's own world and scale, around `centre`.
        images: float32 `[V, H, W, 4]` in [0, 1], straight alpha; zero where not `valid`.
        names: file names as the camera file has them.
        source: the camera file, or the folder of the COLMAP model.
        test: the held-out views, if there are any.
        elevation: of the orbit in radians, for run folders.
        points: `[n, 3]` of the scene's surfaces, of COLMAP models.
        colours: `[n, 3]` of the points in [0, 1].
        family: of the model that drew the views, for run folders; see `pipelines.fit_settings`.
        valid: bool `[V, H, W]` of the pixels that count: the others are masked, or padding of pictures of several
            sizes. None if all count.
        centre: `[3]` float64, the place of the file's world that is the origin of cameras and points; None where that
            is the world's own origin.
        remarks: lines for the user on what was left out or has no effect.
    """

    cameras: Cameras
    images: np.ndarray
    names: tuple[str, ...]
    source: pathlib.Path
    test: "Capture | None" = None
    elevation: float | None = None
    points: np.ndarray | None = None
    colours: np.ndarray | None = None
    family: str | None = None
    valid: np.ndarray | None = None
    centre: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        views, height, width, _ = self.images.shape
        held_out = "" if self.test is None else f", {len(self.test.images)} held out"
        points = "" if self.points is None else f", {len(self.points)} points"
        return f"Capture({str(self.source)!r}, {views} views of {width}x{height}{held_out}{points})"

    @property
    def generated(self) -> bool:
        """Whether this is the orbit of a run folder."""
        return self.family is not None

    @property
    def origin(self) -> tuple[float, ...]:
        """Place of the origin of cameras and points in the file's world."""
        return (0.0, 0.0, 0.0) if self.centre is None else tuple(self.centre.tolist())

    def digest(self) -> str:
        """SHA-256 of all cameras, pixels and points, held-out views included."""
        value = hashlib.sha256()
        for part in (self, *([] if self.test is None else [self.test])):
            arrays = [part.cameras.world_to_camera, part.cameras.intrinsics, part.images]
            more = (part.cameras.distortion, part.points, part.colours, part.valid, part.centre)
            arrays += [array for array in more if array is not None]
            for array in arrays:
                value.update(np.ascontiguousarray(array).data)
            value.update(b"" if part.cameras.model == "pinhole" else part.cameras.model.encode())
        return value.hexdigest()


def held_out(capture: Capture, every: int) -> Capture:
    """The capture with every so-many-th view as its `test`, beginning with the first.

    Args:
        capture: Without held-out views.
        every: 0 for none.

    Raises:
        CaptureError: Nothing is left to fit, or to hold out.
    """
    if not every:
        return capture
    places = np.arange(len(capture.images))
    if every < 2 or len(places) < 2:
        raise CaptureError(
            f"{capture.source}: hold_out={every} leaves none of {len(places)} views to fit; expected 2 or more of both"
        )

    def take(chosen: np.ndarray) -> Capture:
        return dataclasses.replace(
            capture,
            cameras=capture.cameras[jnp.asarray(chosen)],
            images=capture.images[chosen],
            names=tuple(capture.names[place] for place in chosen),
            valid=None if capture.valid is None else capture.valid[chosen],
        )

    test = dataclasses.replace(take(places[::every]), points=None, colours=None, remarks=())
    return dataclasses.replace(take(places[places % every != 0]), test=test)
