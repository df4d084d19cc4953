"""Camera files: JSON with NeRF-synthetic's or nerfstudio's fields, and `cameras.json` of a run folder.

The files hold OpenGL camera-to-world matrices and are turned to OpenCV here, once, at reading and at writing. Lens
distortion goes into the cameras.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from im3d_jax.data.json_lens import declared_size, distortion, intrinsics, lens_kind, number, of_frame
from im3d_jax.data.lens import LARGEST, lens_problem
from im3d_jax.errors import CaptureError
from splat.cameras import Cameras, from_opengl, to_opengl


def encode_cameras(cameras: Cameras, file_paths: Sequence[str], elevation: float | None = None, **more: str) -> bytes:
    """The text of a camera file, `cameras.json` of a run folder for instance.

    Args:
        cameras: of one focal length and centre, V of them.
        file_paths: V paths of their images, relative to the JSON file.
        elevation: of the orbit in radians, recorded in degrees as `elevation_deg`.
        more: further fields; readers of camera files skip those that they do not know.
    """
    matrices = np.asarray(to_opengl(cameras.world_to_camera), np.float64)
    matrix_of = np.asarray(cameras.intrinsics, np.float64)
    if len(file_paths) != len(matrices):
        raise ValueError(f"{len(file_paths)} file paths for {len(matrices)} cameras")
    if not (matrix_of == matrix_of[:1]).all():
        raise ValueError("the cameras differ in their intrinsics; expected one set for all views")
    value: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": cameras.width,
        "h": cameras.height,
        "fl_x": matrix_of[0, 0, 0],
        "fl_y": matrix_of[0, 1, 1],
        "cx": matrix_of[0, 0, 2],
        "cy": matrix_of[0, 1, 2],
        "camera_angle_x": 2.0 * math.atan(0.5 * cameras.width / matrix_of[0, 0, 0]),
    }
    value |= more
    if elevation is not None:
        value["elevation_deg"] = math.degrees(elevation)
    value["frames"] = [
        {"file_path": path, "transform_matrix": matrix.tolist()}
        for path, matrix in zip(file_paths, matrices, strict=True)
    ]
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def decode_cameras(
    fields: dict[str, Any],
    path: pathlib.Path,
    sizes: Sequence[tuple[int, int]] | None = None,
    downscale: int = 1,
    centre: np.ndarray | None = None,
) -> Cameras:
    """The cameras of a camera file.

    Args:
        fields: From `read_fields`.
        path: Of the file, for messages.
        sizes: Width and height of each frame's picture in pixels; those that the file gives without.
        downscale: The cameras of pictures that are so many times smaller, without a rest.
        centre: [3] a place in the world, float64, that becomes the origin.

    Returns:
        Cameras of one size, that of the widest and of the highest picture: a smaller picture is its upper left part.

    Raises:
        CaptureError: Missing or wrong fields, singular poses, or a lens beyond what float32 can hold.
    """
    frames = [of_frame(fields, frame) for frame in fields["frames"]]
    measured = [_declared(frame, path) for frame in frames] if sizes is None else sizes
    poses = camera_to_world(fields, path)
    if centre is not None:
        poses[:, :3, 3] -= centre[None]
    # Before scaling; a cut-off remainder lies right and below, so the centre only scales.
    matrices = np.stack([intrinsics(frame, path, *size) for frame, size in zip(frames, measured, strict=True)])
    coefficients, lens = distortion(frames, path)
    for index, (camera, size) in enumerate(zip(matrices, measured, strict=True)):
        problem = lens_problem(camera, np.zeros(0) if coefficients is None else coefficients[index], *size)
        if problem is not None:
            raise CaptureError(f"{path}: frame {index}: {problem}; check the camera file")
    matrices[:, :2] /= downscale
    return Cameras(
        from_opengl(jnp.asarray(poses, jnp.float32)),
        jnp.asarray(matrices, jnp.float32),
        max(int(width) // downscale for width, _ in measured),
        max(int(height) // downscale for _, height in measured),
        None if coefficients is None else jnp.asarray(coefficients, jnp.float32),
        lens,
    )


def camera_to_world(fields: dict[str, Any], path: pathlib.Path) -> np.ndarray:
    """Poses [V, 4, 4] of the frames, OpenGL, float64, without the scale of their axes.

    Raises:
        CaptureError: Poses that are none.
    """
    return np.stack([_pose(frame, index, path) for index, frame in enumerate(fields["frames"])])


def _declared(frame: dict[str, Any], path: pathlib.Path) -> tuple[float, float]:
    size = declared_size(frame, path)
    if size is None:
        raise CaptureError(f"{path}: missing fields 'w' and 'h'; expected the size of the pictures in pixels")
    return size


def elevation_of(fields: dict[str, Any], path: pathlib.Path) -> float | None:
    """Elevation of the orbit in radians, where the file gives one."""
    return math.radians(number(fields, "elevation_deg", path)) if fields.get("elevation_deg") is not None else None


def read_fields(path: pathlib.Path, text: str | bytes | None = None) -> dict[str, Any]:
    """The fields of a camera file, checked as far as they are needed to find its pictures.

    Args:
        path: Of the file, for messages.
        text: Its content; read from `path` without.

    Raises:
        CaptureError: Not JSON, no frames, or a lens that is not supported.
    """
    try:
        # Bytes: json tells UTF-8 with a byte order mark, and UTF-16, from plain UTF-8.
        fields = json.loads(path.read_bytes() if text is None else text)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CaptureError(f"{path}: not a readable JSON file ({reason}); export it again") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("frames"), list) or not fields["frames"]:
        raise CaptureError(f"{path}: missing field 'frames'; expected a list with one entry per view")
    for index, frame in enumerate(fields["frames"]):
        for name in ("file_path", "transform_matrix"):
            if not isinstance(frame, dict) or name not in frame:
                raise CaptureError(f"{path}: frame {index} is missing the field '{name}'")
        if not isinstance(frame["file_path"], str):
            raise CaptureError(f"{path}: frame {index}: file_path is {frame['file_path']!r}; expected text")
    for frame in fields["frames"]:
        lens_kind(of_frame(fields, frame), path)
    return fields


def _pose(frame: dict[str, Any], index: int, path: pathlib.Path) -> np.ndarray:
    """Camera-to-world `[4, 4]`, OpenGL, of one frame; a uniform scale of its axes is taken out."""
    where = f"{path}: frame {index}: transform_matrix"
    try:
        matrix = np.asarray(frame["transform_matrix"], np.float64)
    except (TypeError, ValueError, OverflowError):
        raise CaptureError(f"{where} holds a value that is not a number; expected 4x4 numbers") from None
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape != (4, 4) or not (np.abs(matrix) <= LARGEST).all():
        raise CaptureError(
            f"{where} has shape {list(matrix.shape)} or is not finite; expected 4x4 numbers (at most {LARGEST:g})"
        )
    scales = np.linalg.norm(matrix[:3, :3], axis=0)
    if scales.min() < 1e-8 or np.linalg.det(matrix[:3, :3] / scales[None]) < 1e-4:
        raise CaptureError(f"{where} is singular or mirrored; expected a camera-to-world pose")
    rotation = matrix[:3, :3] / scales.mean()
    sheared = np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-2
    if sheared or np.abs(matrix[3] - np.array([0.0, 0.0, 0.0, 1.0])).max() > 1e-6:
        raise CaptureError(f"{where} is sheared or projective; expected a camera-to-world pose")
    return np.block([[rotation, matrix[:3, 3:]], [matrix[3:]]])
