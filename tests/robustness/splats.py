"""Cases of splat files: extreme values, fields of other programs, wrong headers, files cut short."""

from __future__ import annotations

import copy
import gzip
import math
import pathlib
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import splat
from splat.gaussians import usable
from tests.robustness.case import Case
from tests.splat.test_gltf import NAME, foreign, pack
from tests.splat.test_spz import POSITION, REST, header, smallest_three


PROPERTIES = (
    "x",
    "y",
    "z",
    "opacity",
    "scale_0",
    "scale_1",
    "scale_2",
    "rot_0",
    "rot_1",
    "rot_2",
    "rot_3",
    "f_dc_0",
    "f_dc_1",
    "f_dc_2",
)
ROW = {name: 0.0 for name in PROPERTIES} | {"x": 1.0, "y": 2.0, "z": 3.0, "rot_0": 1.0, "opacity": 0.5, "scale_0": -2.0}


def ply(rows: list[dict[str, float]], kind: str = "float", count: int | None = None, encoding: str = "") -> bytes:
    """A PLY file of rows; `count` is what its header says."""
    encoding = encoding or "binary_little_endian"
    lines = ["ply", f"format {encoding} 1.0", f"element vertex {len(rows) if count is None else count}"]
    lines += [f"property {kind} {name}" for name in rows[0]] + ["end_header", ""]
    numbers = np.array([list(row.values()) for row in rows], np.float64)
    if encoding == "ascii":
        body = "\n".join(" ".join(map(str, row)) for row in numbers.tolist()).encode()
    else:
        body = numbers.astype((">" if "big" in encoding else "<") + {"float": "f4", "double": "f8"}[kind]).tobytes()
    return "\n".join(lines).encode() + body


def read(content: bytes, suffix: str, check: Callable[[splat.Gaussians], object], warned: str = "") -> Callable:
    """Reads a file; `warned` is part of a warning that must come."""

    def act(folder: pathlib.Path) -> None:
        (folder / f"a{suffix}").write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = splat.load(folder / f"a{suffix}", up="y")
        assert bool(warned) == bool(caught) and all(warned in str(each.message) for each in caught), caught
        check(found)

    return act


def close(attribute: str, expected: Any, atol: float = 1e-6) -> Callable[[splat.Gaussians], None]:
    return lambda found: np.testing.assert_allclose(getattr(found, attribute), expected, atol=atol, rtol=1e-5)


def drawn(*expected: bool) -> Callable[[splat.Gaussians], None]:
    return lambda found: np.testing.assert_array_equal(usable(found), expected)


def refuse(found: splat.Gaussians) -> None:
    raise AssertionError(f"read: {found}")


def ply_values() -> Iterator[Case]:
    infinity, nan = math.inf, math.nan
    for encoding in ("binary_little_endian", "binary_big_endian", "ascii"):
        for kind in ("float", "double"):
            where = f"{encoding} {kind}"

            def one(encoding: str = encoding, kind: str = kind, **changes: float) -> bytes:
                return ply([ROW | changes], kind, encoding=encoding)

            yield Case(4, f"PLY, opaque, {where}", read(one(opacity=infinity), ".ply", close("opacities", [1.0])))
            yield Case(4, f"PLY, clear, {where}", read(one(opacity=-infinity), ".ply", close("opacities", [0.0])))
            yield Case(4, f"PLY, flat, {where}", read(one(scale_1=-infinity), ".ply", drawn(True)))
            for name in ("x", "opacity", "scale_0", "rot_2", "f_dc_1"):
                yield Case(4, f"PLY, {name} not a number, {where}", read(one(**{name: nan}), ".ply", drawn(False)))
            yield Case(4, f"PLY, scale +inf, {where}", read(one(scale_0=infinity), ".ply", drawn(False)))
            yield Case(4, f"PLY, long rotation, {where}", read(one(rot_0=1e18), ".ply", drawn(True)))
    yield Case(4, "PLY, x beyond float32", read(ply([ROW | {"x": 1e300}], "double"), ".ply", drawn(False)))
    utm = [ROW | {"x": 448_000.0 + 0.01 * place, "y": 5_411_000.0, "scale_0": -6.0} for place in range(3)]
    for row in utm:
        row |= {"scale_1": -6.0, "scale_2": -6.0}
    yield Case(3, "PLY, doubles in UTM", read(ply(utm, "double"), ".ply", refuse), r"origin=\(448000, 5411000, 3\)")
    with_filter = ply([ROW | {"scale_0": math.log(0.3), "scale_1": -1.0, "scale_2": 0.0, "filter_3D": 0.4}])
    yield Case(1, "PLY, filter_3D", read(with_filter, ".ply", close("scales", [np.hypot([0.3, math.exp(-1), 1], 0.4)])))


