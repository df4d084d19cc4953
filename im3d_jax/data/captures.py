"""Captures: posed pictures of one object or scene.

Read from a folder with `transforms_train.json` (NeRF-synthetic's, nerfstudio's or instant-ngp's fields),
`transforms.json`, the `cameras.json` of a run folder, or a COLMAP model; held-out views from `transforms_test.json`
beside it, by nerfstudio's lists of file names, or every n-th one. Lens distortion goes into the cameras: gaussians are
fitted to the pictures as they are.
"""

import dataclasses
import os
import pathlib
from typing import Any

from im3d_jax.choices import check_whole
from im3d_jax.data import colmap
from im3d_jax.data.camera_fields import check_fields, split_of
from im3d_jax.data.camera_files import camera_to_world, elevation_of, read_fields
from im3d_jax.data.capture import Capture, held_out
from im3d_jax.data.points import read_points
from im3d_jax.data.posed_views import RUN_FILE, load_colmap, load_json, only
from im3d_jax.data.world import centre_of, moved_points
from im3d_jax.errors import CaptureError


__all__ = ["Capture", "CaptureError", "check_reading", "find_camera_file", "folder_of", "load_capture"]

TRAIN_FILES = ("transforms_train.json", "transforms.json", RUN_FILE)
TEST_FILE = "transforms_test.json"


def find_camera_file(folder: str | os.PathLike) -> pathlib.Path:
    """The camera file of a capture or run folder, the first of `TRAIN_FILES` that is there, or a COLMAP model's folder.

    Args:
        folder: A folder, or the camera file itself.

    Raises:
        CaptureError: no such folder, or neither in it.
    """
    given = pathlib.Path(folder)
    if os.path.isfile(given):
        if given.suffix.lower() == ".json":
            return given
        if given.name in colmap.CAMERA_FILES:
            return given.parent
        raise CaptureError(f"{given}: not a camera file; expected {' or '.join(TRAIN_FILES)}, or its folder")
    if not os.path.isdir(given):
        raise CaptureError(f"{given}: no such folder; give one with {' or '.join(TRAIN_FILES)}")
    for name in TRAIN_FILES:
        if (given / name).is_file():
            return given / name
    model = colmap.find_model(given)
    if model is None:
        raise CaptureError(
            f"{given}: no camera file; expected {' or '.join(TRAIN_FILES)}, or a COLMAP model in sparse/0"
        )
    return model


def folder_of(given: str | os.PathLike) -> pathlib.Path:
    """The folder of a capture, which may be given by its camera file."""
    path = pathlib.Path(given)
    return path.parent if os.path.isfile(path) else path


def check_reading(downscale: Any, hold_out: Any) -> tuple[int, int]:
    """How a capture is read, as ints of Python: `downscale` and `hold_out` of `load_capture`.

    Raises:
        CaptureError: not whole numbers, `downscale` below 1, or `hold_out` below 0.
    """
    return (
        check_whole("downscale", downscale, 1, error=CaptureError),
        check_whole("hold_out", hold_out, 0, error=CaptureError),
    )


def load_capture(
    folder: str | os.PathLike, downscale: int = 1, file_paths: list[str] | None = None, hold_out: int = 0
) -> Capture:
    """Reads a capture or a run folder.

    Args:
        folder: with one of `TRAIN_FILES` and perhaps `transforms_test.json`, or with a COLMAP model and `images`; or
            the camera file itself.
        downscale: mean over so many pixels squared; a remainder of rows or columns is cut off.
        file_paths: pictures to take instead of those that the camera file names, in its order.
        hold_out: of a capture without held-out views of its own, every so-many-th view is held out, the first one
            included; 0 for none.

    Raises:
        CaptureError: `downscale` or `hold_out` out of range, missing, wrong or unsupported fields, singular poses, no
            picture, or more pictures than the memory holds.
        ImageError: an image is damaged, or one of a run folder is missing.
    """
    downscale, hold_out = check_reading(downscale, hold_out)
    source = find_camera_file(folder)
    if source.is_dir():
        return held_out(load_colmap(folder_of(folder), source, downscale), hold_out)
    fields = read_fields(source)
    remarks = check_fields(fields, source)
    if file_paths is not None:
        if len(file_paths) != len(fields["frames"]):
            raise CaptureError(
                f"{source}: {len(fields['frames'])} views; expected {len(file_paths)}, one for each picture"
            )
        fields["frames"] = [
            {**frame, "file_path": name} for frame, name in zip(fields["frames"], file_paths, strict=True)
        ]
    if source.name == RUN_FILE:
        capture = load_json(fields, source, downscale, None)
        capture = dataclasses.replace(capture, family=_family(fields), elevation=elevation_of(fields, source))
        return held_out(dataclasses.replace(capture, remarks=remarks), hold_out)
    centre = centre_of(camera_to_world(fields, source)[:, :3, 3])
    split = split_of(fields, source, [frame["file_path"] for frame in fields["frames"]])
    test = source.with_name(TEST_FILE)
    if split is not None:
        named = f"{source} names the held-out views in its lists of file names"
        chosen, others = (only(fields, places) for places in split)
        capture = load_json(chosen, source, downscale, centre)
        test_of = load_json(others, source, downscale, centre) if others["frames"] else None
        left = len(fields["frames"]) - len({*split[0], *split[1]})
        if left:
            remarks += (f"{left} of {len(fields['frames'])} views are in neither list of file names and are left out",)
    else:
        capture, test_of, named = load_json(fields, source, downscale, centre), None, f"{test} names the held-out views"
        if test.is_file() and test.name != source.name:
            others = read_fields(test)
            remarks += tuple(line for line in check_fields(others, test) if line not in remarks)
            test_of = load_json(others, test, downscale, centre)
    points, line = read_points(fields, source)
    if points is not None:
        capture = dataclasses.replace(capture, points=moved_points(points[0], centre), colours=points[1])
    remarks += (line,) if line else ()
    remarks += capture.remarks + (() if test_of is None else test_of.remarks)
    capture = dataclasses.replace(capture, remarks=remarks)
    if test_of is None:
        return held_out(capture, hold_out)
    if hold_out:
        raise CaptureError(f"{named} already; remove hold_out or that file")
    return dataclasses.replace(capture, test=test_of)


def _family(fields: dict[str, Any]) -> str:
    """Of the model that drew the views of a run folder; files of earlier versions tell it by the orbit's direction."""
    return str(fields.get("family", "svd" if "orbit_direction" in fields else "bundle"))
