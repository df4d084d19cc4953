"""Binary glTF files: the written document, foreign storage, nodes, and malformed files."""

import json
import struct
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

import splat
from splat.math import quaternion_to_rotation


NAME = "KHR_gaussian_splatting"
SETTINGS = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}


def scene(n=5, k=4):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in [(n, 3), (n, 4), (n, 3), (n,), (n, k, 3)]]
    return splat.Gaussians(*(jnp.asarray(a, jnp.float32) for a in arrays))


def pack(document, binary=b"", version=2):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", version, 12 + len(body)) + body


def unpack(data):
    size = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def read(tmp_path, content):
    (tmp_path / "a.glb").write_bytes(content)
    return splat.load(tmp_path / "a.glb", up="y")


def test_the_document_is_what_the_extension_asks_for(tmp_path):
    gaussians = scene()
    splat.save(tmp_path / "a.glb", gaussians, up="y")
    data = (tmp_path / "a.glb").read_bytes()
    assert struct.unpack_from("<4sII", data) == (b"glTF", 2, len(data)) and len(data) % 4 == 0
    document, binary = unpack(data)
    assert document["asset"]["version"] == "2.0" and document["extensionsUsed"] == [NAME]
    assert document["buffers"] == [{"byteLength": len(binary)}]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"][NAME] == SETTINGS | {"projection": "perspective", "sortingMethod": "cameraDistance"}

    def values(name):
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        assert accessor["count"] == len(gaussians) and view["byteOffset"] % 4 == 0
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        dtype = {5121: "u1", 5126: "<f4"}[accessor["componentType"]]
        assert view["byteLength"] == len(gaussians) * width * np.dtype(dtype).itemsize
        return accessor, np.frombuffer(binary, dtype, len(gaussians) * width, view["byteOffset"]).reshape(-1, width)

    accessor, positions = values("POSITION")
    np.testing.assert_array_equal(positions, gaussians.means)
    np.testing.assert_allclose(accessor["min"], positions.min(axis=0))
    np.testing.assert_allclose(accessor["max"], positions.max(axis=0))
    np.testing.assert_allclose(values(f"{NAME}:SCALE")[1], gaussians.scales, rtol=1e-6)
    np.testing.assert_allclose(values(f"{NAME}:OPACITY")[1][:, 0], gaussians.opacities, rtol=1e-6)
    quats = np.asarray(gaussians.quats) / np.linalg.norm(gaussians.quats, axis=1, keepdims=True)
    np.testing.assert_allclose(values(f"{NAME}:ROTATION")[1], quats[:, [1, 2, 3, 0]], atol=1e-6)
    np.testing.assert_array_equal(values(f"{NAME}:SH_DEGREE_0_COEF_0")[1], gaussians.sh[:, 0])
    np.testing.assert_array_equal(values(f"{NAME}:SH_DEGREE_1_COEF_2")[1], gaussians.sh[:, 3])
    assert f"{NAME}:SH_DEGREE_2_COEF_0" not in primitive["attributes"]
    accessor, colors = values("COLOR_0")
    assert accessor["normalized"] is True
    display = np.clip(0.5 + 0.28209479 * np.asarray(gaussians.sh[:, 0]), 0, 1)
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(colors[:, :3] / 255, linear, atol=0.503 / 255)


def foreign(nodes=None, **changes):
    """Two gaussians in normalised integers, interleaved in rows of 24 bytes, of SH degree 0."""
    rows = np.zeros(2, [("p", "<f4", 3), ("q", "<i2", 4), ("s", "u1", 3), ("o", "u1")])
    rows["p"] = [[1, 2, 3], [4, 5, 6]]
    rows["q"] = [[0, 0, 0, 32767], [32767, 0, 0, 0]]
    rows["s"], rows["o"] = [[255, 51, 0], [51, 51, 51]], [255, 51]
    binary = rows.tobytes() + np.array([[1, 2, 3], [4, 5, 6]], "<f4").tobytes()
    kinds = [("VEC3", 5126, 0), ("VEC4", 5122, 12), ("VEC3", 5121, 20), ("SCALAR", 5121, 23)]
    accessors = [
        {"bufferView": 0, "byteOffset": o, "componentType": c, "normalized": c != 5126, "type": t, "count": 2}
        for t, c, o in kinds
    ]
    accessors.append({"bufferView": 1, "componentType": 5126, "type": "VEC3", "count": 2})
    names = ["POSITION", f"{NAME}:ROTATION", f"{NAME}:SCALE", f"{NAME}:OPACITY", f"{NAME}:SH_DEGREE_0_COEF_0"]
    primitive = {"attributes": {n: i for i, n in enumerate(names)}, "mode": 0, "extensions": {NAME: SETTINGS}}
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": nodes or [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}, primitive]}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteLength": 48, "byteStride": 24},
            {"buffer": 0, "byteOffset": 48, "byteLength": 24},
        ],
        "buffers": [{"byteLength": 72}],
    }
    return document | changes, binary


