"""Pictures of meshes with known shapes: colours to a level, sides, cover, holes, glass."""

import dataclasses
import math

import numpy as np
import pytest

from im3d_jax.data.meshes import rig
from im3d_jax.data.meshes.model import Material, Mesh, Part, Texture, to_srgb
from im3d_jax.data.meshes.placing import RADIUS
from im3d_jax.data.meshes.reading import read_mesh
from im3d_jax.data.meshes.renderer import mirrored
from tests.data.meshes.files import CUBE_MTL, CUBE_OBJ, FACTORS, Gltf, cube_glb


SIZE = 64


def light(normal):
    """What reaches a surface, by the formula of Toybox."""
    n = np.asarray(normal, float)
    key, fill = max(0.0, n @ rig.KEY_LIGHT), max(0.0, n @ rig.FILL_LIGHT)
    return rig.AMBIENT + rig.SKY * (0.5 + 0.5 * n[2]) + rig.KEY * key + rig.FILL * fill


def expected(linear, normal):
    return 255.0 * to_srgb(np.array(linear)) * light(normal)


def wall(colour=(1, 1, 1), x=0.0, half=0.5, *, flip=False, opacity=1.0, **material):
    """A square across the first camera's axis, facing it: a part."""
    corners = np.array([[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    material = Material((*colour, opacity), **material)
    return Part(corners, triangles[:, ::-1] if flip else triangles, material, uv=uv)


def draw(renderer, *parts, azimuth=0.0, elevation=0.0, size=SIZE):
    return renderer.render(Mesh(parts), np.array([azimuth]), np.array([elevation]), size)[0]


def test_cube_from_all_sides(renderer, tmp_path):
    """The front (glTF's +z) is in frame 0; counter-clockwise seen from above, its right follows, then its back."""
    (tmp_path / "cube.glb").write_bytes(cube_glb())
    mesh = read_mesh(tmp_path / "cube.glb")
    frames = renderer.render(mesh, rig.orbit_azimuths(4), np.zeros(4), SIZE)
    middle = SIZE // 2
    for frame, name, normal in zip(
        frames, ("front", "right", "back", "left"), ((1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)), strict=True
    ):
        np.testing.assert_allclose(frame[middle, middle, :3], expected(FACTORS[name], normal), atol=1.01)
        assert frame[middle, middle, 3] == 255 and (frame[0] == 0).all()
    for elevation, name, normal in ((80, "top", (0, 0, 1)), (-80, "bottom", (0, 0, -1))):
        frame = renderer.render(mesh, np.zeros(1), np.radians([elevation]), SIZE)[0]
        np.testing.assert_allclose(frame[middle, middle, :3], expected(FACTORS[name], normal), atol=1.01)


def test_up_and_right_are_in_the_picture(renderer):
    """A patch above and to the camera's right of the middle is in the picture's upper right quarter."""
    patch = wall(half=0.1)
    frame = draw(renderer, dataclasses.replace(patch, positions=patch.positions + np.float32([0, 0.3, 0.3])))
    rows, columns = np.nonzero(frame[..., 3])
    assert rows.max() < SIZE // 2 <= columns.min()


def test_obj_cube(renderer, tmp_path):
    (tmp_path / "cube.obj").write_text(CUBE_OBJ)
    (tmp_path / "cube.mtl").write_text(CUBE_MTL)
    frames = renderer.render(read_mesh(tmp_path / "cube.obj"), rig.orbit_azimuths(4), np.zeros(4), SIZE)
    middle = SIZE // 2
    np.testing.assert_allclose(
        frames[0, middle, middle, :3], 255 * np.array([0.8, 0.1, 0.1]) * light((1, 0, 0)), atol=1.01
    )
    np.testing.assert_allclose(
        frames[1, middle, middle, :3], 255 * np.array([0.1, 0.2, 0.9]) * light((0, 1, 0)), atol=1.01
    )


def test_a_draco_cube_is_the_cube(renderer, tmp_path):
    draco = pytest.importorskip("DracoPy")
    gltf = Gltf()
    gltf.cube()
    (tmp_path / "plain.glb").write_bytes(gltf.glb())
    for mesh in gltf.document["meshes"]:
        for primitive in mesh["primitives"]:
            view = gltf.document["accessors"][primitive["attributes"]["POSITION"]]["bufferView"]
            start = gltf.document["bufferViews"][view]["byteOffset"]
            corners = np.frombuffer(gltf.data, np.float32, 12, start).reshape(4, 3)
            triangles = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)
            content = draco.encode(corners, triangles, quantization_bits=16, preserve_order=True)
            packed = {"bufferView": gltf.view(content), "attributes": {"POSITION": 0}}
            primitive["extensions"] = {"KHR_draco_mesh_compression": packed}
    (tmp_path / "draco.glb").write_bytes(gltf.glb())
    angles = np.array([0.3, 2.0]), np.array([0.4, 0.1])
    plain, packed = (renderer.render(read_mesh(tmp_path / f"{name}.glb"), *angles, SIZE) for name in ("plain", "draco"))
    assert np.abs(plain.astype(int) - packed).mean() < 0.05


def test_cover_is_exact_to_a_sixteenth(renderer):
    """A sphere that fills a known part of the picture."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 129), np.linspace(0, np.pi, 65))
    points = RADIUS * np.stack([np.sin(v) * np.cos(u), np.sin(v) * np.sin(u), np.cos(v)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(128), np.arange(64))
    a = (j * 129 + i).reshape(-1)
    triangles = np.concatenate([np.stack([a, a + 129, a + 130], -1), np.stack([a, a + 130, a + 1], -1)])
    ball = Part(points.astype(np.float32), triangles.astype(np.uint32), normals=points.astype(np.float32))
    frame = draw(renderer, ball, elevation=0.3)
    focal = 0.5 * SIZE / math.tan(math.radians(0.5 * rig.FOV_DEG))
    edge = focal * math.tan(math.asin(RADIUS / rig.DISTANCE))
    assert frame[..., 3].sum() / 255 == pytest.approx(math.pi * edge**2, rel=0.005)
    rows, columns = np.nonzero(frame[..., 3] > 127)
    radii = np.hypot(rows + 0.5 - SIZE / 2, columns + 0.5 - SIZE / 2)
    assert edge - 1 < radii.max() < edge + 0.5
    assert len(np.unique(frame[..., 3])) > 8, "edges are antialiased"
    # Straight alpha: an edge has the colour of the surface there, not a darkened one.
    rim = frame[(frame[..., 3] > 0) & (frame[..., 3] < 255)]
    assert rim[:, :3].min() > 0.5 * 204 * rig.AMBIENT


def test_both_sides_are_lit(renderer):
    """Winding and normals that point away change nothing."""
    plain = draw(renderer, wall((0.5, 0.5, 0.5)))
    np.testing.assert_array_equal(draw(renderer, wall((0.5, 0.5, 0.5), flip=True)), plain)
    np.testing.assert_array_equal(draw(renderer, wall((0.5, 0.5, 0.5), flip=True, single_sided=True)), plain)
    away = dataclasses.replace(wall((0.5, 0.5, 0.5)), normals=np.tile(np.float32([[-1, 0, 0]]), (4, 1)))
    np.testing.assert_array_equal(draw(renderer, away), plain)


def test_the_right_side_wins_where_two_coincide(renderer):
    front, back = wall((1, 0, 0), single_sided=True), wall((0, 1, 0), flip=True, single_sided=True)
    for parts in ((front, back), (back, front)):
        seen = draw(renderer, *parts)
        assert (seen[seen[..., 3] == 255][:, 1] == 0).all(), "red from the front"
        behind = draw(renderer, *parts, azimuth=math.pi)
        assert (behind[behind[..., 3] == 255][:, 0] == 0).all(), "green from behind"


def test_texture_colour_and_orientation(renderer):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0], pixels[0, 1] = (200, 10, 10, 255), (10, 200, 10, 255)
    pixels[1, 0], pixels[1, 1] = (10, 10, 200, 255), (200, 200, 10, 255)
    frame = draw(renderer, wall(texture=Texture(pixels, ("clamp", "clamp"), nearest=True)))
    quarter = SIZE // 10
    for (row, column), colour in {(-1, -1): pixels[0, 0], (-1, 1): pixels[0, 1], (1, -1): pixels[1, 0]}.items():
        seen = frame[SIZE // 2 + row * quarter, SIZE // 2 + column * quarter, :3]
        np.testing.assert_allclose(seen, colour[:3] * light((1, 0, 0)), atol=1.5)


def test_colours_multiply_as_linear_light(renderer):
    pixels = np.full((1, 1, 4), 188, np.uint8)
    part = wall((0.5, 1, 1), texture=Texture(pixels))
    part = dataclasses.replace(part, colours=np.tile(np.float32([[1, 0.25, 1, 1]]), (4, 1)))
    half = 0.5029  # 188 in sRGB
    seen = draw(renderer, part)[SIZE // 2, SIZE // 2, :3]
    np.testing.assert_allclose(seen, expected((0.5 * half, 0.25 * half, half), (1, 0, 0)), atol=1.01)


def test_mipmaps_average(renderer):
    """A fine chequerboard seen from afar is one colour: the mean of linear light."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = np.stack([board, board, board, np.full_like(board, 255)], -1)
    frame = draw(renderer, wall(texture=Texture(pixels), half=0.4), size=32)
    inside = frame[14:18, 14:18, :3]
    np.testing.assert_allclose(inside, np.full_like(inside, expected((0.5,) * 3, (1, 0, 0))[0]), atol=6)


def test_mask_cuts_holes(renderer):
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:, 2:, 3] = 0
    texture = Texture(pixels, ("clamp", "clamp"), nearest=True)
    frame = draw(renderer, wall(texture=texture, alpha="mask"))
    assert frame[SIZE // 2, SIZE // 2 - 5, 3] == 255 and frame[SIZE // 2, SIZE // 2 + 5, 3] == 0
    opaque = draw(renderer, wall(texture=texture, alpha="opaque"))
    assert opaque[SIZE // 2, SIZE // 2 + 5, 3] == 255


def test_glass(renderer):
    """Straight alpha of one pane, of two, and of one before a wall; the order of the parts does not matter."""
    near, far = wall((0, 0, 1), 0.3, alpha="blend", opacity=0.5), wall((1, 0, 0), -0.3, alpha="blend", opacity=0.5)
    back = wall((0, 1, 0), -0.5)
    blue, red, green = (255 * np.eye(3)[i] * light((1, 0, 0)) for i in (2, 0, 1))
    pane = draw(renderer, near)[SIZE // 2, SIZE // 2]
    assert pane[3] == 128
    np.testing.assert_allclose(pane[:3], blue, atol=2)
    for parts in ((near, far), (far, near)):
        both = draw(renderer, *parts)[SIZE // 2, SIZE // 2]
        assert both[3] in (191, 192)
        np.testing.assert_allclose(both[:3], (0.5 * blue + 0.25 * red) / 0.75, atol=3)
    before = draw(renderer, near, back)[SIZE // 2, SIZE // 2]
    assert before[3] == 255
    np.testing.assert_allclose(before[:3], 0.5 * blue + 0.5 * green, atol=2)
    # Opaque parts of a blended material hide what is behind them.
    hidden = draw(renderer, wall((0, 0, 1), 0.3, alpha="blend"), far)[SIZE // 2, SIZE // 2]
    np.testing.assert_allclose(hidden, [*blue, 255], atol=1.01)


def test_emission(renderer):
    own = draw(renderer, wall((0, 0, 0), emission=(0.5, 0, 4)))[SIZE // 2, SIZE // 2]
    np.testing.assert_allclose(own, [188, 0, 255, 255], atol=1.01)


def test_mirrored_pictures():
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    doubled, scale = mirrored(Texture(pixels, ("mirror", "repeat")))
    assert doubled.shape == (2, 6, 4) and scale == (0.5, 1.0)
    np.testing.assert_array_equal(doubled[:, 3:], pixels[:, ::-1])


def test_the_same_twice_and_after_others(renderer):
    first = draw(renderer, wall((0.2, 0.4, 0.6)), azimuth=0.4, elevation=0.3)
    draw(renderer, wall((0.9, 0, 0), alpha="blend", opacity=0.3), size=48)
    np.testing.assert_array_equal(draw(renderer, wall((0.2, 0.4, 0.6)), azimuth=0.4, elevation=0.3), first)