def ply_headers() -> Iterator[Case]:
    def with_property(*names: str) -> bytes:
        return ply([ROW | dict.fromkeys(names, 0.25)])

    for name, words in (
        ("t", "move"),
        ("time", "move"),
        ("trbf_center", "move"),
        ("motion_5", "move"),
        ("scale_3", "three scales"),
        ("rot_4", "three scales"),
        ("f_offset_0", "Scaffold"),
        ("f_anchor_feat_3", "Scaffold"),
        ("beta", "another kernel"),
        ("packed_position", "compressed PLY"),
        ("f_rest_0", "f_rest"),
    ):
        yield Case(1, f"PLY with {name}", read(with_property(name), ".ply", refuse), words)
    for name in ("label", "segment_id", "nx2", "confidence"):
        yield Case(1, f"PLY with {name}", read(with_property(name), ".ply", drawn(True), f"not read: {name}"))
    yield Case(1, "PLY with normals", read(with_property("nx", "ny", "nz"), ".ply", drawn(True)))
    for name in PROPERTIES:
        without = {key: value for key, value in ROW.items() if key != name}
        yield Case(
            10, f"PLY without {name}", read(ply([without]), ".ply", refuse), rf"a\.ply: has no property .*{name}"
        )
    sound = ply([ROW] * 4)
    for name, content, words in (
        ("cut in its rows", sound[:-3], "truncated"),
        ("cut in its header", sound[:60], "end_header"),
        ("of 4e9 rows", ply([ROW], count=4_000_000_000), "truncated"),
        ("of 1e30 rows", ply([ROW], count=10**30), "claims"),
        ("of -1 rows", ply([ROW], count=-1), "not understood"),
        ("an unknown format", sound.replace(b"binary_little_endian", b"binary_middle_endian"), "binary_middle_endian"),
        ("an unknown type", sound.replace(b"float x", b"half x"), "half x"),
        ("a property twice", sound.replace(b"property float y", b"property float x"), "twice"),
        ("no vertices", sound.replace(b"element vertex", b"element points"), "no element 'vertex'"),
        ("of 1e9 rows of text", ply([ROW], count=10**9, encoding="ascii"), "truncated"),
    ):
        yield Case(8 if "of 1" in name or "of 4" in name else 4, f"PLY {name}", read(content, ".ply", refuse), words)


def spz(body: bytes = b"", **head: int) -> bytes:
    return gzip.compress(header(**head) + POSITION + REST + (smallest_three(1, 0, 0, 0) + body))


def spz_files() -> Iterator[Case]:
    right = close("means", [[1.5, -2.0, 0.25]])
    yield Case(4, "SPZ", read(spz(), ".spz", right))
    yield Case(1, "SPZ, antialiased", read(spz(flags=1), ".spz", right, "antialiased"))
    for flags in (4, 8, 128):
        yield Case(1, f"SPZ, flags {flags}", read(spz(flags=flags), ".spz", refuse), "flags")
    yield Case(
        10,
        "SPZ, two members",
        read(gzip.compress(header() + POSITION) + gzip.compress(REST + smallest_three(1, 0, 0, 0)), ".spz", right),
    )
    for version in (1, 2, 3, 4, 5):
        plain = b"NGSP" + struct.pack("<I", version) + bytes(40)
        words = {4: "has 0 streams", 5: "versions 1 to 4 are read"}.get(version, "without its gzip")
        yield Case(10, f"SPZ, version {version} not compressed", read(plain, ".spz", refuse), words)
    for version in (0, 4, 99):
        yield Case(10, f"SPZ, version {version}", read(spz(version=version), ".spz", refuse), f"SPZ version {version}")
    for name, content, words in (
        ("degree 7", spz(degree=7), "SH degree 7"),
        ("200 bits", spz(fractional_bits=200), "fractional bits"),
        ("4e9 gaussians", spz(count=2**32 - 1), "claims"),
        ("2 gaussians for 1", spz(count=2), "truncated"),
        ("a gzip file of zeros", gzip.compress(bytes(10_000_000)), "not of SPZ"),
        ("a gzip file of a text", gzip.compress(b"no"), "header"),
        ("cut", spz()[:-9], "early|truncated"),
        ("empty", b"", "SPZ|gzip"),
        ("one byte more", spz(b"0"), "holds more"),
        ("a bomb", gzip.compress(header(count=3_000_000) + bytes(17_000_000)), "claims|too many"),
    ):
        yield Case(
            8 if "4e9" in name or "bomb" in name or "zeros" in name else 4,
            f"SPZ, {name}",
            read(content, ".spz", refuse),
            words,
        )


def dotsplat(**changes: Any) -> bytes:
    row = {
        "mean": (1, 2, 3),
        "scale": (0.1, 0.2, 0.3),
        "rgba": (255, 128, 0, 255),
        "quat": (255, 128, 128, 128),
    } | changes
    kind = [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)]
    return np.array([tuple(row.values())], kind).tobytes()


