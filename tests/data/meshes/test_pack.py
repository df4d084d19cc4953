"""Packs: what comes back, what it costs, and damage."""

import dataclasses
import json
import struct
import zlib

import numpy as np
import pytest

from im3d_jax.data.meshes import pack as packs
from im3d_jax.data.meshes.model import Limits, Material, Mesh, MeshError, Part, Texture
from im3d_jax.data.meshes.pack import MeshPack, write_pack
from im3d_jax.data.meshes.packing import encode_picture
from im3d_jax.data.meshes.reading import read_mesh
from im3d_jax.data.meshes.sources import Source, packed_sources
from im3d_jax.errors import InputError
from tests.data.meshes.files import FACTORS, cube_glb


def random_part(seed=0, vertices=50):
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(vertices, 3))
    pixels = np.concatenate([rng.integers(0, 256, (16, 16, 3), np.uint8), np.full((16, 16, 1), 255, np.uint8)], -1)
    material = Material(
        (0.1, 0.2, 0.3, 0.4),
        Texture(pixels, ("clamp", "mirror"), nearest=True),
        "blend",
        0.25,
        (1.0, 2.0, 3.0),
        None,
        True,
    )
    return Part(
        rng.uniform(-0.95, 0.95, (vertices, 3)).astype(np.float32),
        rng.integers(0, vertices, (80, 3)).astype(np.uint32),
        material,
        (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float32),
        rng.uniform(-3, 5, (vertices, 2)).astype(np.float32),
        rng.uniform(0, 1, (vertices, 4)).astype(np.float32),
    )


def source(name="a.glb", **columns):
    return Source(name.replace(".", "-"), name, f"caption of {name}", columns)


@pytest.fixture
def packed(tmp_path):
    """A pack of three objects, and its path."""
    (tmp_path / "cube.glb").write_bytes(cube_glb())
    cube = read_mesh(tmp_path / "cube.glb")
    part = random_part()
    meshes = [
        (source("cube.glb", licence="CC0"), cube),
        (source("b.glb"), Mesh((part, dataclasses.replace(part, normals=None, uv=None, colours=None)), ("a note",))),
        (source("c.glb"), Mesh((dataclasses.replace(random_part(1), material=part.material),))),
    ]
    path = tmp_path / "some.meshpack"
    assert write_pack(path, iter(meshes)) == 3
    return path, meshes


def corners(part, values):
    return values[part.triangles]


def test_round_trip(packed):
    path, meshes = packed
    pack = MeshPack(path)
    assert len(pack) == 3
    for number, (told, mesh) in enumerate(meshes):
        entry, found = pack.entries[number], pack.mesh(number)
        assert (entry["source"], entry["caption"], entry["columns"]) == (told.name, told.caption, told.columns)
        assert found.notes == mesh.notes and len(found.parts) == len(mesh.parts)
        for part, before in zip(found.parts, mesh.parts, strict=True):
            # Vertices may come in another order; the triangles' corners do not.
            np.testing.assert_allclose(corners(part, part.positions), corners(before, before.positions), atol=2e-5)
            for name, tolerance in (("normals", 1e-4), ("uv", 1e-4), ("colours", 0.009)):
                values, wanted = getattr(part, name), getattr(before, name)
                assert (values is None) == (wanted is None)
                if wanted is not None:
                    np.testing.assert_allclose(corners(part, values), corners(before, wanted), atol=tolerance)
    cube = pack.mesh(0)
    assert [part.material.factor for part in cube.parts] == [(*rgb, 1.0) for rgb in FACTORS.values()]
    material, wanted = pack.mesh(1).parts[0].material, meshes[1][1].parts[0].material
    plain = {"texture": None, "emission_texture": None}
    assert dataclasses.asdict(dataclasses.replace(material, **plain)) == dataclasses.asdict(
        dataclasses.replace(wanted, **plain)
    )
    assert (material.texture.wrap, material.texture.nearest) == (("clamp", "mirror"), True)
    np.testing.assert_array_equal(material.texture.pixels, wanted.texture.pixels)


def test_pictures_are_kept_once(packed):
    path, _ = packed
    pack = MeshPack(path)
    assert pack.mesh(1).parts[0].material.texture is pack.mesh(2).parts[0].material.texture


