"""glTF: colours, transforms, encodings and limits, against files with known content."""

import numpy as np
import pytest

from im3d_jax.data.meshes.model import Limits, MeshError
from tests.data.meshes.files import FACTORS, QUAD, QUAD_UV, SIDES, Gltf, cube_glb, side_corners


FRONT = side_corners(*SIDES["front"])


def one(gltf, **node):
    """A file of one quad with everything else as `gltf` has it."""
    gltf.node([gltf.primitive(FRONT)], **node)
    return gltf.glb()


def test_cube(read_file):
    mesh = read_file(cube_glb())
    assert [part.material.factor for part in mesh.parts] == [(*rgb, 1.0) for rgb in FACTORS.values()]
    for part, name in zip(mesh.parts, FACTORS, strict=True):
        axis, sign = SIDES[name]
        np.testing.assert_array_equal(part.positions[:, axis], sign)
        a, b, c = part.positions[part.triangles[0]]
        assert np.cross(b - a, c - a)[axis] * sign > 0, "counter-clockwise seen from outside"
        assert part.normals is None and part.uv is None and part.material.single_sided
    assert not mesh.notes


def test_text_and_binary_are_the_same(read_file):
    gltf = Gltf()
    gltf.cube()
    binary, text = read_file(gltf.glb()), read_file(gltf.gltf(), "mesh.gltf")
    for one, other in zip(binary.parts, text.parts, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.triangles, other.triangles)


def test_transforms(read_file):
    """Translation, rotation and scale along the tree; a matrix is stored by columns."""
    gltf = Gltf()
    half = np.sqrt(0.5)
    child = gltf.node([gltf.primitive(FRONT, NORMAL=np.tile(np.float32([[0, 0, 1]]), (4, 1)))], scale=[1, 2, 3])
    gltf.document["scenes"][0]["nodes"] = [
        gltf.add("nodes", {"children": [child], "translation": [5, 0, 0], "rotation": [0, half, 0, half]})
    ]
    part = read_file(gltf.glb()).parts[0]
    # A quarter turn about y takes z to x and x to -z.
    expected = np.stack([FRONT[:, 2] * 3 + 5, FRONT[:, 1] * 2, -FRONT[:, 0]], -1)
    np.testing.assert_allclose(part.positions, expected, atol=1e-6)
    directions = part.normals / np.linalg.norm(part.normals, axis=-1, keepdims=True)
    np.testing.assert_allclose(directions, np.tile([[1, 0, 0]], (4, 1)), atol=1e-6)
    matrix = [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 7, 8, 9, 1]
    moved = read_file(one(Gltf(), matrix=matrix)).parts[0].positions
    np.testing.assert_allclose(moved, FRONT * (1, 2, 3) + (7, 8, 9), atol=1e-6)


def test_mirrored_nodes_keep_their_outside(read_file):
    gltf = Gltf()
    normals = np.tile(np.float32([[0, 0, 1]]), (4, 1))
    gltf.node([gltf.primitive(FRONT, NORMAL=normals)], scale=[-1, 1, 1])
    gltf.node([gltf.primitive(FRONT, NORMAL=normals)], scale=[1, 1, -1])
    for part, outside in zip(read_file(gltf.glb()).parts, (1, -1), strict=True):
        a, b, c = part.positions[part.triangles[0]]
        assert np.cross(b - a, c - a)[2] * outside > 0
        assert (part.normals[:, 2] * outside > 0).all()


def test_a_skin_has_its_nodes_pose(read_file):
    """Two joints; the second is moved up by 3 after binding, and the quad's upper corners follow it."""
    gltf = Gltf()
    joints = [gltf.add("nodes", {}), gltf.add("nodes", {"translation": [0, 3, 0]})]
    skin = gltf.accessor(np.tile(np.eye(4, dtype=np.float32).reshape(1, 16), (2, 1)))
    gltf.document["skins"] = [{"joints": joints, "inverseBindMatrices": skin}]
    which = np.zeros((4, 4), np.uint8)
    which[:, 1] = 1
    upper = FRONT[:, 1] > 0
    weights = np.zeros((4, 4), np.float32)
    weights[:, 0], weights[:, 1] = ~upper, upper
    primitive = gltf.primitive(FRONT, JOINTS_0=which, WEIGHTS_0=weights)
    gltf.node([primitive], skin=0, translation=[100, 0, 0])  # a skinned mesh's own node counts for nothing
    gltf.document["scenes"][0]["nodes"] += joints
    expected = FRONT + np.where(upper[:, None], (0, 3, 0), (0, 0, 0))
    np.testing.assert_allclose(read_file(gltf.glb()).parts[0].positions, expected, atol=1e-6)


