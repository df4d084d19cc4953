"""PLY files: round trips, the fixed layout, variants of other writers, and malformed input."""

import pathlib
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

import splat
from splat.gaussians import usable


# Files here have properties of other programs; tests/splat/test_file_meaning.py looks at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:properties that are not read")


def random_gaussians(n=7, k=1, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(n, 3), (n, 4), (n, 3), (n,), (n, k, 3)]
    return splat.Gaussians(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes))


def assert_same(a, b):
    for name in ("means", "quats", "log_scales", "opacity_logits", "sh"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("k", [1, 4, 9, 16, 25])
@pytest.mark.parametrize("lean", [False, True])
def test_round_trip(tmp_path, k, lean):
    gaussians = random_gaussians(k=k)
    splat.save_ply(tmp_path / "a.ply", gaussians, lean=lean)
    assert_same(splat.load_ply(tmp_path / "a.ply"), gaussians)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_default_layout_is_62_floats_with_channel_major_rest(tmp_path):
    gaussians = random_gaussians(n=3, k=4)
    splat.save_ply(tmp_path / "a.ply", gaussians)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
    assert len(names) == 62 and names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[54:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    table = np.frombuffer(body, "<f4").reshape(3, 62)
    np.testing.assert_array_equal(table[:, 9:12], gaussians.sh[:, 1:, 0])  # red of degree 1
    np.testing.assert_array_equal(table[:, 24:27], gaussians.sh[:, 1:, 1])  # green
    assert not table[:, 12:24].any()
    np.testing.assert_array_equal(table[:, 58:], gaussians.quats)


def test_only_active_rows_are_written(tmp_path):
    gaussians = random_gaussians(n=5)
    splat.save_ply(tmp_path / "a.ply", gaussians, active=np.array([1, 0, 1, 0, 0], bool))
    np.testing.assert_array_equal(splat.load_ply(tmp_path / "a.ply").means, gaussians.means[::2][:2])


def test_no_gaussians(tmp_path):
    splat.save_ply(tmp_path / "a.ply", random_gaussians(n=0))
    assert len(splat.load_ply(tmp_path / "a.ply")) == 0


NAMES = [
    "opacity",
    "x",
    "y",
    "z",
    "extra",
    "rot_0",
    "rot_1",
    "rot_2",
    "rot_3",
    "scale_0",
    "scale_1",
    "scale_2",
    "f_dc_0",
    "f_dc_1",
    "f_dc_2",
]


def foreign(encoding, first=b""):
    """Two rows 0..14 and 100..114 in another order of properties, with doubles and a stray property."""
    rows = np.arange(15)[None] + np.array([[0.0], [100.0]])
    header = f"ply\r\nformat {encoding} 1.0\ncomment by someone\n".encode() + first + b"element vertex 2\n"
    header += b"".join(f"property double {n}\n".encode() for n in NAMES) + b"end_header\n"
    if encoding == "ascii":
        return header + "\n".join(" ".join(map(str, r)) for r in rows).encode() + b"\n"
    return header + rows.astype("<f8" if "little" in encoding else ">f8").tobytes()


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_other_writers(tmp_path, encoding):
    (tmp_path / "a.ply").write_bytes(foreign(encoding))
    read = splat.load_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(read.means, [[1, 2, 3], [101, 102, 103]])
    np.testing.assert_array_equal(read.quats[1], [105, 106, 107, 108])
    np.testing.assert_array_equal(read.sh[0, 0], [12, 13, 14])
    np.testing.assert_array_equal(read.opacity_logits, [0, 100])


good = foreign("binary_little_endian")
MALFORMED = {
    "empty": (b"", "does not start"),
    "other file": (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "does not start"),
    "no end": (good[:60], "end_header"),
    "truncated": (good[:-1], "truncated"),
    "truncated ascii": (foreign("ascii")[:-40], "does not hold"),
    "letters": (foreign("ascii").replace(b"102.0", b"a"), "not a number"),
    "format": (good.replace(b"binary_little_endian", b"zip"), "format"),
    "huge count": (good.replace(b"vertex 2", b"vertex 99999999999"), "truncated"),
    "absurd count": (good.replace(b"vertex 2", b"vertex " + b"9" * 40), "claims"),
    "negative count": (good.replace(b"vertex 2", b"vertex -2"), "not understood"),
    "type": (good.replace(b"double x", b"quad x"), "not understood"),
    "missing property": (good.replace(b"double rot_2", b"double rod_2"), "rot_2"),
    "twice": (good.replace(b"double extra", b"double x"), "twice"),
    "mesh": (good.replace(b"element vertex", b"element face"), "vertex"),
    "list": (good.replace(b"property double extra", b"property list uchar int extra"), "list"),
    "compressed": (good.replace(b"double extra", b"double packed_position"), "compressed PLY without min_x"),
    "empty lines": (
        good.replace(b"binary_little_endian", b"ascii").replace(b"vertex 2", b"vertex 99999999"),
        "truncated",
    ),
    "rest": (good.replace(b"double extra", b"double f_rest_0"), "f_rest"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_rejected_with_one_line(tmp_path, name):
    content, message = MALFORMED[name]
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        splat.load_ply(path)
    assert "\n" not in str(error.value) and "bad.ply" in str(error.value)


def test_random_damage_never_escapes_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.ply"
    for content in (good, foreign("ascii")):
        for _ in range(150):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
            try:
                splat.load_ply(path)
            except ValueError as error:
                assert "\n" not in str(error)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.ply"
    splat.save_ply(path, random_gaussians(n=2))
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        splat.save_ply(path, random_gaussians(n=5))
    assert path.read_bytes() == before and list(pathlib.Path(tmp_path).iterdir()) == [path]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "opacity_logits", "sh"])
def test_numbers_that_are_not_finite_are_refused_before_writing(tmp_path, field, number):
    gaussians = random_gaussians(n=4)
    broken = gaussians.replace(**{field: getattr(gaussians, field).at[1].set(number)})
    for save in (splat.save_ply, splat.save):
        with pytest.raises(ValueError, match="1 of 4 gaussians hold a NaN or an infinity.*active=") as caught:
            save(tmp_path / "a.ply", broken)
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    splat.save_ply(tmp_path / "a.ply", broken, usable(broken))
    assert len(splat.load_ply(tmp_path / "a.ply")) == 3


@pytest.mark.parametrize("rows", [400_000, 27_000])
def test_a_file_of_separators_takes_no_memory_beyond_its_size(tmp_path, rows):
    header = f"ply\nformat ascii 1.0\nelement vertex {rows}\n".encode()
    header += b"".join(f"property double {n}\n".encode() for n in NAMES) + b"end_header\n"
    content = header + b"\n" * 1_000_000
    (tmp_path / "a.ply").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not fit|does not hold"):
        splat.load_ply(tmp_path / "a.ply")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(content)


def table(rows, kind="float", encoding="binary_little_endian", colours=()):
    """A file with columns as `NAMES` has them; with `colours` (type, three numbers) in place of coefficients."""
    names = NAMES[:-3] if colours else NAMES
    types = {name: kind for name in names}
    header = f"ply\nformat {encoding} 1.0\nelement vertex {len(rows)}\n"
    header += "".join(f"property {types[name]} {name}\n" for name in names)
    fields = [(name, "<f8" if kind == "double" else "<f4") for name in names]
    if colours:
        header += "".join(f"property {colours[0]} {name}\n" for name in ("red", "green", "blue"))
        numpys = {"uchar": "u1", "ushort": "<u2", "float": "<f4", "double": "<f8", "int": "<i4"}
        fields += [(name, numpys[colours[0]]) for name in ("red", "green", "blue")]
    found = np.array([(*row, *colours[1:]) for row in rows], fields)
    content = found.tobytes() if encoding != "ascii" else "\n".join(" ".join(map(str, row)) for row in found).encode()
    return (header + "end_header\n").encode() + content


#      opacity, x, y, z, extra, rotation, scales, coefficients
ROW = [0.5, 1.0, 2.0, 3.0, 0.0, 1.0, 0.0, 0.0, 0.0, -2.0, -3.0, -4.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("encoding", ["binary_little_endian", "ascii"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_opaque_and_flat_gaussians_are_drawn(kind, encoding, tmp_path):
    """Limits of the logit and of the logarithm, which other writers leave in their files."""
    rows = np.tile(ROW, (4, 1))
    rows[:, 0] = np.inf, -np.inf, 0.5, np.nan
    rows[2, 9] = -np.inf
    (tmp_path / "a.ply").write_bytes(table(rows.tolist(), kind, encoding))
    read = splat.load_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(np.asarray(usable(read)), [True, True, True, False])
    np.testing.assert_allclose(read.opacities[:2], [1.0, 0.0], atol=1e-40, rtol=0)
    assert float(read.scales[2, 0]) <= np.finfo(np.float32).tiny * 1.01
    np.testing.assert_allclose(read.log_scales[2, 1:], [-3, -4])
    splat.save_ply(tmp_path / "b.ply", read, usable(read))
    assert_same(splat.load_ply(tmp_path / "b.ply"), splat.load(tmp_path / "b.ply"))


@pytest.mark.parametrize(
    "kind, stored, colour",
    [
        ("uchar", (255, 51, 0), (1.0, 0.2, 0.0)),
        ("ushort", (65535, 13107, 0), (1.0, 0.2, 0.0)),
        ("ushort", (200, 100, 0), (200 / 65535, 100 / 65535, 0.0)),
        ("float", (1.0, 0.2, 0.0), (1.0, 0.2, 0.0)),
        ("double", (0.5, 0.25, 0.0), (0.5, 0.25, 0.0)),
        ("float", (255.0, 51.0, 0.0), (1.0, 0.2, 0.0)),
        ("int", (255, 51, 0), (1.0, 0.2, 0.0)),
    ],
)
@pytest.mark.parametrize("encoding", ["binary_little_endian", "ascii"])
def test_colours_of_point_clouds_count_by_their_type(kind, stored, colour, encoding, tmp_path):
    (tmp_path / "a.ply").write_bytes(table([ROW[:-3]], encoding=encoding, colours=(kind, *stored)))
    read = splat.load_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(0.5 + 0.28209479 * np.asarray(read.sh[0, 0]), colour, atol=1e-6)


def far_away(kind, size=-4.0, centre=(4_500_000.25, 500_000.5, 120.125)):
    """20 gaussians within a metre about a point in UTM coordinates, e to the power of `size` metres large."""
    offsets = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    rows = np.tile(ROW, (20, 1))
    rows[:, 1:4], rows[:, 9:12] = np.array(centre) + offsets, size
    return table(rows.tolist(), kind), offsets


def test_double_coordinates_far_from_the_origin_keep_their_digits(tmp_path):
    content, offsets = far_away("double")
    (tmp_path / "a.ply").write_bytes(content)
    for read in (splat.load_ply, splat.load):
        with pytest.raises(
            ValueError, match=r"positions about \(4500000, 50000[01], 120\).* 20 of 20 .*origin=\(4500000"
        ):
            read(tmp_path / "a.ply")
        moved = read(tmp_path / "a.ply", origin=(4_500_000.25, 500_000.5, 120.125))
        np.testing.assert_allclose(moved.means, offsets, atol=1e-7)
    with pytest.raises(ValueError, match="origin is"):
        splat.load(tmp_path / "a.ply", origin=(1.0, float("nan"), 0.0))


def test_positions_that_float32_holds_are_read_as_before(tmp_path):
    for content in (far_away("float")[0], far_away("double", size=4.0)[0], far_away("double", centre=(3, -40, 9))[0]):
        (tmp_path / "a.ply").write_bytes(content)
        assert len(splat.load_ply(tmp_path / "a.ply")) == 20
