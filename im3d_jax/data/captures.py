"""Captures: posed pictures of one object or scene.

Read from a folder with `transforms_train.json` (NeRF-synthetic's or nerfstudio's fields), `transforms.json`,
the `cameras.json` of a run folder, or a COLMAP model; held-out views from `transforms_test.json` beside it, or every
n-th one. The JSON files hold OpenGL camera-to-world matrices and are turned to OpenCV here, once. Lens distortion goes
into the cameras: gaussians are fitted to the pictures as they are.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from im3d_jax.data import colmap
from im3d_jax.data.lens import LARGEST, lens_problem
from im3d_jax.data.prepare import read_image, shrink
from splat.cameras import Cameras, from_opengl


TRAIN_FILES = ("transforms_train.json", "transforms.json", "cameras.json")
TEST_FILE = "transforms_test.json"
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp")
# nerfstudio's fields of the coefficients, in the order of `splat.Cameras`.
_OPENCV, _FISHEYE = ("k1", "k2", "p1", "p2", "k3"), ("k1", "k2", "k3", "k4")
_PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_FISHEYE_MODELS = ("OPENCV_FISHEYE",)


class CaptureError(ValueError):
    """A folder or camera file that cannot be used; the message is one line that says how to mend it."""


@dataclasses.dataclass(frozen=True)
class Capture:
    """Posed pictures.

    Attributes:
        cameras: V cameras, OpenCV, in the capture's own world and scale.
        images: float32 `[V, H, W, 4]` in [0, 1], straight alpha.
        names: file names as the camera file has them.
        source: the camera file, or the folder of the COLMAP model.
        test: the held-out views, if there are any.
        elevation: of the orbit in radians, for run folders.
        points: `[n, 3]` of the scene's surfaces, of COLMAP models.
        colours: `[n, 3]` of the points in [0, 1].
    """

    cameras: Cameras
    images: np.ndarray
    names: tuple[str, ...]
    source: pathlib.Path
    test: "Capture | None" = None
    elevation: float | None = None
    points: np.ndarray | None = None
    colours: np.ndarray | None = None

    @property
    def generated(self) -> bool:
        """Whether this is the orbit of a run folder."""
        return self.source.name == "cameras.json"

    def digest(self) -> str:
        """SHA-256 of all cameras, pixels and points, held-out views included."""
        value = hashlib.sha256()
        for part in (self, *([] if self.test is None else [self.test])):
            arrays = [part.cameras.world_to_camera, part.cameras.intrinsics, part.images]
            arrays += [array for array in (part.cameras.distortion, part.points, part.colours) if array is not None]
            for array in arrays:
                value.update(np.asarray(array).tobytes())
            value.update(b"" if part.cameras.model == "pinhole" else part.cameras.model.encode())
        return value.hexdigest()


def find_camera_file(folder: str | os.PathLike) -> pathlib.Path:
    """The camera file of a capture or run folder, the first of `TRAIN_FILES` that is there, or a COLMAP model's folder.

    Raises:
        CaptureError: no such folder, or neither in it.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise CaptureError(f"{folder}: no such folder; give one with {' or '.join(TRAIN_FILES)}")
    for name in TRAIN_FILES:
        if (folder / name).is_file():
            return folder / name
    model = colmap.find_model(folder)
    if model is None:
        raise CaptureError(
            f"{folder}: no camera file; expected {' or '.join(TRAIN_FILES)}, or a COLMAP model in sparse/0"
        )
    return model


def load_capture(
    folder: str | os.PathLike, downscale: int = 1, file_paths: list[str] | None = None, hold_out: int = 0
) -> Capture:
    """Reads a capture or a run folder.

    Args:
        folder: with one of `TRAIN_FILES` and perhaps `transforms_test.json`, or with a COLMAP model and `images`.
        downscale: mean over so many pixels squared; a remainder of rows or columns is cut off.
        file_paths: pictures to take instead of those that the camera file names, in its order.
        hold_out: of a capture without `transforms_test.json`, every so-many-th view is held out, the first one
            included; 0 for none.

    Raises:
        CaptureError: missing or wrong fields, singular poses, images of several sizes.
        ImageError: an image is missing or damaged.
    """
    if downscale < 1:
        raise CaptureError(f"downscale={downscale}: expected a whole number of at least 1")
    source = find_camera_file(folder)
    if source.is_dir():
        capture = _load_colmap(pathlib.Path(folder), source, downscale)
    else:
        capture = _load_split(source, downscale, file_paths)
    test = source.with_name(TEST_FILE)
    if not source.is_dir() and test.is_file() and not capture.generated:
        if hold_out:
            raise CaptureError(f"{test} names the held-out views; leave hold_out away or remove that file")
        held_out = _load_split(test, downscale)
        if held_out.images.shape[1:] != capture.images.shape[1:]:
            raise CaptureError(f"mismatched image sizes: the views of {test.name} and {source.name} differ")
        capture = dataclasses.replace(capture, test=held_out)
    elif hold_out:
        capture = _split(capture, hold_out)
    return capture


def _split(capture: Capture, every: int) -> Capture:
    """Every so-many-th view held out."""
    places = np.arange(len(capture.images))
    if every < 2 or len(places) < 2:
        raise CaptureError(
            f"{capture.source}: holding out every {every}. of {len(places)} views leaves none; expected 2 or more"
        )

    def take(chosen: np.ndarray) -> Capture:
        return dataclasses.replace(
            capture,
            cameras=capture.cameras[jnp.asarray(chosen)],
            images=capture.images[chosen],
            names=tuple(capture.names[place] for place in chosen),
        )

    held_out = dataclasses.replace(take(places[::every]), points=None, colours=None)
    return dataclasses.replace(take(places[places % every != 0]), test=held_out)


