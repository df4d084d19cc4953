"""`load` and `save` over all formats: round trips, frames, refusals, damaged files, other programs."""

import os
import shutil
import stat
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat
from experiments.benchmarks.readers import fuzz
from splat import harmonics
from splat.gaussians import usable
from splat.io import codebooks, frames
from splat.io.files import Rows, unit_quaternions
from splat.math import quaternion_to_rotation
from splat.morton import z_order


KINDS = ["ply", "spz", "splat", "glb"]
# Largest differences of position, log scale and opacity that the format's steps explain.
STEPS = {
    "ply": (0, 0, 0),
    "spz": (2**-13, 1 / 32, 0.5 / 255),
    # 11 bits of a range of 2 and of about 8, and bytes.
    "compressed": (1.1 / 1023, 8 / 1023, 0.5 / 255),
    # 16 bits of ln(1 + x); 150 scales have a codebook of 256 to themselves.
    "sog": (2 * 0.7 / 65535, 1e-6, 0.5 / 255),
    "splat": (0, 1e-6, 0.5 / 255),
    "glb": (0, 1e-6, 1e-6),
}


def scene(n=50, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return splat.Gaussians(
        *(
            jnp.asarray(a, jnp.float32)
            for a in (
                rng.uniform(-1, 1, (n, 3)),
                rng.normal(size=(n, 4)) * 3,
                rng.normal(size=(n, 3)) - 3,
                rng.normal(size=n) * 2,
                rng.uniform(-0.5, 0.5, (n, k, 3)),
            )
        )
    )


def covariances(gaussians):
    rotations = np.asarray(quaternion_to_rotation(gaussians.quats), np.float64)
    scaled = rotations * np.exp(np.asarray(gaussians.log_scales, np.float64))[:, None]
    return scaled @ scaled.transpose(0, 2, 1)


def assert_close(a, b, steps=(1e-6, 1e-6, 1e-6), rotation=1e-6, colors=1e-6):
    """The same gaussians up to the given differences; rotations by the angle's cosine, up to the sign."""
    np.testing.assert_allclose(a.means, b.means, atol=steps[0] + 1e-7, rtol=0)
    np.testing.assert_allclose(a.log_scales, b.log_scales, atol=steps[1] + 1e-6, rtol=0)
    np.testing.assert_allclose(a.opacities, b.opacities, atol=steps[2] + 1e-6, rtol=0)
    dots = (unit_quaternions(np.asarray(a.quats)) * unit_quaternions(np.asarray(b.quats))).sum(axis=1)
    np.testing.assert_allclose(np.abs(dots), 1, atol=rotation)
    np.testing.assert_allclose(a.sh, b.sh, atol=colors, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.filterwarnings("ignore:.splat files hold")
def test_round_trip(tmp_path, kind, k):
    gaussians = scene(k=k)
    splat.save(tmp_path / f"a.{kind}", gaussians)
    back = splat.load(tmp_path / f"a.{kind}")
    colors = {"ply": 0, "glb": 1e-6, "spz": 0.11, "splat": 0.5 / 255 / harmonics.SH_C0}[kind]
    expected = gaussians.replace(sh=gaussians.sh[:, :1]) if kind == "splat" else gaussians
    # Turning mixes the errors of SPZ's coefficients, each up to 1/16.
    # One step of a byte is 0.45 degrees, one of the smallest three 0.08.
    rotation = {"splat": 1e-4, "spz": 3e-6}.get(kind, 1e-6)
    assert_close(back, expected, STEPS[kind], rotation, colors + 1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_round_trip_changes_nothing_more(tmp_path, kind):
    splat.save(tmp_path / f"a.{kind}", scene(k=1), up="y")
    once = splat.load(tmp_path / f"a.{kind}", up="y")
    splat.save(tmp_path / f"b.{kind}", once, up="y")
    # Quaternions are normalised anew, which may move the last bit: a whole step of a .splat file's bytes.
    rotation = 1e-4 if kind == "splat" else 2e-6
    assert_close(splat.load(tmp_path / f"b.{kind}", up="y"), once, (0, 0, 0), rotation, colors=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_gaussians_give_equal_files(tmp_path, kind):
    for name in "ab":
        splat.save(tmp_path / f"{name}.{kind}", scene(k=1))
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_only_active_rows_are_written(tmp_path, kind):
    gaussians = scene(k=1)
    active = np.arange(len(gaussians)) % 3 == 0
    splat.save(tmp_path / f"a.{kind}", gaussians, active)
    np.testing.assert_allclose(splat.load(tmp_path / f"a.{kind}").means, gaussians.means[active], atol=2**-12)


def test_harmonics_are_those_of_the_renderer():
    directions = np.random.default_rng(1).normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = harmonics.sh_basis(jnp.asarray(directions, jnp.float32), 4)
    np.testing.assert_allclose(frames.harmonics(directions, 4), expected, atol=2e-6)


def random_rotation(seed):
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


@pytest.mark.parametrize("rotation", [*(random_rotation(s) for s in range(3)), *map(frames.to_y_up, ("z", "y", "-y"))])
def test_transform_moves_positions_shapes_and_colours_alike(rotation):
    gaussians = Rows(
        *map(
            np.asarray,
            (scene(k=25).means, scene().quats, scene().log_scales, scene().opacity_logits, scene(k=25).sh),
        )
    )
    moved = frames.transform(gaussians, rotation, 2.5, (1, -2, 3))
    np.testing.assert_allclose(moved.means, 2.5 * gaussians.means @ rotation.T + np.array([[1, -2, 3]]), atol=1e-6)
    expected = 6.25 * rotation @ covariances(gaussians) @ rotation.T
    np.testing.assert_allclose(covariances(moved), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    direction = np.array([[0.6, -0.48, 0.64]])
    before = np.einsum("k,nkc->nc", frames.harmonics(direction, 4)[0], gaussians.sh)
    after = np.einsum("k,nkc->nc", frames.harmonics(direction @ rotation.T, 4)[0], moved.sh)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_turns_by_right_angles_are_exact():
    sh = np.random.default_rng(0).normal(size=(9, 9, 3)).astype(np.float32)
    turn = frames.to_y_up("z")
    np.testing.assert_array_equal(frames.rotate_harmonics(frames.rotate_harmonics(sh, turn)[:, :4], turn.T), sh[:, :4])


@pytest.mark.parametrize("kind", ["spz", "glb"])
@pytest.mark.parametrize(("up", "top"), [("z", [0, 0, 1]), ("y", [0, 1, 0]), ("-y", [0, -1, 0])])
def test_what_is_up_in_the_world_is_up_in_the_file(tmp_path, kind, up, top):
    gaussians = scene(n=1, k=1).replace(means=jnp.array([top], jnp.float32))
    path = tmp_path / f"a.{kind}"
    splat.save(path, gaussians, up=up)
    np.testing.assert_allclose(splat.load(path, up="y").means, [[0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(splat.load(path, up=up).means, [top], atol=1e-6)
    np.testing.assert_allclose(splat.load(path, up="z").means, [[0, 0, 1]], atol=1e-6)


def test_content_decides_over_suffix(tmp_path):
    gaussians = scene(k=1)
    for kind in KINDS:
        splat.save(tmp_path / f"a.{kind}", gaussians)
    for kind in ("ply", "spz", "glb"):
        (tmp_path / "b.bin").write_bytes((tmp_path / f"a.{kind}").read_bytes())
        assert len(splat.load(tmp_path / "b.bin")) == len(gaussians)
    (tmp_path / "b.splat").write_bytes((tmp_path / "a.ply").read_bytes())
    np.testing.assert_array_equal(splat.load(tmp_path / "b.splat").means, gaussians.means)
    (tmp_path / "b.bin").write_bytes((tmp_path / "a.splat").read_bytes())
    with pytest.raises(ValueError, match=r"b\.bin: neither"):
        splat.load(tmp_path / "b.bin")


def test_wrong_arguments_name_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match=r"'\.obj' .* expected \.ply, \.spz, \.sog, \.splat, \.glb"):
        splat.save(tmp_path / "a.obj", scene())
    with pytest.raises(ValueError, match="up is 'x'; expected one of 'z', 'y', '-y'"):
        splat.save(tmp_path / "a.ply", scene(), up="x")
    with pytest.raises(TypeError, match="lean"):
        splat.save(tmp_path / "a.glb", scene(), lean=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [splat.save, splat.save_ply])
def test_nothing_takes_the_place_of_a_device(tmp_path, save):
    os.mkfifo(tmp_path / "fifo.ply")
    # Behind a link, so that nothing harms the real one.
    (tmp_path / "device.ply").symlink_to(os.devnull)
    for name, is_kind in (("fifo.ply", stat.S_ISFIFO), ("device.ply", stat.S_ISCHR)):
        with pytest.raises(FileExistsError, match="it is no regular file"):
            save(tmp_path / name, scene(3, 1))
        assert is_kind(os.stat(tmp_path / name).st_mode)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["spz", "splat", "glb"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_a_format_cannot_hold_is_refused_before_writing(tmp_path, kind):
    gaussians = scene(n=4, k=1)
    path = tmp_path / f"a.{kind}"
    for broken in (
        gaussians.replace(means=gaussians.means.at[1, 2].set(jnp.nan)),
        gaussians.replace(opacity_logits=gaussians.opacity_logits.at[1].set(jnp.inf)),
        gaussians.replace(quats=gaussians.quats.at[1].set(0)),
    ):
        with pytest.raises(ValueError, match="1 of 4 gaussians.*active=") as error:
            splat.save(path, broken)
        assert "\n" not in str(error.value)
        splat.save(path, broken, usable(broken))
        assert len(splat.load(path)) == 3
        path.unlink()
    with pytest.raises(ValueError, match="no gaussians to write"):
        splat.save(path, gaussians, np.zeros(4, bool))
    assert not path.exists()


@pytest.mark.parametrize(("kind", "degree"), [("spz", 3), ("glb", 3), ("splat", 0)])
def test_coefficients_that_do_not_fit_are_left_out_with_a_warning(tmp_path, kind, degree):
    gaussians = scene(k=25)
    with pytest.warns(UserWarning, match=f"hold SH degree {degree}"):
        splat.save(tmp_path / f"a.{kind}", gaussians)
    assert splat.load(tmp_path / f"a.{kind}").sh_degree == degree


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_extreme_numbers_stay_finite(tmp_path, kind):
    big = jnp.float32(1e30)
    gaussians = splat.Gaussians(
        means=jnp.array([[0, 0, 0], [1, 2, 3]], jnp.float32),
        quats=jnp.array([[1e30, 1e30, 0, 0], [1e-30, 0, 0, 1e-30]], jnp.float32),
        log_scales=jnp.array([[-200, 200, 0], [-big, big, 1]], jnp.float32),
        opacity_logits=jnp.array([-big, big], jnp.float32),
        sh=jnp.array([[[-big, big, 0]], [[1, 2, 3]]], jnp.float32),
    )
    splat.save(tmp_path / f"a.{kind}", gaussians)
    back = splat.load(tmp_path / f"a.{kind}")
    assert bool(usable(back).all())
    np.testing.assert_allclose(back.opacities, [0, 1], atol=0.002)


@pytest.mark.parametrize("k", [1, 4, 9, 16])
def test_spz_version_4_holds_what_version_3_holds(tmp_path, k):
    for version in (3, 4):
        splat.save(tmp_path / f"{version}.spz", scene(k=k), version=version)
    third, fourth = (splat.load(tmp_path / f"{version}.spz") for version in (3, 4))
    for one, other in zip(jax.tree.leaves(third), jax.tree.leaves(fourth), strict=True):
        np.testing.assert_array_equal(one, other)
    data = (tmp_path / "4.spz").read_bytes()
    assert data[:8] == b"NGSP\4\0\0\0" and data[15] == (6 if k > 1 else 5)
    with pytest.raises(ValueError, match="version is 5; expected 3"):
        splat.save(tmp_path / "5.spz", scene(k=k), version=5)


@pytest.mark.parametrize(
    "name, k", [("a.sog", 1), ("a.sog", 4), ("a.sog", 16), ("a.ply", 1), ("a.ply", 9), ("a.ply", 16)]
)
def test_packed_formats_keep_gaussians_along_a_curve(tmp_path, name, k):
    gaussians = scene(n=600, k=k)
    options = {"compressed": True} if name == "a.ply" else {}
    splat.save(tmp_path / name, gaussians, **options)
    back = splat.load(tmp_path / name)
    order = z_order(np.asarray(gaussians.means))
    expected = jax.tree.map(lambda leaf: leaf[order], gaussians)
    kind, rotation = ("compressed", 4e-6) if options else ("sog", 5e-5)
    # Codebooks of 256 numbers for 1,800; coefficients in bytes of [-4, 4).
    steps = STEPS[kind] if options else (STEPS[kind][0], 0.06, STEPS[kind][2])
    assert_close(back, expected, steps, rotation, colors=8 / 512 + 1e-6 if options else 0.02)
    for path in (tmp_path / "b", tmp_path / "c"):
        splat.save(path.with_suffix(name[1:]), gaussians, **options)
    assert (tmp_path / f"b{name[1:]}").read_bytes() == (tmp_path / f"c{name[1:]}").read_bytes()


def test_neighbours_on_the_curve_are_neighbours_in_space():
    means = np.random.default_rng(0).uniform(-1, 1, (4096, 3)).astype(np.float32)
    order = z_order(means)
    assert sorted(order) == list(range(4096))
    step = np.linalg.norm(np.diff(means[order], axis=0), axis=1).mean()
    assert step < 0.2 < np.linalg.norm(np.diff(means, axis=0), axis=1).mean()
    # Corners of a cube: x is the lowest of each three bits.
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
    assert list(z_order(corners[::-1].copy())) == list(range(7, -1, -1))


def test_palettes_are_near_every_row():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 9)).astype(np.float32)
    rows = centres[rng.integers(40, size=4000)] + rng.normal(scale=0.01, size=(4000, 9)).astype(np.float32)
    vectors, labels = codebooks.palette(rows, 256)
    assert len(vectors) <= 256 and np.abs(vectors[labels] - rows).max() < 0.1
    # A few rows lie far from all others, so that most groups have one row or two.
    heavy = rng.pareto(0.8, (4000, 24)).astype(np.float32)
    vectors, labels = codebooks.palette(heavy, 1024)
    assert 256 < len(vectors) <= 1024 and labels.max() == len(vectors) - 1
    few, labels = codebooks.palette(rows[:100], 256)
    np.testing.assert_array_equal(few[labels], rows[:100])
    book = codebooks.number_codebook(rows)
    errors = book[codebooks.nearest(rows, book)] - rows
    # 256 even steps over the range have a larger error.
    assert errors.std() < 0.8 * np.ptp(rows) / 256 / np.sqrt(12)


@pytest.mark.parametrize("kind", [*KINDS, "sog"])
def test_five_hundred_damaged_files(kind):
    report = fuzz(kind, 500, seed=7)
    assert report.read + report.refused == 500 and report.read > 20 and report.refused > 20
    assert report.rss_growth_mib < 200


def assert_shapes(a, b, error):
    """Covariances alike: the norm of each difference at most `error` of the covariance's own."""
    differences = np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(b, axis=(1, 2))
    assert differences.max() < error, differences.max()


FORMATS = {"spz": ("a.spz", {}), "spz4": ("a.spz", {"version": 4}), "sog": ("a.sog", {}), "splat": ("a.splat", {}),
           "compressed": ("a.ply", {"compressed": True})}  # fmt: skip


def splat_transform(*arguments):
    program = shutil.which("splat-transform")
    if program is None:
        pytest.skip("splat-transform (npm @playcanvas/splat-transform) is not on the path")
    subprocess.run([program, "-q", "-w", *map(str, arguments)], check=True, capture_output=True, timeout=120)


@pytest.mark.parity
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore:.splat files hold")
def test_splat_transform_reads_our_files(tmp_path, kind):
    name, options = FORMATS[kind]
    splat.save(tmp_path / name, scene(k=16), up="-y", **options)  # it takes PLY files for y-down
    splat_transform(tmp_path / name, tmp_path / "b.ply")
    theirs = splat.load(tmp_path / "b.ply")
    ours = splat.load(tmp_path / name, up="-y")
    np.testing.assert_allclose(theirs.means, ours.means, atol=1e-6)
    # Its .splat reader takes bytes as 2 b / 255 - 1, half a step off (b - 128) / 128.
    assert_shapes(covariances(theirs), covariances(ours), 0.05 if kind == "splat" else 1e-4)
    np.testing.assert_allclose(theirs.sh, ours.sh, atol=1e-5)
    np.testing.assert_allclose(theirs.opacities, ours.opacities, atol=0.002)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["b.spz", "b.sog", "b.compressed.ply"])
@pytest.mark.parametrize("k", [1, 16])
def test_we_read_packed_files_of_splat_transform(tmp_path, name, k):
    gaussians = scene(n=300, k=k)
    splat.save(tmp_path / "a.ply", gaussians, lean=True)
    splat_transform("--spz-version", "4", "-g", "cpu", tmp_path / "a.ply", tmp_path / name)
    back = splat.load(tmp_path / name, up="-y")
    # Both back through its own reader, which keeps the order of the file.
    splat_transform(tmp_path / name, tmp_path / "c.ply")
    theirs = splat.load(tmp_path / "c.ply")
    np.testing.assert_allclose(back.means, theirs.means, atol=1e-6)
    assert_shapes(covariances(back), covariances(theirs), 1e-4)
    np.testing.assert_allclose(back.sh, theirs.sh, atol=1e-5)
    np.testing.assert_allclose(back.opacities, theirs.opacities, atol=0.002)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["spz", "glb"])
def test_we_read_files_of_splat_transform(tmp_path, kind):
    gaussians = scene(k=16)
    splat.save(tmp_path / "a.ply", gaussians)
    splat_transform("--spz-version", "3", tmp_path / "a.ply", tmp_path / f"b.{kind}")
    back = splat.load(tmp_path / f"b.{kind}", up="-y" if kind == "spz" else "y")
    # Into glTF it turns a y-down scene about z, into SPZ about x; quaternions differ by signs of axes.
    turn = np.diag([-1.0, -1.0, 1.0]) if kind == "glb" else np.eye(3)
    np.testing.assert_allclose(back.means, gaussians.means @ turn.T, atol=2**-12)
    assert_shapes(covariances(back), turn @ covariances(gaussians) @ turn.T, 0.1 if kind == "spz" else 1e-4)
    turned = frames.rotate_harmonics(np.asarray(gaussians.sh), turn)
    np.testing.assert_allclose(back.sh, turned, atol=0.07 if kind == "spz" else 1e-5)


def assert_gsply_close(theirs, ours):
    """Gaussians of gsply are ours."""
    np.testing.assert_allclose(theirs.means, ours.means, atol=1e-6)
    np.testing.assert_allclose(theirs.scales, ours.log_scales, atol=1e-6)
    np.testing.assert_allclose(theirs.sh0, ours.sh[:, 0], atol=1e-5)
    np.testing.assert_allclose(theirs.shN, ours.sh[:, 1:], atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-theirs.opacities)), ours.opacities, atol=0.002)
    dots = (unit_quaternions(theirs.quats) * unit_quaternions(np.asarray(ours.quats))).sum(axis=1)
    np.testing.assert_allclose(np.abs(dots), 1, atol=1e-6)


@pytest.mark.parity
def test_gsply_reads_and_writes_the_same_files(tmp_path):
    gsply = pytest.importorskip("gsply")
    gaussians = scene(k=16)
    splat.save(tmp_path / "a.ply", gaussians)
    splat.save(tmp_path / "a.spz", gaussians, up="y")
    ours = splat.load(tmp_path / "a.spz", up="y")
    for theirs in (gsply.plyread(tmp_path / "a.ply"), gsply.read_spz(tmp_path / "a.spz")):
        reference = gaussians if theirs.means[0, 0] == gaussians.means[0, 0] else ours
        assert_gsply_close(theirs, reference)
    gsply.write_spz(tmp_path / "b.spz", gsply.plyread(tmp_path / "a.ply"))
    assert_close(splat.load(tmp_path / "b.spz", up="y"), ours, (2e-4, 1e-6, 1e-6), 3e-6, 0.07)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["spz4", "sog", "compressed"])
def test_gsply_reads_our_packed_files(tmp_path, kind):
    gsply = pytest.importorskip("gsply")
    if kind == "sog":
        pytest.importorskip("imagecodecs")  # gsply's decoder of WebP
    name, options = FORMATS[kind]
    splat.save(tmp_path / name, scene(n=300, k=16), up="y", **options)
    reader = {"spz4": gsply.read_spz, "sog": gsply.sogread, "compressed": gsply.plyread}[kind]
    theirs, ours = reader(tmp_path / name), splat.load(tmp_path / name, up="y")
    assert_gsply_close(theirs, ours)
