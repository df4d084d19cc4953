"""glTF files that are damaged, too large, or refer to what they should not."""

import json

import numpy as np
import pytest

from im3d_jax.data.meshes.model import MeshError
from tests.data.meshes.files import QUAD_UV, SIDES, Gltf, cube_glb, side_corners


FRONT = side_corners(*SIDES["front"])


def test_limits_are_checked_before_reading(read_file):
    gltf = Gltf()
    gltf.cube()
    with pytest.raises(MeshError, match="more than 11 triangles"):
        read_file(gltf.glb(), triangles=11)
    with pytest.raises(MeshError, match="more than 23 vertices"):
        read_file(gltf.glb(), vertices=23)
    with pytest.raises(MeshError, match="MiB"):
        read_file(gltf.glb(), file_bytes=100)
    # Headers alone: the data would be 48 GB.
    gltf.document["accessors"][0]["count"] = 4_000_000_000
    with pytest.raises(MeshError, match="4000000000"):
        read_file(gltf.glb())
    gltf = Gltf()
    slot = {"index": gltf.picture(np.zeros((40, 50, 3), np.uint8))}
    material = gltf.add("materials", {"pbrMetallicRoughness": {"baseColorTexture": slot}})
    gltf.node([gltf.primitive(FRONT, material=material, TEXCOORD_0=QUAD_UV)])
    with pytest.raises(MeshError, match="50x40"):
        read_file(gltf.glb(), texture_pixels=1999)
    assert read_file(gltf.glb(), texture_side=10).parts[0].material.texture.pixels.shape == (8, 10, 4)


def test_references_stay_in_the_folder(read_file, tmp_path):
    gltf = Gltf()
    gltf.cube()
    document = json.loads(gltf.gltf())
    (tmp_path / "secret.bin").write_bytes(gltf.data)
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "a file.bin").write_bytes(gltf.data)
    (tmp_path / "meshes" / "link.bin").symlink_to(tmp_path / "secret.bin")
    document["buffers"][0]["uri"] = "a%20file.bin"
    assert len(read_file(json.dumps(document), "mesh.gltf").parts) == 6
    for uri, words in (
        ("../secret.bin", "outside"), (str(tmp_path / "secret.bin"), "outside"), ("link.bin", "outside"),
        ("https://example.org/a.bin", "downloaded"), ("none.bin", "missing"), (".", "missing"),
    ):  # fmt: skip
        document["buffers"][0]["uri"] = uri
        with pytest.raises(MeshError, match=words):
            read_file(json.dumps(document), "mesh.gltf")


def damaged(change):
    gltf = Gltf()
    gltf.cube()
    change(gltf.document)
    return gltf.glb()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["nodes"].append({"children": [len(d["nodes"])]}) or d["scenes"][0].update(nodes=[1]), "twice"),
        (lambda d: d.update(asset={"version": "1.0"}), "1.0"),
        (lambda d: d["nodes"][0].update(mesh=5), r"meshes\[5\]"),
        (lambda d: d["accessors"][0].update(bufferView=1), "beyond"),
        (lambda d: d["accessors"][0].update(componentType=1), "KeyError"),
        (lambda d: d["accessors"][0].update(count=-1), "-1"),
        (lambda d: d["accessors"][0].update(count="x"), "x"),
        (lambda d: d["accessors"][1].update(count=3) or d["accessors"][0].update(count=2), "vertex 2 of 2"),
        (lambda d: d["bufferViews"][0].update(byteLength=10**9), "longer"),
        (lambda d: d["materials"][0]["pbrMetallicRoughness"].update(baseColorFactor=["a"]), "ValueError"),
        (lambda d: d["materials"][0].update(alphaMode="GLASS"), "GLASS"),
        (lambda d: d.update(extensionsRequired=["KHR_texture_basisu"]), "KHR_texture_basisu"),
        (lambda d: d.update(nodes=3), "damaged"),
    ],
)
def test_damage_is_one_line(read_file, change, words):
    with pytest.raises(MeshError, match=words) as caught:
        read_file(damaged(change))
    assert "\n" not in str(caught.value)


def test_cut_and_spoilt_files(read_file):
    """Whatever bytes come: a mesh or a `MeshError`."""
    whole = cube_glb()
    rng = np.random.default_rng(0)
    failures = 0
    for i in range(200):
        content = bytearray(whole[: rng.integers(0, len(whole))] if i % 2 else whole)
        for _ in range(4):
            if content:
                content[rng.integers(len(content))] = rng.integers(256)
        try:
            read_file(bytes(content))
        except MeshError:
            failures += 1
    assert failures > 100
