"""COLMAP models: cameras, poses and points of a structure-from-motion run, read by pycolmap.

Pixels are COLMAP's, whose first one has its centre at (0.5, 0.5) as ours; poses are world to camera, OpenCV.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import struct
import tempfile
from collections.abc import Iterator

import numpy as np

from im3d_jax.data.lens import LARGEST, lens_problem


MODEL_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0")
CAMERA_FILES = ("cameras.bin", "cameras.txt")
# What of a binary file's records has one length (COLMAP's documentation of its output format): bytes of the smallest
# record; or bytes before a list, whether a name stands before the list, its count's type and its entries' bytes.
_SMALLEST = {"cameras.bin": 48, "rigs.bin": 8}
_RECORDS = {
    "images.bin": (64, True, "<Q", 24),
    "points3D.bin": (43, False, "<Q", 8),
    "frames.bin": (64, False, "<I", 16),
}

# Where each camera model keeps fx, fy, cx, cy, and which of our coefficients its other numbers are: OpenCV's k1, k2,
# p1, p2, k3, k4, k5, k6, or the fisheye's k1 to k4. From COLMAP's documentation of camera models.
_PINHOLE = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), ()),
    "PINHOLE": ((0, 1, 2, 3), ()),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3,)),
    "RADIAL": ((0, 0, 1, 2), (3, 4)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
    "FULL_OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11)),
}
_FISHEYE = {
    "SIMPLE_RADIAL_FISHEYE": ((0, 0, 1, 2), (3,)),
    "RADIAL_FISHEYE": ((0, 0, 1, 2), (3, 4)),
    "OPENCV_FISHEYE": ((0, 1, 2, 3), (4, 5, 6, 7)),
}


class ColmapError(ValueError):
    """A model that cannot be used; the message is one line that says how to mend it."""


@dataclasses.dataclass(frozen=True)
class ColmapModel:
    """A sparse model, its pictures sorted by name.

    Attributes:
        names: V file names, relative to the folder of the pictures.
        world_to_camera: [V, 4, 4] OpenCV.
        intrinsics: [V, 3, 3] pixels.
        distortion: [V, 8] or [V, 4] as `splat.Cameras` has it; None for none.
        lens: 'pinhole' or 'fisheye'.
        sizes: Width and height of every picture, in pixels.
        points: [n, 3] in the model's world, float64; none of a model without points3D.
        colours: [n, 3] of the points in [0, 1].
    """

    names: tuple[str, ...]
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    distortion: np.ndarray | None
    lens: str
    sizes: tuple[tuple[int, int], ...]
    points: np.ndarray
    colours: np.ndarray


def find_model(folder: str | os.PathLike) -> pathlib.Path | None:
    """The folder inside `folder` that holds a sparse model, if one does: itself, sparse/0, sparse, colmap/sparse/0."""
    for name in MODEL_FOLDERS:
        place = pathlib.Path(folder) / name
        if any((place / file).is_file() for file in CAMERA_FILES):
            return place
    return None


def read_model(path: pathlib.Path) -> ColmapModel:
    """Reads a model's cameras, registered pictures and points.

    Raises:
        ColmapError: pycolmap is missing, the model is damaged or empty, or its cameras are of an unknown kind, or of
            several kinds of lenses.
    """
    try:
        import pycolmap  # pyright: ignore[reportMissingImports]  # of the extra [colmap]
    except ImportError:
        raise ColmapError(f"{path} is a COLMAP model, which needs pycolmap: pip install 'im3d-jax[colmap]'") from None
    # Its import lets SIGTERM print a stack trace and end the process; the program's own handler keeps what is done.
    with contextlib.suppress(ValueError):  # signals are set in the main thread alone
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    _check_lengths(path)
    try:
        with _with_points(path) as whole:
            model = pycolmap.Reconstruction(os.fspath(whole))
    # What pycolmap raises for damaged files depends on its version and on the damage.
    except (RuntimeError, ValueError, IndexError, OSError, MemoryError) as error:
        reason = str(error).strip().splitlines()
        raise ColmapError(
            f"{path}: not a readable COLMAP model ({reason[-1] if reason else 'damaged'}); export it again"
        ) from None
    spelled = _text_names(path)
    named = [(str(spelled.get(image.image_id, image.name)), image) for image in model.images.values() if image.has_pose]
    named.sort(key=lambda pair: pair[0])
    images = [image for _, image in named]
    if not images:
        raise ColmapError(f"{path}: no registered image; run COLMAP's mapper again")
    cameras = [model.cameras[image.camera_id] for image in images]
    intrinsics, distortion, lens = _lenses(path, cameras)
    points = [model.points3D[number] for number in sorted(model.points3D)]
    places = np.asarray([point.xyz for point in points], np.float64).reshape(-1, 3)
    poses = np.stack([_pose(image) for image in images])
    for what, numbers in (("the pose of an image", poses), ("a point", places)):
        # NaN compares false.
        if not (np.abs(numbers) <= LARGEST).all():
            raise ColmapError(
                f"{path}: {what} holds a number that is not finite or above {LARGEST:g}; run COLMAP's mapper again"
            )
    return ColmapModel(
        names=tuple(name for name, _ in named),
        world_to_camera=poses,
        intrinsics=intrinsics,
        distortion=distortion,
        lens=lens,
        sizes=tuple((camera.width, camera.height) for camera in cameras),
        points=places,
        colours=np.asarray([point.color for point in points], np.float32).reshape(-1, 3) / 255.0,
    )


@contextlib.contextmanager
def _with_points(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that pycolmap reads: the model's, or of one without points a copy with none; no observation names any.

    Raises:
        ColmapError: Another file than that of the points is missing.
    """
    files = ("cameras", "images", "points3D")
    found = {suffix: [name for name in files if (path / (name + suffix)).is_file()] for suffix in (".bin", ".txt")}
    if any(len(names) == len(files) for names in found.values()):
        yield path
        return
    suffix = next((suffix for suffix, names in found.items() if names == ["cameras", "images"]), None)
    if suffix is None:
        suffix = next(suffix for suffix, names in found.items() if "cameras" in names)
        raise ColmapError(f"{path}: images{suffix} is missing beside cameras{suffix}; copy the whole model")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for name in ("cameras", "rigs", "frames"):
            if (path / (name + suffix)).is_file():
                shutil.copyfile(path / (name + suffix), copy / (name + suffix))
        images, strip = path / f"images{suffix}", _text_unobserved if suffix == ".txt" else _binary_unobserved
        (copy / images.name).write_bytes(strip(images.read_bytes()))
        (copy / f"points3D{suffix}").write_bytes(b"" if suffix == ".txt" else struct.pack("<Q", 0))
        yield copy