def dotsplats() -> Iterator[Case]:
    yield Case(4, ".splat", read(dotsplat(), ".splat", close("scales", [[0.1, 0.2, 0.3]])))
    yield Case(4, ".splat, flat", read(dotsplat(scale=(0, 0.2, 0.3)), ".splat", drawn(True)))
    yield Case(4, ".splat, opaque", read(dotsplat(), ".splat", close("opacities", [1.0], 2e-3)))
    for name, content, words in (
        ("log scales", dotsplat(scale=(-4, -3, -5)), "logarithms need exp"),
        ("an infinite scale", dotsplat(scale=(math.inf, 1, 1)), "not finite"),
        ("no place", dotsplat(mean=(math.nan, 0, 0)), "not finite"),
        ("cut", dotsplat()[:-1], "multiple of 32"),
        ("empty", b"", "multiple of 32"),
    ):
        yield Case(10 if "log" in name else 4, f".splat, {name}", read(content, ".splat", refuse), words)


def gltf(*path: Any, value: Any) -> bytes:
    """The file of `foreign` with one value of its document changed."""
    document, binary = foreign()
    document = copy.deepcopy(document)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return pack(document, binary)


def gltfs() -> Iterator[Case]:
    settings = ("meshes", 0, "primitives", 1, "extensions", NAME)
    right = close("opacities", [1.0, 0.2], 1e-5)
    yield Case(4, "glTF", read(pack(*foreign()), ".glb", right))
    for name in ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_transform", "X"):
        yield Case(1, f"glTF requires {name}", read(gltf("extensionsRequired", value=[name]), ".glb", refuse), name)
    yield Case(1, "glTF requires gaussians", read(gltf("extensionsRequired", value=[NAME]), ".glb", right))
    for asset, words in (
        ({"version": "2.0", "minVersion": "2.1"}, "2.1"),
        ({"version": "1.0"}, "1.0"),
        ({"version": "3.0"}, "3.0"),
        ({}, None),
        ({"version": 2.0}, "version"),
        ({"version": "2.0", "minVersion": "2.0"}, None),
        ({"version": "2.1"}, None),
    ):
        check = refuse if words else right
        yield Case(1, f"glTF of {asset}", read(gltf("asset", value=asset), ".glb", check), words)
    for field, value in (("kernel", "box"), ("projection", "orthographic"), ("extensions", {"KHR_x": {}})):
        yield Case(
            1, f"glTF with {field} {value}", read(gltf(*settings, field, value=value), ".glb", refuse), "gaussians"
        )
    for name, value, words in (
        ("sheared", [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "mirrors, shears"),
        ("mirrored", [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "mirrors"),
        ("zero", [0] * 16, "mirrors"),
        ("short", [1] * 15, "matrix"),
        ("huge", [1e200] * 16, "matrix"),
    ):
        yield Case(
            4,
            f"glTF, a node's matrix is {name}",
            read(gltf("nodes", 0, value={"mesh": 0, "matrix": value}), ".glb", refuse),
            words,
        )
    for path, value in (
        (("accessors", 0, "count"), 10**9),
        (("accessors", 0, "count"), -1),
        (("bufferViews", 0, "byteLength"), 10**12),
        (("bufferViews", 0, "byteStride"), 10**9),
        (("accessors", 0, "bufferView"), 99),
        (("scenes", 0, "nodes"), [5]),
        (("nodes",), [{"children": [0]}]),
        (("meshes",), []),
        (("buffers", 0, "uri"), "http://x/y.bin"),
    ):
        yield Case(
            8,
            f"glTF, {'/'.join(map(str, path))} is {value}",
            read(gltf(*path, value=value), ".glb", refuse),
            r"a\.glb: ",
        )
    whole = pack(*foreign())
    for share in (0.0, 0.01, 0.3, 0.9, 0.99):
        yield Case(4, f"glTF cut at {share}", read(whole[: int(share * len(whole))], ".glb", refuse), r"a\.glb: ")


def content_and_suffix() -> Iterator[Case]:
    files = {".ply": ply([ROW]), ".spz": spz(), ".glb": pack(*foreign())}
    for content in files:
        for suffix in (".ply", ".spz", ".splat", ".glb", ".PLY", ".txt"):
            if (content, suffix) in ((".spz", ".splat"),):
                continue  # which has no magic number
            yield Case(10, f"{content} named {suffix}", read(files[content], suffix, lambda found: None))
    for name in ("a.txt", "a.jpg", "a"):

        def act(folder: pathlib.Path, name: str = name) -> None:
            (folder / name).write_bytes(b"hello")
            splat.load(folder / name)

        yield Case(10, f"no splats in {name}", act, "neither its content nor its suffix")


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (ply_values, ply_headers, spz_files, dotsplats, gltfs, content_and_suffix):
        yield from part()
