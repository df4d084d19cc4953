"""The views of a run as folders that other programs train on: nerfstudio's and COLMAP's."""

from __future__ import annotations

import math
import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

from im3d_jax.data.camera_files import encode_cameras
from im3d_jax.errors import InputError
from im3d_jax.exports.source import Source
from im3d_jax.images.files import encode_png
from splat.io.files import Rows, base_colors, to_bytes


_MOST_POINTS = 50_000
# Files beside the pictures, and how they start: COLMAP's and nerfstudio's own begin with a comment and indent wider.
_BESIDE = {
    "nerfstudio": {"transforms.json": b'{\n  "camera_model": "OPENCV",', "sparse_pc.ply": b"ply\n"},
    "colmap": {
        "sparse/0/cameras.txt": b"1 PINHOLE ",
        "sparse/0/images.txt": b"1 ",
        "sparse/0/points3D.txt": b"1 ",
    },
}


def view_files(source: Source, kind: str) -> dict[str, bytes]:
    """{path in the folder: content} of the views that the asset was fitted to last.

    Args:
        source: A run with views.
        kind: "nerfstudio" (transforms.json, images, sparse_pc.ply) or "colmap" (sparse/0 as text, images).

    Raises:
        InputError: The source has no views.
    """
    if source.views is None:
        where = "a file of gaussians" if source.run is None else "a run without views of its own"
        raise InputError(
            f"{source.path} is {where}, so there are no pictures with cameras to export; give a run folder of "
            "im3d generate"
        )
    images = source.views.images if source.refined is None else source.refined
    names = _picture_names(len(images))
    files = {name: encode_png(image) for name, image in zip(names, images, strict=True)}
    points, colors = _points(source.rows)
    cameras = source.views.cameras
    if kind == "nerfstudio":
        files["transforms.json"] = encode_cameras(cameras, names, None, ply_file_path="sparse_pc.ply")
        files["sparse_pc.ply"] = _point_cloud(points, colors)
        return files
    lens = np.asarray(cameras.intrinsics[0], np.float64)
    numbers = (lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2])
    files["sparse/0/cameras.txt"] = _text(
        [f"1 PINHOLE {cameras.width} {cameras.height} {' '.join(f'{number:.9g}' for number in numbers)}"]
    )
    lines = []
    for index, pose in enumerate(np.asarray(cameras.world_to_camera, np.float64)):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        values = " ".join(f"{number:.9g}" for number in (w, x, y, z, *pose[:3, 3]))
        # The second line of each picture holds its points, of which there are none.
        lines += [f"{index + 1} {values} 1 {pathlib.PurePath(names[index]).name}", ""]
    files["sparse/0/images.txt"] = _text(lines)
    rows = zip(points.tolist(), colors.tolist(), strict=True)
    files["sparse/0/points3D.txt"] = _text(
        [f"{number} {x:.7g} {y:.7g} {z:.7g} {r} {g} {b} 0" for number, ((x, y, z), (r, g, b)) in enumerate(rows, 1)]
    )
    return files


def is_view_folder(folder: pathlib.Path) -> bool:
    """Whether all that a folder holds is what `view_files` gives for one kind, so that it may be replaced."""
    found = list(folder.rglob("*"))
    if folder.is_symlink() or any(path.is_symlink() for path in found):
        return False
    files = {path.relative_to(folder).as_posix() for path in found if not path.is_dir()}
    for starts in _BESIDE.values():
        if files == {*starts, *_picture_names(len(files) - len(starts))}:
            return all(_starts_with(folder / name, start) for name, start in starts.items())
    return not found


def _picture_names(count: int) -> list[str]:
    return [f"images/{index:02d}.png" for index in range(count)]


def _starts_with(path: pathlib.Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:  # what cannot be read is not known to be an export
        return False


def _points(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Places [P, 3] and colours [P, 3] (bytes) of the opaque gaussians, at most 50,000 of them, evenly chosen."""
    opaque = np.flatnonzero(rows.opacity_logits > 0)
    chosen = opaque if len(opaque) else np.arange(len(rows))
    chosen = chosen[:: math.ceil(len(chosen) / _MOST_POINTS)]
    return rows.means[chosen].astype(np.float64), to_bytes(255.0 * base_colors(rows.sh[chosen]))


def _point_cloud(points: np.ndarray, colors: np.ndarray) -> bytes:
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property float {name}" for name in "xyz"] + [
        f"property uchar {name}" for name in ("red", "green", "blue")
    ]
    table = np.empty(len(points), [("place", "<f4", 3), ("color", "u1", 3)])
    table["place"], table["color"] = points, colors
    return "\n".join([*header, "end_header", ""]).encode() + table.tobytes()


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