def test_morph_targets_have_their_default_weights(read_file):
    gltf = Gltf()
    primitive = gltf.primitive(FRONT)
    primitive["targets"] = [{"POSITION": gltf.accessor(np.full((4, 3), k, np.float32))} for k in (1.0, 10.0)]
    gltf.node([primitive])
    gltf.document["meshes"][0]["weights"] = [0.5, 0.0]
    np.testing.assert_allclose(read_file(gltf.glb()).parts[0].positions, FRONT + 0.5)


def test_strips_and_fans(read_file):
    gltf = Gltf()
    zigzag = FRONT[[0, 1, 3, 2]]
    gltf.node(
        [gltf.primitive(zigzag, None, mode=5), gltf.primitive(FRONT, None, mode=6), gltf.primitive(FRONT, mode=1)]
    )
    mesh = read_file(gltf.glb())
    for part in mesh.parts:
        corners = part.positions[part.triangles]
        assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] == 4.0).all()
    assert len(mesh.parts) == 2 and mesh.notes == ("points and lines left out",)


def test_stored_types(read_file):
    """Normalised integers, strides and sparse values."""
    gltf = Gltf()
    bytes_of_colour = np.array([[255, 0, 51, 255], [0, 255, 0, 255], [0, 0, 255, 0], [255, 255, 255, 128]], np.uint8)
    colours = gltf.accessor(bytes_of_colour, normalized=True)
    plain = gltf.primitive(FRONT, COLOR_0=colours)
    interleaved = np.concatenate([FRONT, FRONT * 0 + 9], -1)
    view = gltf.view(interleaved.astype(np.float32).tobytes())
    gltf.document["bufferViews"][view]["byteStride"] = 24
    accessor = {"bufferView": view, "componentType": 5126, "count": 4, "type": "VEC3"}
    strided = {**plain, "attributes": {"POSITION": gltf.add("accessors", accessor)}}
    sparse = {
        "count": 2,
        "indices": {"bufferView": gltf.view(np.array([0, 3], np.uint16).tobytes()), "componentType": 5123},
        "values": {"bufferView": gltf.view(np.float32([[7, 7, 7], [8, 8, 8]]).tobytes())},
    }
    holed = gltf.add("accessors", {**accessor, "sparse": sparse})
    gltf.node([plain, strided, {**plain, "attributes": {"POSITION": holed}}])
    painted, stridden, patched = read_file(gltf.glb()).parts
    np.testing.assert_allclose(painted.colours, bytes_of_colour / 255.0, atol=1e-6)
    np.testing.assert_array_equal(stridden.positions, FRONT)
    np.testing.assert_array_equal(patched.positions[[0, 3]], [[7, 7, 7], [8, 8, 8]])
    np.testing.assert_array_equal(patched.positions[[1, 2]], FRONT[[1, 2]])