def test_equal_meshes_make_equal_bytes(packed, tmp_path):
    path, meshes = packed
    write_pack(tmp_path / "again.meshpack", meshes)
    assert (tmp_path / "again.meshpack").read_bytes() == path.read_bytes()
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_large_pictures_are_kept_lossily():
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 512)[:, None, None] + rng.normal(size=(512, 512, 4)) * 4
    pixels = smooth.clip(0, 255).astype(np.uint8)
    with_alpha = encode_picture(pixels)
    opaque = encode_picture(np.concatenate([pixels[..., :3], np.full((512, 512, 1), 255, np.uint8)], -1))
    assert with_alpha[8:12] == b"WEBP" and opaque[:2] == b"\xff\xd8"
    assert max(len(with_alpha), len(opaque)) < pixels.nbytes / 4
    assert encode_picture(pixels[:64, :64])[1:4] == b"PNG"


def test_pictures_are_made_small_enough(tmp_path):
    pixels = np.full((2048, 1024, 4), 255, np.uint8)
    part = dataclasses.replace(random_part(), material=Material(texture=Texture(pixels)))
    write_pack(tmp_path / "a.meshpack", [(source(), Mesh((part,)))])
    small = MeshPack(tmp_path / "a.meshpack").mesh(0).parts[0].material.texture.pixels
    assert small.shape == (packs.TEXTURE_SIDE, packs.TEXTURE_SIDE // 2, 4)


def test_selection(packed):
    entries = MeshPack(packed[0]).entries
    assert [item.number for item in packed_sources(entries, only="[bc].glb", limit=None)] == [1, 2]
    assert [item.name for item in packed_sources(entries, only=None, limit=1)] == ["cube.glb"]
    with pytest.raises(InputError, match="matches no mesh"):
        packed_sources(entries, only="mug", limit=None)


def rewritten(path, change):
    """The pack with another index."""
    content = path.read_bytes()
    offset, packed_bytes, _ = struct.unpack("<QQQ", content[-24:])
    index = json.loads(zlib.decompress(content[offset : offset + packed_bytes]))
    change(index)
    plain = json.dumps(index).encode()
    small = zlib.compress(plain)
    path.write_bytes(content[:offset] + small + struct.pack("<QQQ", offset, len(small), len(plain)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index.update(version=9), "version 9; this program reads 1"),
        (lambda index: index.pop("objects"), "damaged"),
    ],
)
def test_wrong_packs(packed, change, words):
    path, _ = packed
    rewritten(path, change)
    with pytest.raises(InputError, match=words):
        MeshPack(path)


def test_cut_packs(packed, tmp_path):
    path, _ = packed
    whole = path.read_bytes()
    for content, words in (
        (b"", "no pack"),
        (b"PNG" + whole, "no pack"),
        (whole[:20], "truncated"),
        (whole[:-1], "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            MeshPack(path)
    with pytest.raises(InputError, match="No such file"):
        MeshPack(tmp_path / "none.meshpack")
    inflated = zlib.compress(b" " * 10_000_000)
    path.write_bytes(b"IM3DMESH" + inflated + struct.pack("<QQQ", 8, len(inflated), 100))
    with pytest.raises(InputError, match="another length"):
        MeshPack(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry["parts"][0].update(triangles=10**12), "1000000000\\d+ triangles; at most"),
        (lambda entry: entry["parts"][0].update(triangles=-1), "triangles"),
        (lambda entry: entry["parts"][0].update(vertices=49), "damaged"),
        (lambda entry: entry["parts"][0].update(material=7), "damaged"),
        (lambda entry: entry.update(offset=8 + entry["offset"]), "damaged"),
        (lambda entry: entry["materials"][0].update(texture=9), "damaged"),
        (lambda entry: entry["materials"][0].update(shine=9), "damaged"),
        (lambda entry: entry.pop("parts"), "damaged"),
    ],
)
def test_wrong_objects(packed, change, words):
    """The object that is damaged fails, in one line; others do not."""
    path, _ = packed
    rewritten(path, lambda index: change(index["objects"][1]))
    pack = MeshPack(path)
    with pytest.raises(MeshError, match=words):
        pack.mesh(1)
    assert len(pack.mesh(0).parts) == 6
    with pytest.raises(MeshError, match="at most 11"):
        MeshPack(path, Limits(triangles=11)).mesh(0)


def test_a_pack_looks_like_its_meshes(packed, renderer):
    pack, angles = MeshPack(packed[0]), (np.array([0.3, 2.5]), np.array([0.2, 0.6]))
    before, after = (renderer.render(mesh, *angles, 64).astype(int) for mesh in (packed[1][0][1], pack.mesh(0)))
    assert np.abs(before - after).mean() < 0.05
