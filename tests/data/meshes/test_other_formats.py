"""OBJ, PLY and STL: geometry, colours, damage."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from im3d_jax.data.meshes.files import Files
from im3d_jax.data.meshes.model import Limits, MeshError, to_linear
from im3d_jax.data.meshes.obj import read_obj
from im3d_jax.data.meshes.reading import read_mesh
from im3d_jax.data.meshes.scans import ply_counts, read_scan, stl_counts
from tests.data.meshes.files import CUBE_MTL, CUBE_OBJ


QUAD = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3 4/4\n"


@pytest.fixture
def read(tmp_path):
    """Writes an OBJ, with other files beside it, and reads it in its own axes."""

    def read(text, limits=None, **others):
        for name, content in {"mesh_obj": text, **others}.items():
            path = tmp_path / name.replace("_", ".")
            if isinstance(content, np.ndarray):
                Image.fromarray(content).save(path)
            else:
                path.write_text(content)
        limits = Limits() if limits is None else limits
        return read_obj(Files(tmp_path / "mesh.obj", None, limits), limits)

    return read


def test_cube(read):
    mesh = read(CUBE_OBJ, cube_mtl=CUBE_MTL)
    red, blue = mesh.parts
    assert red.material.factor == pytest.approx((*to_linear([0.8, 0.1, 0.1]), 1.0), abs=1e-6), "Kd is sRGB"
    assert blue.material.factor == pytest.approx((*to_linear([0.1, 0.2, 0.9]), 1.0), abs=1e-6)
    assert (len(red.triangles), len(blue.triangles)) == (2, 10)
    assert (red.positions[:, 2] == 1).all() and len(red.positions) == 4
    for part in mesh.parts:
        corners = part.positions[part.triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert ((normals * corners.mean(1)).sum(-1) > 0).all(), "outside is outside"
    assert not mesh.notes


def test_texture_and_normals(read):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    library = "newmtl a b\nKd 0 0 0\nmap_Kd -s 1 1 1 -clamp on  my picture.png\nd 0.5\n"
    text = f"mtllib mesh.mtl\n{QUAD}vn 0 0 5\nusemtl a b\nf 1/1/1 2/2/1 3/3/1 \\\n4/4/1\n"
    part = read(text, mesh_mtl=library, **{"my picture_png": pixels}).parts[0]
    np.testing.assert_array_equal(part.material.texture.pixels[..., :3], pixels)
    assert part.material.factor == (1.0, 1.0, 1.0, 0.5) and part.material.alpha == "blend"
    np.testing.assert_array_equal(part.normals, np.tile([[0, 0, 5]], (4, 1)))
    # v points up in OBJ, down in the pictures' rows.
    at = {tuple(position[:2]): tuple(uv) for position, uv in zip(part.positions, part.uv, strict=True)}
    assert at == {(-1, -1): (0, 1), (1, -1): (1, 1), (1, 1): (1, 0), (-1, 1): (0, 0)}


def test_without_a_library(read):
    pixels = np.full((4, 4, 3), 7, np.uint8)
    plain = read("mtllib none.mtl\n" + QUAD + FACE)
    assert plain.parts[0].material.texture is None and plain.notes == ("none.mtl is missing",)
    found = read("mtllib none.mtl\n" + QUAD + FACE, texture_png=pixels)
    np.testing.assert_array_equal(found.parts[0].material.texture.pixels[..., :3], pixels)
    unsure = read("mtllib none.mtl\n" + QUAD + FACE, other_png=pixels)
    assert unsure.parts[0].material.texture is None, "two pictures: which of them?"


def test_vertex_colours(read):
    lines = [f"v {x} {y} 0 {r} 0.5 0" for x, y, r in ((0, 0, 0), (1, 0, 1), (0, 1, 0.25))]
    part = read("\n".join([*lines, "f 1 2 3", ""])).parts[0]
    order = np.lexsort(part.positions.T)
    found = part.colours[order]
    expected = to_linear(np.array([[0, 0.5, 0], [1, 0.5, 0], [0.25, 0.5, 0]]))
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QUAD + "f 1 2 9\n", "9"),
        (QUAD + "f 1 2 0\n", "0"),
        (QUAD + "f 1 2 -5\n", "-5"),
        (QUAD + "f 1/9 2/1 3/1\n", "1/9"),
        (QUAD + "f a b c\n", "damaged"),
        ("v 1 2\nv 1 2\nv 1 2\nf 1 2 3\n", "three numbers"),
        ("v 1 2 x\nf 1 1 1\n", "damaged"),
        ("mtllib m.mtl\n" + QUAD + "usemtl a\n" + FACE, "gone.png is missing"),
    ],
)
def test_damage(read, text, words):
    with pytest.raises(MeshError, match=words):
        read(text, m_mtl="newmtl a\nmap_Kd gone.png\n")


def test_limits(read):
    with pytest.raises(MeshError, match="more than 1 triangles"):
        read(QUAD + FACE, Limits(triangles=1))
    with pytest.raises(MeshError, match="more than 2 vertices"):
        read(QUAD + FACE, Limits(vertices=2))


PLY = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 2
property list uchar int vertex_indices
end_header
0 0 0 255 0 0
1 0 0 0 255 0
1 1 0 0 0 128
0 1 0 255 255 255
3 0 1 2
3 0 2 3
"""
FACET = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex {} 1 0\nendloop\nendfacet\n"
STL = "solid quad\n" + FACET.format(0) + FACET.format(1) + "endsolid quad\n"


