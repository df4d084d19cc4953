"""Captures: posed pictures of one object or scene.

Read from a folder with `transforms_train.json` (NeRF-synthetic's or nerfstudio's fields), `transforms.json`,
the `cameras.json` of a run folder, or a COLMAP model; held-out views from `transforms_test.json` beside it, or every
n-th one. The JSON files hold OpenGL camera-to-world matrices and are turned to OpenCV here, once. Lens distortion goes
into the cameras: gaussians are fitted to the pictures as they are.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from im3d_jax.choices import check_whole
from im3d_jax.data import colmap
from im3d_jax.data.camera_files import declared_size, decode_cameras, elevation_of, read_fields
from im3d_jax.errors import CaptureError
from im3d_jax.images.files import read_image
from im3d_jax.images.resize import shrink
from splat.cameras import Cameras


TRAIN_FILES = ("transforms_train.json", "transforms.json", "cameras.json")
TEST_FILE = "transforms_test.json"
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp")


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
        family: of the model that drew the views, for run folders; see `pipelines.fit_settings`.
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

    def __repr__(self) -> str:
        views, height, width, _ = self.images.shape
        held_out = "" if self.test is None else f", {len(self.test.images)} held out"
        points = "" if self.points is None else f", {len(self.points)} points"
        return f"Capture({str(self.source)!r}, {views} views of {width}x{height}{held_out}{points})"

    @property
    def generated(self) -> bool:
        """Whether this is the orbit of a run folder."""
        return self.family is not None

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
        folder: with one of `TRAIN_FILES` and perhaps `transforms_test.json`, or with a COLMAP model and `images`.
        downscale: mean over so many pixels squared; a remainder of rows or columns is cut off.
        file_paths: pictures to take instead of those that the camera file names, in its order.
        hold_out: of a capture without `transforms_test.json`, every so-many-th view is held out, the first one
            included; 0 for none.

    Raises:
        CaptureError: `downscale` or `hold_out` out of range, missing or wrong fields, singular poses, images of
            several sizes.
        ImageError: an image is missing or damaged.
    """
    downscale, hold_out = check_reading(downscale, hold_out)
    source = find_camera_file(folder)
    if source.is_dir():
        capture = _load_colmap(pathlib.Path(folder), source, downscale)
    else:
        capture = _load_split(source, downscale, file_paths)
    test = source.with_name(TEST_FILE)
    if not source.is_dir() and test.is_file() and not capture.generated:
        if hold_out:
            raise CaptureError(f"{test} names the held-out views already; remove hold_out or that file")
        held_out = _load_split(test, downscale)
        if held_out.images.shape[1:] != capture.images.shape[1:]:
            raise CaptureError(
                f"mismatched image sizes: the views of {test.name} and {source.name} differ; give all views one size"
            )
        capture = dataclasses.replace(capture, test=held_out)
    elif hold_out:
        capture = _split(capture, hold_out)
    return capture


def _split(capture: Capture, every: int) -> Capture:
    """Every so-many-th view held out."""
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
            raise CaptureError(
                f"{file}: {found[0]}x{found[1]} pixels are too few for downscale={downscale}; give a smaller factor"
            )
        images.append(shrink(image, downscale))
    return np.stack(images), images[0].shape[1], images[0].shape[0]


def _load_split(path: pathlib.Path, downscale: int, file_paths: list[str] | None = None) -> Capture:
    fields = read_fields(path)
    frames = fields["frames"]
    if file_paths is not None:
        if len(file_paths) != len(frames):
            raise CaptureError(f"{path}: {len(frames)} views; expected {len(file_paths)}, one for each picture")
        frames = [{**frame, "file_path": name} for frame, name in zip(frames, file_paths, strict=True)]
    files = [_image_file(frame, index, path) for index, frame in enumerate(frames)]
    size = declared_size(fields, path)
    cameras = decode_cameras(fields, path, size or read_image(files[0]).shape[1::-1], downscale)
    images, _, _ = _read_views(files, size, path.name, downscale)
    return Capture(
        cameras=cameras,
        images=images,
        names=tuple(str(frame["file_path"]) for frame in frames),
        source=path,
        elevation=elevation_of(fields, path),
        family=_family(fields) if path.name == "cameras.json" else None,
    )


def _family(fields: dict[str, Any]) -> str:
    """Of the model that drew the views of a run folder; files of earlier versions tell it by the orbit's direction."""
    return str(fields.get("family", "svd" if "orbit_direction" in fields else "bundle"))


def _image_file(frame: dict[str, Any], index: int, path: pathlib.Path) -> pathlib.Path:
    for suffix in _SUFFIXES:
        file = path.parent / (frame["file_path"] + suffix)
        # Not pathlib's, which fails on names that are too long.
        if os.path.isfile(file):
            return file
    raise CaptureError(
        f"{path}: frame {index}: missing image {frame['file_path'][:200]!r}; tried the name alone and with "
        f"{', '.join(_SUFFIXES[1:])}"
    )
