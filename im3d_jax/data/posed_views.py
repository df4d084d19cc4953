"""Views of a capture with their cameras, from a camera file or from a COLMAP model.

Pictures that are missing are left out with one line; masks are found beside them.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from im3d_jax.data import colmap
from im3d_jax.data.camera_files import decode_cameras
from im3d_jax.data.capture import Capture
from im3d_jax.data.json_lens import crop_radius, declared_size, intrinsics, of_frame
from im3d_jax.data.pictures import SUFFIXES, find_picture
from im3d_jax.data.points import FEWEST
from im3d_jax.data.views import ViewFile, inside_circle, read_views, sizes_of, with_mask
from im3d_jax.data.world import centre_of, eyes_of, moved_points, moved_poses
from im3d_jax.errors import CaptureError
from splat.cameras import Cameras


RUN_FILE = "cameras.json"


def only(fields: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The fields of a camera file with some of its frames."""
    return {**fields, "frames": [fields["frames"][place] for place in places]}


def load_colmap(folder: pathlib.Path, source: pathlib.Path, downscale: int) -> Capture:
    """The views and points of a COLMAP model.

    Args:
        folder: That the user gave.
        source: The model's.
        downscale: Mean over so many pixels squared.

    Raises:
        CaptureError: The model cannot be used, or no picture is there.
        ImageError: A picture cannot be used.
    """
    try:
        model = colmap.read_model(source)
    except colmap.ColmapError as error:
        raise CaptureError(str(error)) from None
    bases = (folder, *folder.resolve().parents[:2])
    places = [base / "images" for base in bases]
    pictures = next((place for place in places if place.is_dir()), folder)
    found = {number: find_picture(pictures, name) for number, name in enumerate(model.names)}
    kept = [number for number, file in found.items() if file is not None]
    line = _missing([model.names[number] for number in found if found[number] is None], len(found), source, pictures)
    views = [with_mask(file, model.names[number], bases) for number, file in found.items() if file is not None]
    sizes = sizes_of(views, source, downscale)
    for view, size, declared in zip(views, sizes, (model.sizes[number] for number in kept), strict=True):
        _check_size(view, size, declared, "the model")
    if source != folder:
        line += _other_models(source)
    if not len(model.points):
        line.append(f"{source}: the model has no points, so the fit starts without them")
    centre = centre_of(eyes_of(model.world_to_camera))
    images, valid = read_views(views, sizes, downscale)
    intrinsics = model.intrinsics[kept]
    intrinsics[:, :2] /= downscale
    points = moved_points(model.points, centre)
    return Capture(
        cameras=Cameras(
            jnp.asarray(moved_poses(model.world_to_camera, centre)[kept], jnp.float32),
            jnp.asarray(intrinsics, jnp.float32),
            images.shape[2],
            images.shape[1],
            None if model.distortion is None else jnp.asarray(model.distortion[kept], jnp.float32),
            model.lens,
        ),
        images=images,
        names=tuple(model.names[number] for number in kept),
        source=source,
        points=points if len(points) >= FEWEST else None,
        colours=model.colours if len(points) >= FEWEST else None,
        valid=valid,
        centre=centre,
        remarks=(*line, *_masked(views, valid, source)),
    )


def load_json(fields: dict[str, Any], path: pathlib.Path, downscale: int, centre: np.ndarray | None) -> Capture:
    """The views of a camera file; of run folders none may be missing.

    Args:
        fields: From `read_fields`.
        path: Of the file.
        downscale: Mean over so many pixels squared.
        centre: [3] the place of the file's world that becomes the origin, float64; None for its own.

    Raises:
        CaptureError: Wrong fields, or no picture is there.
        ImageError: A picture cannot be used.
    """
    generated = path.name == RUN_FILE
    found = {index: find_picture(path.parent, frame["file_path"]) for index, frame in enumerate(fields["frames"])}
    lost = [index for index, file in found.items() if file is None]
    if generated and lost:
        raise CaptureError(f"{path}: frame {lost[0]}: {_no_image(fields['frames'][lost[0]]['file_path'])}")
    line = _missing([fields["frames"][index]["file_path"] for index in lost], len(found), path, path.parent)
    fields = only(fields, [index for index, file in found.items() if file is not None])
    views = [
        ViewFile(file, fields["frames"][place]["file_path"])
        if generated
        else _view(fields["frames"][place], file, path)
        for place, file in enumerate(file for file in found.values() if file is not None)
    ]
    sizes = sizes_of(views, path, downscale)
    for frame, view, size in zip(fields["frames"], views, sizes, strict=True):
        _check_size(view, size, declared_size({**fields, **frame}, path), path.name)
    if generated:
        # One model drew them all.
        for view, size in zip(views, sizes, strict=True):
            _check_size(view, size, sizes[0], views[0].picture.name)
    cameras = decode_cameras(fields, path, sizes, downscale, centre)
    images, valid = read_views(views, sizes, downscale)
    valid, cropped = _crop(fields, path, sizes, downscale, images, valid)
    return Capture(
        cameras=cameras,
        images=images,
        names=tuple(frame["file_path"] for frame in fields["frames"]),
        source=path,
        valid=valid,
        centre=centre,
        remarks=(*line, *_masked(views, valid, path), *cropped),
    )