def test_interleaved_normalised_integers(tmp_path):
    gaussians = read(tmp_path, pack(*foreign()))
    np.testing.assert_array_equal(gaussians.means, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(gaussians.quats, [[1, 0, 0, 0], [0, 1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(gaussians.scales, [[1, 0.2, 0], [0.2, 0.2, 0.2]], atol=1e-6)
    np.testing.assert_allclose(gaussians.opacities, [1, 0.2], atol=1e-6)
    np.testing.assert_array_equal(gaussians.sh[:, 0], [[1, 2, 3], [4, 5, 6]])


def test_nodes_move_turn_and_scale(tmp_path):
    half = np.sqrt(0.5)
    nodes = [
        {"children": [2, 1], "translation": [10, 0, 0], "rotation": [0, 0, half, half]},  # a quarter about z
        {"mesh": 0, "matrix": [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0, 0, 5, 1]},
        {"mesh": 0, "scale": [3, 3, 3]},
    ]
    gaussians = read(tmp_path, pack(*foreign(nodes)))
    points = np.array([[1, 2, 3], [4, 5, 6]])
    local = np.concatenate([3 * points, 2 * points + [[0, 0, 5]]])
    expected = np.stack([10 - local[:, 1], local[:, 0], local[:, 2]], axis=1)
    np.testing.assert_allclose(gaussians.means, expected, atol=1e-5)
    np.testing.assert_allclose(gaussians.scales[:, 1], [0.6, 0.6, 0.4, 0.4], rtol=1e-5)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    np.testing.assert_allclose(quaternion_to_rotation(gaussians.quats)[2], quarter, atol=1e-6)


def test_another_colour_space_is_said(tmp_path):
    document, binary = foreign()
    document["meshes"][0]["primitives"][1]["extensions"] = {NAME: SETTINGS | {"colorSpace": "lin_rec709_display"}}
    with pytest.warns(UserWarning, match="lin_rec709_display"):
        read(tmp_path, pack(document, binary))


def changed(*path, value=None):
    """The foreign file with one value of its document changed, or taken out if it is None."""
    document, binary = foreign()
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return pack(document, binary)


good = pack(*foreign())
PRIMITIVE = ("meshes", 0, "primitives", 1)
MALFORMED = {
    "empty": (b"", "glTF"),
    "version": (pack(*foreign(), version=1), "glTF version 1"),
    "cut": (good[:-1], "truncated"),
    "cut in header": (good[:14], "truncated"),
    "no json": (good[:12] + struct.pack("<I4s", 0, b"BIN\0"), "truncated|JSON"),
    "bad json": (pack(b"{"), "cannot be parsed"),
    "deep json": (pack(b"[" * 100_000), "cannot be parsed"),
    "bytes": (pack(b"\xff\xfe"), "cannot be parsed"),
    "list": (pack([]), "no object"),
    "nothing": (pack({}), "holds no primitive"),
    "no gaussians": (changed(*PRIMITIVE, "extensions"), "holds no primitive"),
    "kernel": (changed(*PRIMITIVE, "extensions", NAME, value={"kernel": "cube"}), "kernel 'cube'"),
    "compressed": (
        changed(*PRIMITIVE, "extensions", NAME, value=SETTINGS | {"extensions": {"KHR_spz": {}}}),
        "KHR_spz",
    ),
    "attribute": (changed(*PRIMITIVE, "attributes", f"{NAME}:SCALE"), "without KHR_gaussian_splatting:SCALE"),
    "coefficients": (changed(*PRIMITIVE, "attributes", f"{NAME}:SH_DEGREE_1_COEF_0", value=4), "without .*COEF_1"),
    "index": (changed(*PRIMITIVE, "attributes", "POSITION", value=99), "accessors"),
    "index type": (changed(*PRIMITIVE, "attributes", "POSITION", value=[1]), "accessors"),
    "type": (changed("accessors", 0, "type", value="VEC4"), "POSITION in a way"),
    "component": (changed("accessors", 0, "componentType", value=5121), "POSITION in a way"),
    "component list": (changed("accessors", 0, "componentType", value=[5]), "no count"),
    "sparse": (changed("accessors", 0, "sparse", value={}), "in a way"),
    "no view": (changed("accessors", 0, "bufferView"), "bufferViews"),
    "count": (changed("accessors", 0, "count", value=3), "truncated: POSITION"),
    "huge count": (changed("accessors", 0, "count", value=2**39), "truncated"),
    "negative count": (changed("accessors", 0, "count", value=-1), "no count"),
    "fraction": (changed("accessors", 0, "count", value=1.5), "no count"),
    "other count": (changed("accessors", 0, "count", value=1), "1 positions, but 2"),
    "stride": (changed("bufferViews", 0, "byteStride", value=4), "stride"),
    "view outside": (changed("bufferViews", 0, "byteOffset", value=60), "truncated"),
    "external": (changed("buffers", 0, "uri", value="a.bin"), "outside"),
    "cycle": (pack(*foreign([{"children": [0], "mesh": 0}])), "twice"),
    "child": (pack(*foreign([{"children": [7]}])), "nodes"),
    "children": (pack(*foreign([{"children": "a"}])), "children"),
    "mesh": (pack(*foreign([{"mesh": "a"}])), "meshes"),
    "mirror": (pack(*foreign([{"mesh": 0, "scale": [-1, 1, 1]}])), "mirrors"),
    "uneven": (pack(*foreign([{"mesh": 0, "scale": [1, 2, 1]}])), "differently"),
    "flat": (pack(*foreign([{"mesh": 0, "scale": [0, 0, 0]}])), "differently"),
    "no rotation": (pack(*foreign([{"mesh": 0, "rotation": [0, 0, 0, 0]}])), "differently"),
    "far": (pack(*foreign([{"mesh": 0, "translation": [1e200, 0, 0]}])), "translation"),
    "short matrix": (pack(*foreign([{"mesh": 0, "matrix": [1, 2]}])), "matrix"),
    "scene": (changed("scenes", value=[{"nodes": [0]}, 5]), "scenes"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_malformed_files_are_rejected_with_one_line(tmp_path, name):
    content, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value) and "a.glb" in str(error.value)


@pytest.mark.parametrize("levels", ["nodes", "primitives"])
def test_a_small_file_cannot_ask_for_many_copies(tmp_path, levels):
    splat.save(tmp_path / "b.glb", scene(n=2000, k=1), up="y")
    document, binary = unpack((tmp_path / "b.glb").read_bytes())
    if levels == "nodes":
        document["nodes"] = [{"mesh": 0}] * 5000
        document["scenes"] = [{"nodes": list(range(5000))}]
    else:
        document["meshes"][0]["primitives"] *= 5000
    content = pack(document, binary)
    tracemalloc.start()
    with pytest.raises(ValueError, match="too often"):
        read(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(content)


def rewritten(tmp_path, name, change):
    """A written file in which `change` acts on the numbers of an attribute of the extension."""
    splat.save(tmp_path / "b.glb", scene(), up="y")
    document, binary = unpack((tmp_path / "b.glb").read_bytes())
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"][f"{NAME}:{name}"]]
    view = document["bufferViews"][accessor["bufferView"]]
    start, stop = view["byteOffset"], view["byteOffset"] + view["byteLength"]
    values = change(np.frombuffer(binary[start:stop], "<f4")).astype("<f4").tobytes()
    return pack(document, binary[:start] + values + binary[stop:])


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("OPACITY", lambda values: 3.0 + values, "opacity 3.*expected 0 to 1 .logits need the sigmoid first"),
        ("OPACITY", lambda values: values - 1.5, "opacity -0.*expected 0 to 1 .logits need the sigmoid first"),
        ("SCALE", np.log, "scale -.*SCALE is linear; logarithms need exp first"),
    ],
)
def test_values_before_their_activations_are_refused(name, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, rewritten(tmp_path, name, change))


def test_opacities_may_be_rounded_and_at_their_limits(tmp_path):
    limits = np.array([0.0, 1.0, 1.0000002, -1e-8, 0.5])
    back = read(tmp_path, rewritten(tmp_path, "OPACITY", lambda values: limits))
    np.testing.assert_allclose(back.opacities, limits.clip(0, 1), atol=1e-6)


def test_a_node_far_from_the_origin_keeps_its_digits(tmp_path):
    splat.save(tmp_path / "b.glb", scene(), up="y")
    document, binary = unpack((tmp_path / "b.glb").read_bytes())
    document["nodes"] = [{"mesh": 0, "translation": [4_500_000.25, 120.125, 500_000.5], "scale": [0.1, 0.1, 0.1]}]
    path = tmp_path / "a.glb"
    path.write_bytes(pack(document, binary))
    with pytest.raises(ValueError, match="origin="):
        splat.load(path, up="y")
    moved = splat.load(path, up="y", origin=(4_500_000.25, 120.125, 500_000.5))
    np.testing.assert_allclose(moved.means, 0.1 * scene().means, atol=1e-6)