def _text_unobserved(data: bytes) -> bytes:
    """images.txt without its lines of observed points."""
    lines, points_follow = data.split(b"\n"), False
    for place, line in enumerate(lines):
        if points_follow:
            lines[place], points_follow = b"", False
        elif line.strip() and not line.startswith(b"#"):
            points_follow = True
    return b"\n".join([*lines, b""])


def _binary_unobserved(data: bytes) -> bytes:
    """images.bin, checked by `_check_lengths`, without its lists of observed points."""
    fixed, _, kind, entry = _RECORDS["images.bin"]
    length = struct.Struct(kind)
    place, parts = 8, [data[:8]]
    for _ in range(struct.unpack_from("<Q", data)[0]):
        end = data.index(b"\0", place + fixed) + 1
        parts += [data[place:end], length.pack(0)]
        place = end + length.size + entry * length.unpack_from(data, end)[0]
    return b"".join(parts)


def _text_names(path: pathlib.Path) -> dict[int, str]:
    """{number of an image: its name} of a text model: pycolmap cuts names off at their first space."""
    if (path / "images.bin").is_file() or not (path / "images.txt").is_file():
        return {}
    names, points_follow = {}, False
    for line in (path / "images.txt").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if points_follow:
            points_follow = False
        elif line.strip() and not line.startswith("#"):
            # Number, quaternion, translation, camera, name; the line of its points comes next and may be empty.
            words = line.split(maxsplit=9)
            if len(words) == 10 and words[0].isdecimal():
                names[int(words[0])] = words[9].strip()
            points_follow = True
    return names


