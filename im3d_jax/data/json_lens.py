"""Lenses in the fields of a camera file: nerfstudio's, NeRF-synthetic's and instant-ngp's names for the same numbers.

A function takes the fields of one frame over those of the file, see `of_frame`.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from im3d_jax.data.lens import LARGEST
from im3d_jax.errors import CaptureError


# The coefficients in the order of `splat.Cameras`.
_OPENCV, _FISHEYE = ("k1", "k2", "p1", "p2", "k3"), ("k1", "k2", "k3", "k4")
# nerfstudio's order of distortion_params; of fisheye lenses the first four may stand alone.
_PARAMS = ("k1", "k2", "k3", "k4", "p1", "p2")
PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
FISHEYE_MODELS = ("OPENCV_FISHEYE",)
# Coefficients of other models that would bend the picture: of OpenCV's rational and thin-prism models, Metashape's
# affinity and skew, and instant-ngp's f-theta lens.
_BENDING = (
    "k4", "k5", "k6", "p3", "p4", "b1", "b2", "s1", "s2", "s3", "s4", "skew",
    "ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4",
)  # fmt: skip
LENS_FIELDS = (
    "camera_model", "is_fisheye", "w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "x_fov",
    "y_fov", *_OPENCV, *_BENDING, "distortion_params", "fisheye_crop_radius",
)  # fmt: skip


# A focal length is told in one of three ways.
_WAYS = (("fl_x", "fl_y"), ("camera_angle_x", "camera_angle_y"), ("x_fov", "y_fov"))


def of_frame(fields: Mapping[str, Any], frame: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a frame over those of its file.

    A frame that tells its focal length in pixels, or by an angle, replaces what the file tells in another way; so does
    one that tells its distortion by single coefficients the `distortion_params` of the file.
    """
    merged = {**fields, **frame}
    if frame.get("distortion_params") is None and any(name in frame for name in _PARAMS):
        merged.pop("distortion_params", None)
    ways = [way for way in _WAYS if any(name in frame for name in way)]
    others = {name for way in _WAYS if ways and way not in ways for name in way}
    return {name: value for name, value in merged.items() if name not in others}


def number(fields: Mapping[str, Any], name: str, path: pathlib.Path, default: float | None = None) -> float:
    """A finite number of at most `LARGEST`.

    Raises:
        CaptureError: The field is something else, or missing without a default.
    """
    value = fields.get(name, default)
    # Compared, not converted: JSON has integers that no float holds. NaN compares false.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        shown = repr(value)[:40]
        raise CaptureError(f"{path}: field '{name}' is {shown}; expected a finite number (at most {LARGEST:g})")
    return value


def declared_size(fields: Mapping[str, Any], path: pathlib.Path) -> tuple[float, float] | None:
    """(width, height) that the fields give, if they do."""
    if fields.get("w") is None or fields.get("h") is None:
        return None
    return number(fields, "w", path), number(fields, "h", path)


def lens_kind(fields: Mapping[str, Any], path: pathlib.Path) -> str:
    """'pinhole' or 'fisheye'.

    Raises:
        CaptureError: Another kind of camera, or fields that contradict each other.
    """
    model, known = fields.get("camera_model") or "OPENCV", (*PINHOLE_MODELS, *FISHEYE_MODELS)
    if model not in known:
        shown = repr(model)[:40]
        raise CaptureError(f"{path}: camera_model {shown} is not supported; expected one of {', '.join(known)}")
    marked = fields.get("is_fisheye")
    if marked not in (None, True, False):
        raise CaptureError(f"{path}: is_fisheye is {repr(marked)[:40]}; expected true or false")
    if marked is not None and fields.get("camera_model") and bool(marked) != (model in FISHEYE_MODELS):
        word = str(bool(marked)).lower()
        raise CaptureError(f"{path}: camera_model {model!r} contradicts is_fisheye {word}; remove one of them")
    return "fisheye" if marked or model in FISHEYE_MODELS else "pinhole"