def test_materials(read_file):
    gltf = Gltf()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 6, 4), np.uint8)
    pixels[..., 3] = np.where(np.arange(6) < 3, 255, 0)
    texture = gltf.picture(pixels, magFilter=9728, wrapS=33071, wrapT=33648)
    slot = {"index": texture}
    base = {"baseColorTexture": slot, "baseColorFactor": [0.5, 1, 1, 0.25]}
    glow = {"emissiveFactor": [1, 0.5, 0], "emissiveTexture": slot}
    strength = {"KHR_materials_emissive_strength": {"emissiveStrength": 2.0}}
    materials = [
        {"pbrMetallicRoughness": base, "alphaMode": "MASK", "alphaCutoff": 0.3, "doubleSided": True},
        {"pbrMetallicRoughness": base, "alphaMode": "BLEND", **glow, "extensions": strength},
        {"pbrMetallicRoughness": base},
        {"extensions": {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0.1, 0.2, 0.3, 1]}}},
    ]
    uv = QUAD_UV.copy()
    for material in materials:
        gltf.node([gltf.primitive(FRONT, material=gltf.add("materials", material), TEXCOORD_0=uv)])
    mask, blend, opaque, glossy = (part.material for part in read_file(gltf.glb()).parts)
    assert (mask.alpha, mask.cutoff, mask.factor, mask.single_sided) == ("mask", 0.3, (0.5, 1, 1, 0.25), False)
    assert mask.texture.nearest and mask.texture.wrap == ("clamp", "mirror")
    np.testing.assert_array_equal(mask.texture.pixels[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(mask.texture.pixels[:, :3, :3], pixels[:, :3, :3])
    assert blend.alpha == "blend" and blend.emission == (2.0, 1.0, 0.0)
    assert (opaque.texture.pixels[..., 3] == 255).all(), "an opaque material's alpha means something else"
    np.testing.assert_array_equal(opaque.texture.pixels[..., :3], pixels[..., :3])
    assert glossy.factor == (0.1, 0.2, 0.3, 1.0)


def test_texture_transform(read_file):
    """Scaled, then turned counter-clockwise on the picture, whose v points down, then moved."""
    gltf = Gltf()
    texture = gltf.picture(np.zeros((2, 2, 3), np.uint8))
    move = {"offset": [0.25, 0.5], "rotation": np.pi / 2, "scale": [2.0, 3.0], "texCoord": 1}
    slot = {"index": texture, "extensions": {"KHR_texture_transform": move}}
    material = gltf.add("materials", {"pbrMetallicRoughness": {"baseColorTexture": slot}})
    gltf.node([gltf.primitive(FRONT, material=material, TEXCOORD_0=QUAD_UV * 0, TEXCOORD_1=QUAD_UV)])
    u, v = QUAD_UV.T
    expected = np.stack([3 * v + 0.25, -2 * u + 0.5], -1)
    np.testing.assert_allclose(read_file(gltf.glb()).parts[0].uv, expected, atol=1e-6)


def test_wrong_colours_of_exporters(read_file):
    """UniGLTF 1 wrote sRGB factors; FBX2glTF takes selections along as vertex colours."""
    gltf = Gltf()
    gltf.node([gltf.primitive(FRONT, material=gltf.material((232 / 255, 85 / 255, 0)))])
    plain = read_file(gltf.glb()).parts[0].material.factor
    gltf.document["asset"]["generator"] = "UniGLTF-1.27"
    mended = read_file(gltf.glb())
    assert plain[:3] == pytest.approx((232 / 255, 85 / 255, 0))
    assert mended.parts[0].material.factor[:3] == pytest.approx((0.80695, 0.09084, 0), abs=1e-4) and mended.notes
    gltf = Gltf()
    mask = np.repeat(np.float32([[0], [0], [1], [1]]), 3, 1)
    paint = mask * (1, 0.5, 0)
    for material, colours in (((0.8,) * 3, mask), ((0.8,) * 3, paint), ((1, 1, 1), mask)):
        material = gltf.material(material)
        gltf.node([gltf.primitive(FRONT, material=material, COLOR_0=colours.astype(np.float32))])
    mesh = read_file(gltf.glb())
    assert [part.colours is None for part in mesh.parts] == [True, False, False] and len(mesh.notes) == 1


def draco_file(draco):
    gltf = Gltf()
    colours = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
    content = draco.encode(FRONT, QUAD.astype(np.uint32), quantization_bits=14, colors=colours, preserve_order=True)
    ids = {entry["attribute_type"]: entry["unique_id"] for entry in draco.decode(content).attributes}
    primitive = gltf.primitive(FRONT * 0, COLOR_0=gltf.accessor(np.zeros((4, 3), np.uint8), normalized=True))
    attributes = {"POSITION": ids[0], "COLOR_0": ids[2]}
    packed = {"bufferView": gltf.view(content), "attributes": attributes}
    primitive["extensions"] = {"KHR_draco_mesh_compression": packed}
    gltf.node([primitive])
    return gltf, content


def test_draco(read_file):
    draco = pytest.importorskip("DracoPy")
    gltf, content = draco_file(draco)
    part = read_file(gltf.glb()).parts[0]
    np.testing.assert_allclose(part.positions[part.triangles], FRONT[QUAD], atol=2e-4)
    np.testing.assert_allclose(part.colours[:, :3], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], atol=1e-6)
    from im3d_jax.data.meshes.draco import decode, face_count

    assert face_count(content) == 2
    with pytest.raises(MeshError, match="2 compressed triangles; at most 1"):
        decode(content, {}, Limits(triangles=1))
    with pytest.raises(MeshError, match="damaged"):
        decode(content[:-20], {"POSITION": 0}, Limits())
    with pytest.raises(MeshError, match="header"):
        decode(b"DARCO" + content[5:], {}, Limits())
