"""The frame of a page: x right, y up, z towards the viewer, as in the SPZ file that it holds."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from splat import Cameras
from splat.io.frames import rotate_harmonics, to_y_up


_STRAIGHT = 0.9999  # cosine within which an up direction counts as that of an axis


@dataclasses.dataclass(frozen=True, eq=False)
class PageFrame:
    """How the world of the gaussians becomes the frame of the page.

    Attributes:
        turn: [3, 3] rotation from the world to the page.
    """

    turn: Float[np.ndarray, "3 3"]

    def world_json(self, degree: int) -> dict[str, list]:
        """The way back, with which the page makes PLY files: rotation, quaternion xyzw, and matrices of harmonics.

        Args:
            degree: Of the harmonics, 0 to 3.
        """
        back = self.turn.T
        functions = (degree + 1) ** 2
        # Row i is what the i-th function alone becomes.
        units = np.repeat(np.eye(functions, dtype=np.float32)[:, :, None], 3, axis=2)
        matrix = rotate_harmonics(units, back)[:, :, 0].T.astype(np.float64)
        bands = [slice(band * band, (band + 1) ** 2) for band in range(1, degree + 1)]
        return {
            "rotation": back.tolist(),
            "quaternion": _quaternion_xyzw(back),
            "bands": [np.round(matrix[rows, rows], 7).tolist() for rows in bands],
        }

    def camera_to_page(self, cameras: Cameras) -> Float[np.ndarray, "V 4 4"]:
        """OpenGL camera-to-page matrices [V, 4, 4], float64."""
        pose = np.asarray(cameras.world_to_camera, np.float64)
        matrices = np.tile(np.eye(4), (len(pose), 1, 1))
        rotation = np.einsum("ij,vkj->vik", self.turn, pose[:, :3, :3])
        matrices[:, :3, 3] = -np.einsum("vij,vj->vi", rotation, pose[:, :3, 3])
        matrices[:, :3, :3] = rotation * np.array([1.0, -1.0, -1.0])[None, None]  # from OpenCV's axes
        return matrices


def page_frame(up: str | Float[np.ndarray, "3"]) -> PageFrame:
    """The frame in which a direction is up.

    Args:
        up: "z", "y" or "-y", or a direction of the world; one close to an axis counts as that axis.

    Raises:
        ValueError: `up` is another text.
    """
    if isinstance(up, str):
        return PageFrame(to_y_up(up))
    direction = up / np.linalg.norm(up)
    for name, axis in (("z", (0, 0, 1)), ("y", (0, 1, 0)), ("-y", (0, -1, 0))):
        if direction @ np.array(axis) > _STRAIGHT:
            return PageFrame(to_y_up(name))
    # Any right-handed frame with this direction in the middle; the views decide from where it is seen.
    side = np.eye(3)[np.abs(direction).argmin()]
    right = np.cross(direction, side)
    right /= np.linalg.norm(right)
    return PageFrame(np.stack([right, direction, np.cross(right, direction)]))


def _quaternion_xyzw(rotation: Float[np.ndarray, "3 3"]) -> list[float]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_quat().tolist()
