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

from im3d_jax.data.lens import LARGEST, lens_problem
from im3d_jax.errors import CaptureError
from splat.cameras import Cameras, from_opengl, to_opengl


# nerfstudio's fields of the coefficients, in the order of `splat.Cameras`.
_OPENCV, _FISHEYE = ("k1", "k2", "p1", "p2", "k3"), ("k1", "k2", "k3", "k4")
_PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_FISHEYE_MODELS = ("OPENCV_FISHEYE",)


def encode_cameras(cameras: Cameras, file_paths: Sequence[str], elevation: float | None = None, **more: str) -> bytes:
    """The text of a camera file, `cameras.json` of a run folder for instance.

    Args:
        cameras: of one focal length and centre, V of them.
        file_paths: V paths of their images, relative to the JSON file.
        elevation: of the orbit in radians, recorded in degrees as `elevation_deg`.
        more: further fields; readers of camera files skip those that they do not know.
    """
    matrices = np.asarray(to_opengl(cameras.world_to_camera), np.float64)
    intrinsics = np.asarray(cameras.intrinsics, np.float64)
    if len(file_paths) != len(matrices):
        raise ValueError(f"{len(file_paths)} file paths for {len(matrices)} cameras")
    if not (intrinsics == intrinsics[:1]).all():
        raise ValueError("the cameras differ in their intrinsics; expected one set for all views")
    value: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": cameras.width,
        "h": cameras.height,
        "fl_x": intrinsics[0, 0, 0],
        "fl_y": intrinsics[0, 1, 1],
        "cx": intrinsics[0, 0, 2],
        "cy": intrinsics[0, 1, 2],
        "camera_angle_x": 2.0 * math.atan(0.5 * cameras.width / intrinsics[0, 0, 0]),
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
    fields: dict[str, Any], path: pathlib.Path, size: tuple[float, float] | None = None, downscale: int = 1
) -> Cameras:
    """The cameras of a camera file.

    Args:
        fields: From `read_fields`.
        path: Of the file, for messages.
        size: Width and height of its pictures in pixels; the file's own without.
        downscale: The cameras of pictures that are so many times smaller, without a rest.

    Raises:
        CaptureError: Missing or wrong fields, singular poses, or a lens beyond what float32 can hold.
    """
    frames, size = fields["frames"], size or declared_size(fields, path)
    if size is None:
        raise CaptureError(f"{path}: missing fields 'w' and 'h'; expected the size of the pictures in pixels")
    width, height = size
    poses = np.stack([_pose(frame, index, path) for index, frame in enumerate(frames)])
    # Before scaling; a cut-off remainder lies right and below, so the centre only scales.
    intrinsics = np.stack([_intrinsics({**fields, **frame}, path, width, height) for frame in frames])
    distortion, lens = _distortion(fields, path)
    for index, camera in enumerate(intrinsics):
        problem = lens_problem(camera, np.zeros(0) if distortion is None else distortion[index], width, height)
        if problem is not None:
            raise CaptureError(f"{path}: frame {index}: {problem}; check the camera file")
    intrinsics[:, :2] /= downscale
    return Cameras(
        from_opengl(jnp.asarray(poses, jnp.float32)),
        jnp.asarray(intrinsics, jnp.float32),
        int(width) // downscale,
        int(height) // downscale,
        None if distortion is None else jnp.asarray(distortion, jnp.float32),
        lens,
    )


def elevation_of(fields: dict[str, Any], path: pathlib.Path) -> float | None:
    """Elevation of the orbit in radians, where the file gives one."""
    return math.radians(_number(fields, "elevation_deg", path)) if fields.get("elevation_deg") is not None else None


def read_fields(path: pathlib.Path, text: str | bytes | None = None) -> dict[str, Any]:
    """The fields of a camera file, checked as far as they are needed to find its pictures.

    Args:
        path: Of the file, for messages.
        text: Its content; read from `path` without.

    Raises:
        CaptureError: Not JSON, no frames, or a lens that is not supported.
    """
    try:
        fields = json.loads(path.read_text() if text is None else text)
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
    model, known = fields.get("camera_model", "OPENCV"), (*_PINHOLE_MODELS, *_FISHEYE_MODELS)
    if model not in known:
        raise CaptureError(f"{path}: camera_model {model!r} is not supported; expected one of {', '.join(known)}")
    return fields


def _number(fields: dict[str, Any], name: str, path: pathlib.Path, default: float | None = None) -> float:
    value = fields.get(name, default)
    # Compared, not converted: JSON has integers that no float holds. NaN compares false.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        shown = repr(value)[:40]
        raise CaptureError(f"{path}: field '{name}' is {shown}; expected a finite number (at most {LARGEST:g})")
    return value


def declared_size(fields: dict[str, Any], path: pathlib.Path) -> tuple[float, float] | None:
    """(width, height) that the camera file gives, if it does."""
    if "w" not in fields or "h" not in fields:
        return None
    return _number(fields, "w", path), _number(fields, "h", path)


def _intrinsics(fields: dict[str, Any], path: pathlib.Path, width: float, height: float) -> np.ndarray:
    if "fl_x" in fields:
        focal_x = _number(fields, "fl_x", path)
    elif "camera_angle_x" in fields:
        angle = _number(fields, "camera_angle_x", path)
        if not 0.0 < angle < math.pi:
            raise CaptureError(f"{path}: camera_angle_x is {angle}; expected radians between 0 and pi")
        focal_x = 0.5 * width / math.tan(0.5 * angle)
    else:
        raise CaptureError(f"{path}: missing field 'camera_angle_x' (radians) or 'fl_x' (pixels)")
    focal_y = _number(fields, "fl_y", path, focal_x)
    if focal_x <= 0.0 or focal_y <= 0.0:
        raise CaptureError(f"{path}: focal length {focal_x:g}, {focal_y:g}; expected positive pixels")
    centre_x, centre_y = _number(fields, "cx", path, 0.5 * width), _number(fields, "cy", path, 0.5 * height)
    return np.array([[focal_x, 0.0, centre_x], [0.0, focal_y, centre_y], [0.0, 0.0, 1.0]])


def _distortion(fields: dict[str, Any], path: pathlib.Path) -> tuple[np.ndarray | None, str]:
    """Coefficients of every frame as `splat.Cameras` has them, None where all are zero, and the kind of lens."""
    fisheye = fields.get("camera_model") in _FISHEYE_MODELS
    names = _FISHEYE if fisheye else _OPENCV
    frames = [{**fields, **frame} for frame in fields["frames"]]
    if not fisheye and any(frame.get("k4") for frame in frames):
        raise CaptureError(f"{path}: k4 without camera_model OPENCV_FISHEYE is not supported; undistort first")
    rows = np.array([[_number(frame, name, path, 0.0) for name in names] for frame in frames])
    if fisheye:
        return rows, "fisheye"
    return (rows if rows.any() else None), "pinhole"


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
