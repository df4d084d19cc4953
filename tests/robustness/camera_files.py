"""Cases of camera files: every field alone, pairs of focal lengths, splits, point clouds, poses."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from im3d_jax.data.captures import load_capture
from tests.data.posed import frames_of, write_capture, write_json
from tests.robustness.case import Case


WIDTH, HEIGHT = 24, 16
# (Field, what it says, focal length in pixels along its axis.)
FOCAL = {
    "fl_x": (31.0, 31.0),
    "fl_y": (29.0, 29.0),
    "camera_angle_x": (0.7, 0.5 * WIDTH / math.tan(0.35)),
    "camera_angle_y": (0.6, 0.5 * HEIGHT / math.tan(0.3)),
    "x_fov": (50.0, 0.5 * WIDTH / math.tan(math.radians(25.0))),
    "y_fov": (40.0, 0.5 * HEIGHT / math.tan(math.radians(20.0))),
}
ORDER = {"x": ("fl_x", "camera_angle_x", "x_fov"), "y": ("fl_y", "camera_angle_y", "y_fov")}
REFUSED = {
    "latlong": True,
    "equirectangular": True,
    "orthographic": True,
    "rolling_shutter": [0.1, 0, 0, 0],
    "transform_matrix_start": np.eye(4).tolist(),
    "transform_matrix_end": np.eye(4).tolist(),
    "motion_blur_amount": 0.5,
    "white_transparent": True,
    "black_transparent": True,
    "mask_color": [255, 0, 255],
    "fix_premult": True,
    "is_hdr": True,
    "from_mitsuba": True,
    "normal_mts_args": {"fov": 40},
    "distortion_params": [0.1, 0.2],
    "camera_model": "EQUIRECTANGULAR",
    "k5": 0.1,
    "p3": 0.1,
    "skew": 2.0,
    "is_fisheye": "yes",
    "w": 25,
    "h": 17,
}
NO_NUMBERS = ["31", None, True, [31.0], {}, float("nan"), float("inf"), 10**400]


def written(folder: pathlib.Path, place: str, fields: dict[str, Any], without: tuple[str, ...] = ()) -> pathlib.Path:
    """A capture with fields in the file, in every frame, or in the last frame alone."""
    made = write_capture(folder)
    made = {name: value for name, value in made.items() if name not in without}
    if place == "file":
        made |= fields
    for frame in made["frames"][0 if place == "frames" else -1 :]:
        frame.update({} if place == "file" else fields)
    if place == "frame":
        assert fields.keys().isdisjoint(made["frames"][0])
    return write_json(folder, made)


def _focal(place: str, names: tuple[str, ...]) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        fields = {name: FOCAL[name][0] for name in names}
        capture = load_capture(written(folder, place, fields, ("camera_angle_x",)))
        found = {axis: next((FOCAL[name][1] for name in ORDER[axis] if name in names), None) for axis in ("x", "y")}
        expected = [found["x"] or found["y"], found["y"] or found["x"]]
        focal = np.asarray(capture.cameras.intrinsics)[:, [0, 1], [0, 1]]
        np.testing.assert_allclose(focal, [expected] * 4, rtol=1e-5)

    return act


def focal_lengths() -> Iterator[Case]:
    for count in (1, 2):
        for names in itertools.combinations(FOCAL, count):
            for place in ("file", "frames"):
                yield Case(1, f"{'+'.join(names)} of the {place}", _focal(place, names))


def _load(*arguments: Any, **named: Any) -> Callable[[pathlib.Path], object]:
    return lambda folder: load_capture(written(folder, *arguments, **named))


def _frame_over_file(file: str, frame: str) -> Callable[[pathlib.Path], None]:
    """A focal length of the frames in one way, of the file in another: that of the frames counts."""

    def act(folder: pathlib.Path) -> None:
        made = write_capture(folder)
        del made["camera_angle_x"]
        for each in made["frames"]:
            each[frame] = FOCAL[frame][0]
        capture = load_capture(write_json(folder, made | {file: 99.0 if "fl" in file else 1.5}))
        focal = np.asarray(capture.cameras.intrinsics)[:, [0, 1], [0, 1]]
        np.testing.assert_allclose(focal, [[FOCAL[frame][1]] * 2] * 4, rtol=1e-5)

    return act


def frames_over_files() -> Iterator[Case]:
    ways = [("fl_x", "fl_y"), ("camera_angle_x", "camera_angle_y"), ("x_fov", "y_fov")]
    for one, other in itertools.permutations(ways, 2):
        for file, frame in itertools.product(one, other):
            yield Case(1, f"{frame} of the frames, {file} of the file", _frame_over_file(file, frame))


def refused_fields() -> Iterator[Case]:
    for name, value in REFUSED.items():
        for place in ("file", "frame"):
            words = "mismatched image sizes" if name in "wh" else name
            fields = {"w": WIDTH, "h": HEIGHT, name: value} if name in "wh" else {name: value}
            yield Case(1, f"{name} of the {place}", _load(place, fields), words)
    for name in ("fl_x", "camera_angle_y", "y_fov", "cx", "k1", "p2"):
        for value in NO_NUMBERS:
            shown = "10**400" if value == 10**400 else json.dumps(value)
            yield Case(1, f"{name} is {shown}", _load("file", {name: value}), f"transforms.json.*{name}")
    for name, value in (("fl_x", 0), ("fl_y", -3), ("camera_angle_x", 0), ("camera_angle_x", 4), ("x_fov", 180.0)):
        words = "focal length|expected radians|expected degrees"
        yield Case(1, f"{name} is {value:g}", _load("frames", {name: value}, without=("camera_angle_x",)), words)


def _splits(fields: dict[str, Any], fitted: list[int], held_out: list[int]) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        made = write_capture(folder)
        capture = load_capture(write_json(folder, made | fields))
        names = [frame["file_path"] for frame in made["frames"]]
        assert list(capture.names) == [names[place] for place in fitted]
        assert list(capture.test.names if capture.test else ()) == [names[place] for place in held_out]
        grey = capture.images[:, 0, 0, 0] * 255
        np.testing.assert_allclose(grey, 20 * np.array(fitted), atol=1e-3)

    return act


def splits() -> Iterator[Case]:
    zero, one, two, three = (f"images/{place:04d}.png" for place in range(4))
    yield Case(
        1, "split into both", _splits({"train_filenames": [zero, one], "test_filenames": [two, three]}, [0, 1], [2, 3])
    )
    yield Case(1, "split of test alone", _splits({"test_filenames": [three]}, [0, 1, 2], [3]))
    yield Case(1, "split of val alone", _splits({"val_filenames": [zero]}, [1, 2, 3], [0]))
    yield Case(1, "split with dots", _splits({"test_filenames": [f"./{one}"]}, [0, 2, 3], [1]))
    yield Case(1, "split of train alone", _splits({"train_filenames": [three, zero]}, [0, 3], []))
    yield Case(1, "split of val and test", _splits({"val_filenames": [zero], "test_filenames": [one]}, [2, 3], [1]))
    for name, value in (("train_filenames", "all"), ("test_filenames", [1]), ("test_filenames", ["images/9.png"])):
        yield Case(1, f"{name} is {value}", _load("file", {name: value}), name)


def _pose(change: Callable[[np.ndarray], Any], same: bool) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        made = write_capture(folder)
        before = load_capture(folder).cameras.positions
        for frame in made["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"]))
        found = load_capture(write_json(folder, made)).cameras.positions
        assert same
        np.testing.assert_allclose(found, before, atol=1e-5)

    return act


def poses() -> Iterator[Case]:
    good: dict[str, Callable[[np.ndarray], Any]] = {
        "3x4": lambda pose: pose[:3].tolist(),
        "scaled": lambda pose: (pose * [[3.0, 3.0, 3.0, 1.0]]).tolist(),
        "whole numbers and numbers": lambda pose: [[int(v) if v == int(v) else v for v in row] for row in pose],
    }
    for name, change in good.items():
        yield Case(1, f"pose: {name}", _pose(change, True))
    bad: dict[str, Callable[[np.ndarray], Any]] = {
        "transposed": lambda pose: pose.T.tolist(),
        "flat": lambda pose: pose.ravel().tolist(),
        "3x3": lambda pose: pose[:3, :3].tolist(),
        "mirrored": lambda pose: (pose * [[-1.0, 1.0, 1.0, 1.0]]).tolist(),
        "sheared": lambda pose: (pose + np.eye(4, k=1) * 0.3).tolist(),
        "zero": lambda pose: (0 * pose).tolist(),
        "not a number": lambda pose: np.where(np.eye(4, k=3), np.nan, pose).tolist(),
        "infinite": lambda pose: np.where(np.eye(4, k=3), np.inf, pose).tolist(),
        "texts": lambda pose: [[str(v) for v in row] + ["x"] for row in pose],
        "ragged": lambda pose: [row.tolist()[:place] for place, row in enumerate(pose)],
        "nothing": lambda pose: None,
        "an object": lambda pose: {"a": 1},
        "beyond float32": lambda pose: (pose + 1e300 * np.eye(4, k=3)).tolist(),
    }
    for name, change in bad.items():
        yield Case(1, f"pose: {name}", _pose(change, False), "transforms.json: frame 0: transform_matrix")


def _frames(frames: Any) -> Callable[[pathlib.Path], object]:
    def act(folder: pathlib.Path) -> object:
        write_capture(folder)
        return load_capture(write_json(folder, {"camera_angle_x": 0.7, "frames": frames}))

    return act


def frames() -> Iterator[Case]:
    sound = frames_of(["images/0000.png", "images/0001.png"])
    for name, value, words in (
        ("none", None, "frames"),
        ("empty", [], "frames"),
        ("an object", {"0": sound[0]}, "frames"),
        ("texts", ["images/0000.png"], "frame 0"),
        ("without a pose", [sound[0], {"file_path": "images/0001.png"}], "frame 1 .*transform_matrix"),
        ("without a picture", [sound[0], {"transform_matrix": np.eye(4).tolist()}], "frame 1 .*file_path"),
        ("a number for a picture", [sound[0] | {"file_path": 7}], "frame 0: file_path"),
        ("a nested list", [sound], "frame 0"),
        ("a name with a zero byte", [sound[0] | {"file_path": "images/\0.png"}], "missing image"),
        ("a name that is too long", [sound[0] | {"file_path": "x" * 5000}], "missing image"),
        ("an empty name", [sound[0] | {"file_path": ""}], "missing image"),
        ("a folder", [sound[0] | {"file_path": "images"}], "missing image"),
        ("a device", [sound[0] | {"file_path": "/dev/zero"}], "missing image"),
        ("half a surrogate", [sound[0] | {"file_path": "images/\ud800.png"}], "missing image"),
    ):
        yield Case(1, f"frames: {name}", _frames(value), words)


def _text(content: bytes) -> Callable[[pathlib.Path], object]:
    def act(folder: pathlib.Path) -> object:
        write_capture(folder)
        (folder / "transforms.json").write_bytes(content)
        return load_capture(folder)

    return act


def texts() -> Iterator[Case]:
    for name, content in (
        ("empty", b""),
        ("not JSON", b"frames: []"),
        ("a list", b"[]"),
        ("a number", b"1"),
        ("cut", b'{"frames": [{'),
        ("nested a million times", b"[" * 1_000_000),
        ("zero bytes", bytes(1000)),
        ("binary", bytes(range(256))),
        ("a huge number", b'{"frames": 1' + b"0" * 5000 + b"}"),
    ):
        yield Case(6, f"transforms.json: {name}", _text(content), "transforms.json")


def _points(kind: str, colours: tuple[str, tuple[float, ...]] | None, encoding: str) -> Callable[[pathlib.Path], None]:
    """Six points about the origin with one colour; the right colour is (1, 0.2, 0)."""

    def act(folder: pathlib.Path) -> None:
        names = ["x", "y", "z"] + (["red", "green", "blue"] if colours else [])
        types = [kind] * 3 + ([colours[0]] * 3 if colours else [])
        places = np.concatenate([np.eye(3), -np.eye(3)])
        rows = [(*place, *(colours[1] if colours else ())) for place in places]
        numpys = {"uchar": "u1", "ushort": "u2", "float": "f4", "double": "f8", "int": "i4", "uint": "u4"}
        order = ">" if encoding.endswith("big_endian") else "<"
        table = np.array(rows, [(name, order + numpys[each]) for name, each in zip(names, types, strict=True)])
        lines = ["ply", f"format {encoding} 1.0", "comment made here", f"element vertex {len(rows)}"]
        lines += [f"property {each} {name}" for name, each in zip(names, types, strict=True)]
        lines += ["element face 1", "property list uchar int vertex_indices", "end_header", ""]
        body = table.tobytes() + b"\3" + bytes(12)
        if encoding == "ascii":
            body = ("\n".join(" ".join(map(str, row)) for row in table) + "\n3 0 1 2\n").encode()
        (folder / "sparse_pc.ply").write_bytes("\n".join(lines).encode() + body)
        capture = load_capture(written(folder, "file", {"ply_file_path": "sparse_pc.ply"}))
        np.testing.assert_allclose(capture.points, places)
        if colours:
            np.testing.assert_allclose(capture.colours, [[1.0, 0.2, 0.0]] * 6, atol=1e-6)
        else:
            assert capture.colours is None

    return act


def point_clouds() -> Iterator[Case]:
    colours: list[tuple[str, tuple[float, ...]] | None] = [
        None,
        ("uchar", (255, 51, 0)),
        ("ushort", (65535, 13107, 0)),
        ("float", (1.0, 0.2, 0.0)),
        ("float", (255.0, 51.0, 0.0)),
        ("int", (255, 51, 0)),
        ("double", (255.0, 51.0, 0.0)),
        ("uint", (255, 51, 0)),
    ]
    for number, encoding in enumerate(("binary_little_endian", "binary_big_endian", "ascii")):
        for each in colours:
            kind = "double" if number else "float"
            name = "no colours" if each is None else f"{each[0]} colours of {each[1][0]:g}"
            yield Case(1, f"ply_file_path: {name}, {encoding}", _points(kind, each, encoding))


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (focal_lengths, frames_over_files, refused_fields, splits, poses, frames, texts, point_clouds):
        yield from part()
