"""Which fields of a camera file are used, which have no effect, and which are refused because they change the picture.

Fields are those of NeRF-synthetic, nerfstudio and instant-ngp (colmap2nerf.py and src/nerf_loader.cu); a field of
neither list is named in one line.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from im3d_jax.data.json_lens import LENS_FIELDS
from im3d_jax.errors import CaptureError


SPLITS = ("train_filenames", "val_filenames", "test_filenames")
_USED = (
    "frames", "file_path", "transform_matrix", "mask_path", "ply_file_path", "applied_transform", "applied_scale",
    "elevation_deg", "family", "orbit_direction", *SPLITS, *LENS_FIELDS,
)  # fmt: skip
# Of training volumes, of depth, of the program that wrote the file, of what a picture is called.
_WITHOUT_EFFECT = (
    "aabb", "aabb_scale", "scale", "offset", "up", "render_aabb", "render_aabb_to_local", "sharpness",
    "rotation", "colmap_im_id", "camera_id", "image_id", "id", "timestamp", "near", "far", "n_extra_learnable_dims",
    "depth_path", "depth_file_path", "depth_unit_scale_factor", "integer_depth_scale", "enable_depth_loading",
    "enable_ray_loading", "orientation_override", "auto_scale_poses_override", "normal_path", "normal_file_path",
    "blur_score", "importance_sampling", "version", "comment", "generator", "exposure_time", "fps",
)  # fmt: skip


def _any(value: Any) -> bool:
    """Whether a switch, a number or a list of numbers is other than off or zero."""
    return any(map(_any, value)) if isinstance(value, list | tuple) else bool(value)


# (Whether a value matters, what it means.)
_REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "latlong": (_any, "panoramas are not supported"),
    "equirectangular": (_any, "panoramas are not supported"),
    "orthographic": (_any, "orthographic cameras are not supported in captures"),
    "is_orthographic": (_any, "orthographic cameras are not supported in captures"),
    "rolling_shutter": (_any, "cameras that move during a picture are not supported"),
    "transform_matrix_start": (lambda value: value is not None, "cameras that move during a picture are not supported"),
    "transform_matrix_end": (lambda value: value is not None, "cameras that move during a picture are not supported"),
    "motion_blur_amount": (_any, "cameras that move during a picture are not supported"),
    "white_transparent": (_any, "a transparent colour is not supported: write it into the pictures' alpha"),
    "black_transparent": (_any, "a transparent colour is not supported: write it into the pictures' alpha"),
    "mask_color": (lambda value: value is not None, "a colour as a mask is not supported: write masks, see mask_path"),
    "fix_premult": (_any, "premultiplied pictures are not supported: write straight alpha"),
    "is_hdr": (_any, "HDR pictures are not supported"),
    "from_mitsuba": (_any, "Mitsuba's axes of cameras are not supported: write OpenGL poses, +x right, +y up, +z back"),
    "normal_mts_args": (lambda value: True, "Mitsuba's axes of cameras are not supported: write OpenGL poses"),
}
_TOLD: dict[str, tuple[Callable[[Any], bool], str]] = {
    "time": (lambda value: True, "the scene is fitted as if nothing moved"),
    "from_na": (_any, "poses are read as OpenGL's, as instant-ngp reads them"),
}
_SHOWN = 8


def check_fields(fields: Mapping[str, Any], path: pathlib.Path) -> tuple[str, ...]:
    """Refuses what changes the picture and is not supported.

    Args:
        fields: From `read_fields`.
        path: Of the file, for messages.

    Returns:
        Lines for the user on fields without effect; none where all fields are known.

    Raises:
        CaptureError: Such a field is set.
    """
    names: dict[str, None] = {}
    told: set[str] = set()
    if fields.get("mask_path") is not None:
        raise CaptureError(
            f"{path}: field 'mask_path' is {repr(fields['mask_path'])[:40]}: a mask of the whole file is not "
            "supported; give it to every frame"
        )
    for part in (fields, *fields["frames"]):
        for name, value in part.items():
            matters, meaning = _REFUSED.get(name, (None, ""))
            if matters is not None and matters(value):
                raise CaptureError(f"{path}: field '{name}' is {repr(value)[:40]}: {meaning}")
            names.setdefault(name)
            if name in _TOLD and _TOLD[name][0](value):
                told.add(name)
    lines = [f"{path.name}: '{name}' has no effect: {meaning}" for name, (_, meaning) in _TOLD.items() if name in told]
    known = {*_USED, *_WITHOUT_EFFECT, *_REFUSED, *_TOLD}
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(name[:40] for name in unknown[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        lines.append(f"{path.name}: fields that are not known and have no effect: {shown}")
    return tuple(lines)


def split_of(
    fields: Mapping[str, Any], path: pathlib.Path, file_paths: Sequence[str]
) -> tuple[list[int], list[int]] | None:
    """Which frames are fitted and which are held out, by nerfstudio's lists of file names.

    Frames of `test_filenames` are held out, those of `val_filenames` where the former is missing or empty; the rest of
    the frames is fitted where there is no `train_filenames`. A view of both kinds is fitted and measured, as in
    nerfstudio.

    Args:
        fields: From `read_fields`.
        path: Of the file, for messages.
        file_paths: Of the frames.

    Returns:
        Numbers of frames, both in the order of the frames; None for a file without such lists.

    Raises:
        CaptureError: A list names a picture that no frame has, or nothing is left to fit.
    """
    if not any(fields.get(name) for name in SPLITS):
        return None
    places: dict[str, set[int]] = {}
    for place, name in enumerate(file_paths):
        places.setdefault(os.path.normpath(name), set()).add(place)
    members: dict[str, set[int]] = {}
    for split in SPLITS:
        listed = fields.get(split) or []
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise CaptureError(f"{path}: {split} is no list of file names")
        missing = [name for name in listed if os.path.normpath(name) not in places]
        if missing:
            raise CaptureError(f"{path}: {split} names {missing[0][:200]!r}, which no frame has as its file_path")
        members[split] = set().union(*(places[os.path.normpath(name)] for name in listed))
    train, val, test = (members[split] for split in SPLITS)
    held_out = test or val
    train = train or set(range(len(file_paths))) - test - val
    if not train:
        raise CaptureError(f"{path}: {', '.join(SPLITS)} leave no view to fit")
    return sorted(train), sorted(held_out)