def _check_lengths(path: pathlib.Path) -> None:
    """Checks that the binary files hold all that their counts announce: pycolmap would read on, and take all memory.

    Raises:
        ColmapError: one does not.
    """
    if not all((path / f"{name}.bin").is_file() for name in ("cameras", "images")):
        return
    for name in (*_SMALLEST, *_RECORDS):
        if not (path / name).is_file():
            continue
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise ColmapError(f"{path / name}: cannot be read ({error.strerror})") from None
        try:
            whole = _holds_its_records(name, data)
        # Of struct where the data end, of bytes where a name does not.
        except (struct.error, ValueError):
            whole = False
        if not whole:
            raise ColmapError(f"{path / name}: {len(data)} bytes, fewer than the counts in it require; copy it again")


def _holds_its_records(name: str, data: bytes) -> bool:
    (count,) = struct.unpack_from("<Q", data)
    if name in _SMALLEST:
        return 8 + count * _SMALLEST[name] <= len(data)
    fixed, named, kind, entry = _RECORDS[name]
    length = struct.Struct(kind)
    place = 8
    if count * (fixed + length.size) > len(data):
        return False
    for _ in range(count):
        place += fixed
        if named:
            place = data.index(b"\0", place) + 1
        place += length.size + entry * length.unpack_from(data, place)[0]
    return place <= len(data)


def _pose(image) -> np.ndarray:
    pose = image.cam_from_world
    # A method since rigs came, a property before.
    pose = pose() if callable(pose) else pose
    return np.concatenate([np.asarray(pose.matrix(), np.float64), [[0.0, 0.0, 0.0, 1.0]]])


def _lenses(path: pathlib.Path, cameras: list) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Intrinsics [V, 3, 3], distortion and the kind of lens."""
    names = sorted({camera.model_name for camera in cameras})
    unknown = [name for name in names if name not in _PINHOLE | _FISHEYE]
    if unknown:
        raise ColmapError(
            f"{path}: camera model {unknown[0]} is not supported; expected one of "
            f"{', '.join([*_PINHOLE, *_FISHEYE])}: undistort with COLMAP's image_undistorter"
        )
    fisheye = [name in _FISHEYE for name in names]
    if any(fisheye) and not all(fisheye):
        raise ColmapError(
            f"{path}: fisheye and pinhole cameras are mixed ({', '.join(names)}); expected one kind of lens"
        )
    matrices = np.zeros((len(cameras), 3, 3))
    coefficients = np.zeros((len(cameras), 4 if fisheye[0] else 8))
    for row, camera in enumerate(cameras):
        (fx, fy, cx, cy), others = (_PINHOLE | _FISHEYE)[camera.model_name]
        numbers = np.asarray(camera.params, np.float64)
        if not np.isfinite(numbers).all() or min(numbers[fx], numbers[fy]) <= 0:
            raise ColmapError(f"{path}: a camera has the parameters {numbers.tolist()}; run COLMAP's mapper again")
        matrices[row] = [[numbers[fx], 0.0, numbers[cx]], [0.0, numbers[fy], numbers[cy]], [0.0, 0.0, 1.0]]
        coefficients[row, : len(others)] = numbers[list(others)]
        problem = lens_problem(matrices[row], coefficients[row], camera.width, camera.height)
        if problem is not None:
            raise ColmapError(f"{path}: a camera of {problem}: run COLMAP's mapper again")
    if not fisheye[0] and not coefficients.any():
        return matrices, None, "pinhole"
    return matrices, coefficients, "fisheye" if fisheye[0] else "pinhole"