def _load_colmap(folder: pathlib.Path, source: pathlib.Path, downscale: int) -> Capture:
    try:
        model = colmap.read_model(source)
    except colmap.ColmapError as error:
        raise CaptureError(str(error)) from None
    places = [base / "images" for base in (folder, *folder.resolve().parents[:2])]
    pictures = next((place for place in places if place.is_dir()), folder)
    files = []
    for name in model.names:
        if not os.path.isfile(pictures / name):
            raise CaptureError(f"{source}: missing image {name[:200]!r}; expected it in {pictures}")
        files.append(pictures / name)
    images, width, height = _read_views(files, (model.width, model.height), "the model", downscale)
    intrinsics = model.intrinsics.copy()
    intrinsics[:, :2] /= downscale
    return Capture(
        cameras=Cameras(
            jnp.asarray(model.world_to_camera, jnp.float32),
            jnp.asarray(intrinsics, jnp.float32),
            width,
            height,
            None if model.distortion is None else jnp.asarray(model.distortion, jnp.float32),
            model.lens,
        ),
        images=images,
        names=model.names,
        source=source,
        points=model.points if len(model.points) >= 4 else None,
        colours=model.colours if len(model.points) >= 4 else None,
    )


def _read_views(
    files: list[pathlib.Path], size: tuple[float, float] | None, size_from: str, downscale: int
) -> tuple[np.ndarray, int, int]:
    """Pictures `[V, h, w, 4]` scaled down, and their new width and height; `size` is (width, height) before."""
    images = []
    for file in files:
        image = read_image(file)
        found = image.shape[1], image.shape[0]
        if size is None:
            size, size_from = found, file.name
        if found != size:
            raise CaptureError(
                f"mismatched image sizes: {file} has {found[0]}x{found[1]} pixels, {size_from} says "
                f"{size[0]:g}x{size[1]:g}; give all views one size"
            )
        if min(found) < downscale:
            raise CaptureError(f"{file}: {found[0]}x{found[1]} pixels cannot be scaled down by {downscale}")
        images.append(shrink(image, downscale))
    return np.stack(images), images[0].shape[1], images[0].shape[0]


def _load_split(path: pathlib.Path, downscale: int, file_paths: list[str] | None = None) -> Capture:
    fields = _read_fields(path)
    frames = fields["frames"]
    if file_paths is not None:
        if len(file_paths) != len(frames):
            raise CaptureError(f"{path}: {len(frames)} views; expected {len(file_paths)}, one for each picture")
        frames = [{**frame, "file_path": name} for frame, name in zip(frames, file_paths, strict=True)]
    poses = np.stack([_pose(frame, index, path) for index, frame in enumerate(frames)])
    files = [_image_file(frame, index, path) for index, frame in enumerate(frames)]
    size = _declared_size(fields, path)
    images, width, height = _read_views(files, size, path.name, downscale)
    full = size or read_image(files[0]).shape[1::-1]
    # Before scaling; the cut-off remainder lies right and below, so the centre only scales.
    intrinsics = np.stack([_intrinsics({**fields, **frame}, path, *full) for frame in frames])
    distortion, lens = _distortion(fields, path)
    for index, camera in enumerate(intrinsics):
        problem = lens_problem(camera, np.zeros(0) if distortion is None else distortion[index], *full)
        if problem is not None:
            raise CaptureError(f"{path}: frame {index}: {problem}; check the camera file")
    intrinsics[:, :2] /= downscale
    elevation = fields.get("elevation_deg")
    return Capture(
        cameras=Cameras(
            from_opengl(jnp.asarray(poses, jnp.float32)),
            jnp.asarray(intrinsics, jnp.float32),
            width,
            height,
            None if distortion is None else jnp.asarray(distortion, jnp.float32),
            lens,
        ),
        images=images,
        names=tuple(str(frame["file_path"]) for frame in frames),
        source=path,
        elevation=None if elevation is None else math.radians(_number(fields, "elevation_deg", path)),
    )


def _read_fields(path: pathlib.Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CaptureError(f"{path}: not a readable JSON file ({reason}); export it again") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("frames"), list) or not fields["frames"]:
        raise CaptureError(f"{path}: missing field 'frames'; expected a list with one entry a view")
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


def _declared_size(fields: dict[str, Any], path: pathlib.Path) -> tuple[float, float] | None:
    """(width, height) that the camera file gives, if it does."""
    if "w" not in fields or "h" not in fields:
        return None
    return _number(fields, "w", path), _number(fields, "h", path)


def _intrinsics(fields: dict[str, Any], path: pathlib.Path, width: int, height: int) -> np.ndarray:
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
        raise CaptureError(f"{where} holds something that is no number") from None
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


def _image_file(frame: dict[str, Any], index: int, path: pathlib.Path) -> pathlib.Path:
    for suffix in _SUFFIXES:
        file = path.parent / (frame["file_path"] + suffix)
        # Not pathlib's, which fails on names that are too long.
        if os.path.isfile(file):
            return file
    raise CaptureError(f"{path}: frame {index}: missing image {frame['file_path'][:200]!r} (.png, .jpg)")