def _crop(
    fields: dict[str, Any],
    path: pathlib.Path,
    sizes: Sequence[tuple[int, int]],
    downscale: int,
    images: np.ndarray,
    valid: np.ndarray | None,
) -> tuple[np.ndarray | None, list[str]]:
    """Leaves out what `fisheye_crop_radius` does, in `images` too; which pixels count, and a line on it."""
    frames = [of_frame(fields, frame) for frame in fields["frames"]]
    radii = [crop_radius(frame, path) for frame in frames]
    found = [radius for radius in radii if radius is not None]
    if not found:
        return valid, []
    valid = np.ones(images.shape[:3], bool) if valid is None else valid
    for place, (frame, size, radius) in enumerate(zip(frames, sizes, radii, strict=True)):
        if radius is None:
            continue
        centre = intrinsics(frame, path, *size)[:2, 2]
        rows, columns = size[1] // downscale, size[0] // downscale
        valid[place, :rows, :columns] &= inside_circle(size, (centre[0], centre[1]), radius, downscale)
        images[place][~valid[place]] = 0.0
    if not valid.any():
        raise CaptureError(
            f"{path}: fisheye_crop_radius {min(found):g} leaves no pixel of any view; expected pixels of the picture"
        )
    shown = f"{min(found):g}" + ("" if min(found) == max(found) else f" to {max(found):g}")
    return valid, [f"{path.name}: pixels beyond fisheye_crop_radius ({shown} pixels) do not count"]


def _view(frame: dict[str, Any], picture: pathlib.Path, path: pathlib.Path) -> ViewFile:
    """The view of a frame with its mask: the one that it names, or one that lies beside."""
    named = frame.get("mask_path")
    if named is None:
        return with_mask(picture, frame["file_path"], (path.parent,), nested=True)
    mask = find_picture(path.parent, named) if isinstance(named, str) else None
    if mask is None:
        raise CaptureError(f"{path}: missing mask {str(named)[:200]!r}; restore it or remove mask_path")
    return ViewFile(picture, frame["file_path"], mask)


def _check_size(view: ViewFile, size: tuple[int, int], declared: tuple[float, float] | None, size_from: str) -> None:
    if declared is not None and size != declared:
        raise CaptureError(
            f"mismatched image sizes: {view.picture} has {size[0]}x{size[1]} pixels, {size_from} says "
            f"{declared[0]:g}x{declared[1]:g}; give the pictures that the cameras were calibrated with"
        )


def _missing(names: list[str], count: int, source: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """A line on pictures that are not there; an error where none is."""
    if len(names) == count:
        raise CaptureError(f"{source}: {_no_image(names[0])} in {folder}, and so for all {count} views")
    if not names:
        return []
    return [
        f"{source.name}: {len(names)} of {count} pictures are missing and left out, {names[0][:200]!r} for instance"
    ]


def _no_image(name: str) -> str:
    return f"missing image {name[:200]!r}; tried the name alone and with {', '.join(SUFFIXES[1:])}"


def _other_models(source: pathlib.Path) -> list[str]:
    """A line on models beside the one that is read: COLMAP's mapper writes one for each part that it could not join."""
    others = [
        place.name
        for place in sorted(source.parent.iterdir())
        if place != source and place.name.isdecimal() and colmap.find_model(place) == place
    ]
    if not (source.name.isdecimal() and others):
        return []
    return [f"{source}: the models {', '.join(others)} beside it are not used; to read one, give its folder as --data"]


def _masked(views: list[ViewFile], valid: np.ndarray | None, source: pathlib.Path) -> list[str]:
    """Lines on masks; an error where they leave nothing."""
    masks = [view.mask for view in views if view.mask is not None]
    if not masks or valid is None:
        return []
    empty = [place for place, counts in enumerate(valid) if not counts.any()]
    if len(empty) == len(views):
        raise CaptureError(
            f"{source}: the masks leave no pixel of any view, {views[0].mask} for instance; expected values above 0 "
            "where pixels count"
        )
    lines = [f"masks of {len(masks)} of {len(views)} views are applied, from {masks[0].parent}"]
    if empty:
        lines.append(
            f"masks leave no pixel of {len(empty)} of {len(views)} views, {views[empty[0]].name!r} for instance"
        )
    return lines
