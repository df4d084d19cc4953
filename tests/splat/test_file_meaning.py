"""Fields of splat files that change the meaning: they are applied, or refused, and what is skipped is named."""

import gzip
import inspect
import warnings

import numpy as np
import pytest

import splat
from tests.splat.test_gltf import NAME, SETTINGS, foreign, pack
from tests.splat.test_spz import POSITION, REST, header, one_gaussian, smallest_three


BASE = ("x", "y", "z", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
COLOURS = ("f_dc_0", "f_dc_1", "f_dc_2")


def ply(rows, *more):
    names = (*BASE, *COLOURS, *more)
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    lines += [f"property float {name}" for name in names] + ["end_header", ""]
    return "\n".join(lines).encode() + np.asarray(rows, "<f4").tobytes()


def load(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    return splat.load(path, up="y")


def test_mip_splattings_filter_is_fused(tmp_path):
    """s' = sqrt(s^2 + f^2) and o' = o sqrt(prod s^2 / prod s'^2), by float64 numbers of our own."""
    scales, opacity = np.array([[0.1, 0.2, 0.05], [0.1, 0.2, 0.05], [1e-8, 1.0, 1.0]]), np.array([0.8, 0.8, 0.999])
    filters = np.array([0.07, 0.0, 0.3])
    rows = np.zeros((3, 15))
    rows[:, 3], rows[:, 4:7], rows[:, 7], rows[:, 14] = np.log(opacity / (1 - opacity)), np.log(scales), 1.0, filters
    found = load(tmp_path, ply(rows, "filter_3D"), ".ply")
    wide = np.sqrt(scales**2 + filters[:, None] ** 2)
    np.testing.assert_allclose(found.scales, wide, rtol=1e-5)
    np.testing.assert_allclose(found.opacities, opacity * np.sqrt(np.prod(scales**2 / wide**2, axis=1)), rtol=1e-5)
    plain = load(tmp_path, ply(rows[:, :14]), ".ply")
    np.testing.assert_array_equal(found.log_scales[1], plain.log_scales[1])
    np.testing.assert_array_equal(found.opacity_logits[1], plain.opacity_logits[1])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("trbf_center",), "move"),
        (("motion_0",), "move"),
        (("t",), "move"),
        (("rot_r_0",), "move"),
        (("scale_3",), "more than three scales"),
        (("f_offset_0",), "Scaffold-GS"),
        (("beta",), "another kernel"),
    ],
)
def test_ply_properties_that_change_the_picture_are_refused(tmp_path, more, words):
    with pytest.raises(ValueError, match=words) as caught:
        load(tmp_path, ply(np.ones((2, 14 + len(more))), *more), ".ply")
    assert "\n" not in str(caught.value)


def test_other_ply_properties_are_named_once(tmp_path):
    with pytest.warns(UserWarning, match="not read: label, object_id$") as caught:
        load(tmp_path, ply(np.ones((2, 16)), "label", "object_id"), ".ply")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, ply(np.ones((2, 17)), "nx", "ny", "nz"), ".ply")


def spz(flags):
    return gzip.compress(header(flags=flags) + POSITION + REST + smallest_three(*one_gaussian()))


@pytest.mark.parametrize(
    ("read", "name", "content"),
    [
        (splat.load, "a.ply", ply(np.ones((2, 15)), "label")),
        (splat.load_ply, "a.ply", ply(np.ones((2, 15)), "label")),
        (splat.load, "a.spz", spz(1)),
    ],
    ids=["load-ply", "load_ply", "load-spz"],
)
def test_warnings_point_at_the_caller(tmp_path, read, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.warns(UserWarning) as caught:
        made = inspect.unwrap(read)(tmp_path / name)  # without the frame of the tests' type checker
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(UserWarning, match="hold SH degree 0") as caught:
        inspect.unwrap(splat.save)(tmp_path / "b.splat", made.replace(sh=np.zeros((len(made), 4, 3), np.float32)))
    assert [each.filename for each in caught] == [__file__]


def test_the_antialiased_bit_of_spz_is_told(tmp_path):
    with pytest.warns(UserWarning, match="antialiased=True"):
        marked = load(tmp_path, spz(1), ".spz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = load(tmp_path, spz(0), ".spz")
    np.testing.assert_array_equal(marked.means, plain.means)
    with pytest.raises(ValueError, match="flags 0x80"):
        load(tmp_path, spz(0x80), ".spz")


@pytest.mark.parametrize("names", [["KHR_texture_transform"], [NAME, "EXT_meshopt_compression"]])
def test_a_required_extension_that_is_not_known_is_refused(tmp_path, names):
    with pytest.raises(ValueError, match=f"requires the glTF extension '{names[-1]}'"):
        load(tmp_path, pack(*foreign(extensionsRequired=names)), ".glb")
    assert len(load(tmp_path, pack(*foreign(extensionsRequired=[NAME], extensionsUsed=names)), ".glb")) == 2


@pytest.mark.parametrize(
    ("asset", "words"),
    [
        ({"version": "2.1", "minVersion": "2.1"}, "minVersion 2.1"),
        ({"version": "2.0", "minVersion": "2.10"}, "minVersion 2.10"),
        ({"version": "3.0"}, "version 3.0"),
        ({"version": "1.0"}, "version 1.0"),
        ({"version": 2.0}, "expected text"),
        ({"version": "2.0", "minVersion": "x"}, "expected text"),
    ],
)
def test_a_later_version_of_gltf_is_refused(tmp_path, asset, words):
    with pytest.raises(ValueError, match=words):
        load(tmp_path, pack(*foreign(asset=asset)), ".glb")


@pytest.mark.parametrize("asset", [{"version": "2.0", "minVersion": "2.0"}, {"version": "2.1"}, {}])
def test_versions_that_readers_of_2_0_may_read(tmp_path, asset):
    assert len(load(tmp_path, pack(*foreign(asset=asset)), ".glb")) == 2


def test_other_projections_of_gltf_are_refused(tmp_path):
    document, binary = foreign()
    settings = SETTINGS | {"projection": "fisheye"}
    document["meshes"][0]["primitives"][1]["extensions"][NAME] = settings
    with pytest.raises(ValueError, match="projection 'fisheye'"):
        load(tmp_path, pack(document, binary), ".glb")


def test_extras_that_are_no_list_are_refused(tmp_path):
    for value in ("KHR_x", [1], {"a": 1}):
        with pytest.raises(ValueError, match="no list of names"):
            load(tmp_path, pack(*foreign(extensionsRequired=value)), ".glb")