def test_headers():
    assert ply_counts(PLY.encode()) == (4, 2)
    assert stl_counts(STL.encode()) == (0, 2)
    assert stl_counts(b"\0" * 80 + (3).to_bytes(4, "little") + b"\0" * 150) == (0, 3)
    with pytest.raises(MeshError, match="no PLY"):
        ply_counts(b"ply\nelement vertex 3\n")


def test_ply_and_stl(tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / "quad.ply").write_text(PLY)
    (tmp_path / "quad.stl").write_text(STL)
    part = read_scan(Files(tmp_path / "quad.ply", None, Limits()), Limits(), "ply").parts[0]
    np.testing.assert_array_equal(part.triangles, [[0, 1, 2], [0, 2, 3]])
    expected = to_linear(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 128 / 255], [1, 1, 1]]))
    np.testing.assert_allclose(part.colours[:, :3], expected, atol=1e-6)
    assert part.material.factor == (1.0, 1.0, 1.0, 1.0) and part.normals is None
    assert read_scan(Files(tmp_path / "quad.stl", None, Limits()), Limits(), "stl").parts[0].triangles.shape == (2, 3)
    with pytest.raises(MeshError, match="2 triangles; at most 1"):
        read_scan(Files(tmp_path / "quad.ply", None, Limits()), Limits(triangles=1), "ply")
    for name, content in (("cut.ply", PLY[:-20]), ("cut.stl", STL[:60]), ("empty.ply", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(MeshError):
            read_mesh(tmp_path / name)


def test_unknown_suffix(tmp_path):
    with pytest.raises(MeshError, match="'.fbx'; expected one of .glb"):
        read_mesh(tmp_path / "a.fbx")


def test_shared_meshes(shared_data):
    """Meshes of others: what is up, and their colours."""
    duck = read_mesh(shared_data / "meshes" / "duck.glb")
    assert duck.triangle_count == 4212 and duck.parts[0].material.texture is not None
    points = np.concatenate([part.positions for part in duck.parts])
    flat = points[points[:, 2] < points[:, 2].min() + 0.1]
    assert np.ptp(flat[:, :2], 0).min() > 0.5, "it stands on its broad belly"
    bottle = read_mesh(shared_data / "meshes" / "fuze.obj", up="z")
    assert np.ptp(bottle.parts[0].positions, 0).argmax() == 2, "it stands upright"
    assert dataclasses.replace(bottle.parts[0].material.texture).pixels[..., :3].std() > 10