def intrinsics(fields: Mapping[str, Any], path: pathlib.Path, width: float, height: float) -> np.ndarray:
    """Camera matrix [3, 3] in pixels, float64, of a picture of a size.

    Focal lengths in pixels come before angles of view, as in nerfstudio; without a vertical one pixels are square.

    Raises:
        CaptureError: No focal length, or a number out of range.
    """
    focal_x, focal_y = _focal(fields, path, "x", width), _focal(fields, path, "y", height)
    if focal_x is None and focal_y is None:
        raise CaptureError(f"{path}: missing field 'camera_angle_x' (radians) or 'fl_x' (pixels)")
    focal_x = focal_y if focal_x is None else focal_x
    focal_y = focal_x if focal_y is None else focal_y
    assert focal_x is not None and focal_y is not None
    if focal_x <= 0.0 or focal_y <= 0.0:
        raise CaptureError(f"{path}: focal length {focal_x:g}, {focal_y:g}; expected positive pixels")
    centre_x, centre_y = number(fields, "cx", path, 0.5 * width), number(fields, "cy", path, 0.5 * height)
    return np.array([[focal_x, 0.0, centre_x], [0.0, focal_y, centre_y], [0.0, 0.0, 1.0]])


def _focal(fields: Mapping[str, Any], path: pathlib.Path, axis: str, side: float) -> float | None:
    """Pixels along one axis, None where no field tells it."""
    if f"fl_{axis}" in fields:
        return number(fields, f"fl_{axis}", path)
    for name, unit, half_turn in ((f"camera_angle_{axis}", "radians", math.pi), (f"{axis}_fov", "degrees", 180.0)):
        if name in fields:
            angle = number(fields, name, path)
            if not 0.0 < angle < half_turn:
                end = "pi" if unit == "radians" else "180"
                raise CaptureError(f"{path}: {name} is {angle}; expected {unit} between 0 and {end}")
            return 0.5 * side / math.tan(0.5 * (angle if unit == "radians" else math.radians(angle)))
    return None


def distortion(frames: Sequence[Mapping[str, Any]], path: pathlib.Path) -> tuple[np.ndarray | None, str]:
    """Coefficients [V, n] as `splat.Cameras` has them, None where all are zero, and the kind of lens.

    Args:
        frames: Fields of every frame, those of the file included.
        path: Of the file, for messages.

    Raises:
        CaptureError: Lenses of two kinds, or coefficients that are not supported.
    """
    kinds = [lens_kind(frame, path) for frame in frames]
    if len(set(kinds)) > 1:
        raise CaptureError(f"{path}: fisheye and pinhole cameras are mixed; expected one kind of lens")
    fisheye = kinds[0] == "fisheye"
    frames = [_with_params(frame, path, fisheye) for frame in frames]
    names = _FISHEYE if fisheye else _OPENCV
    others = [name for name in (*_BENDING, "p1", "p2") if name not in names]
    for frame in frames:
        for name in others:
            if name in frame and number(frame, name, path):
                model = "OPENCV_FISHEYE" if fisheye else "OPENCV"
                hint = " without camera_model OPENCV_FISHEYE" if name == "k4" else f" of a lens {model}"
                raise CaptureError(f"{path}: {name}{hint} is not supported; undistort first")
    rows = np.array([[number(frame, name, path, 0.0) for name in names] for frame in frames])
    if fisheye:
        return rows, "fisheye"
    return (rows if rows.any() else None), "pinhole"


def _with_params(frame: Mapping[str, Any], path: pathlib.Path, fisheye: bool) -> Mapping[str, Any]:
    """The fields with the coefficients of `distortion_params`, which come before single ones as in nerfstudio."""
    values = frame.get("distortion_params")
    if values is None:
        return frame
    lengths = (4, 6) if fisheye else (6,)
    if not isinstance(values, list) or len(values) not in lengths:
        shown = f"has {len(values)} numbers" if isinstance(values, list) else f"is {repr(values)[:40]}"
        raise CaptureError(
            f"{path}: distortion_params {shown}; expected {' or '.join(map(str, lengths))}: {', '.join(_PARAMS)}"
        )
    single = {name: value for name, value in frame.items() if name not in _PARAMS}
    return {**single, **dict(zip(_PARAMS, values, strict=False))}


def crop_radius(fields: Mapping[str, Any], path: pathlib.Path) -> float | None:
    """Pixels around the centre of a fisheye picture that count (`fisheye_crop_radius`); None for all.

    As in nerfstudio it has no effect on other lenses.

    Raises:
        CaptureError: No number above 0.
    """
    if fields.get("fisheye_crop_radius") is None or lens_kind(fields, path) != "fisheye":
        return None
    radius = number(fields, "fisheye_crop_radius", path)
    if radius <= 0.0:
        raise CaptureError(f"{path}: fisheye_crop_radius is {radius:g}; expected pixels above 0")
    return radius
