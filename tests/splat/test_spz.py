"""SPZ files against an encoder written number by number, old versions, and malformed files."""

import gzip
import math
import struct
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import zstandard

import splat


def header(version=3, count=1, degree=0, fractional_bits=12, flags=0, magic=b"NGSP"):
    return struct.pack("<4sIIBBBB", magic, version, count, degree, fractional_bits, flags, 0)


# One gaussian: position (1.5, -2, 0.25) in 1/4096, opacity 128/255, colours, log scales.
POSITION = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (1.5, -2.0, 0.25))
REST = bytes([128]) + bytes([0, 128, 255]) + bytes([0, 128, 255])


def smallest_three(w, x, y, z):
    """The four bytes of a unit quaternion, as the format's description says."""
    values = [x, y, z, w]
    largest = max(range(4), key=lambda i: abs(values[i]))
    if values[largest] < 0:
        values = [-v for v in values]
    word = largest
    for i in range(4):
        if i != largest:
            word = word << 10 | (values[i] < 0) << 9 | round(abs(values[i]) / math.sqrt(0.5) * 511)
    return struct.pack("<I", word)


def read(tmp_path, content, **options):
    path = tmp_path / "a.spz"
    path.write_bytes(content)
    return splat.load(path, up="y", **options)


def one_gaussian(quat=(0.5, -0.1, 0.7, -0.5)):
    length = math.sqrt(sum(v * v for v in quat))
    return tuple(v / length for v in quat)


def test_written_bytes_are_those_of_the_description(tmp_path):
    quat = one_gaussian()
    gaussians = splat.Gaussians(
        means=jnp.array([[1.5, -2.0, 0.25]], jnp.float32),
        quats=jnp.array([quat], jnp.float32) * 4,
        log_scales=jnp.array([[-10, -2, 5.9375]], jnp.float32),
        opacity_logits=jnp.array([math.log(128 / 127)], jnp.float32),
        sh=(jnp.array([[[0, 128, 255]]], jnp.float32) / 255 - 0.5) / 0.15,
    )
    splat.save(tmp_path / "a.spz", gaussians, up="y")
    expected = header() + POSITION + REST + smallest_three(*quat)
    assert gzip.decompress((tmp_path / "a.spz").read_bytes()) == expected


@pytest.mark.parametrize("quat", [(1, 0, 0, 0), (0, 1, 0, 0), (0.1, 0.2, -0.9, 0.3), (-0.2, 0.5, 0.1, -0.8)])
def test_version_3_is_read_as_described(tmp_path, quat):
    quat = one_gaussian(quat)
    rest = bytes([0, 128, 255] + [64] * 6)
    content = header(degree=1) + POSITION + REST + smallest_three(*quat) + rest
    gaussians = read(tmp_path, gzip.compress(content))
    np.testing.assert_array_equal(gaussians.means, [[1.5, -2, 0.25]])
    np.testing.assert_array_equal(gaussians.log_scales, [[-10, -2, 5.9375]])
    np.testing.assert_allclose(gaussians.opacities, [128 / 255], atol=1e-6)
    np.testing.assert_allclose(gaussians.sh[0, 0], (np.array([0, 128, 255]) / 255 - 0.5) / 0.15, atol=1e-5)
    np.testing.assert_array_equal(gaussians.sh[0, 1], [-1, 0, 127 / 128])
    np.testing.assert_array_equal(gaussians.sh[0, 2:], -0.5)
    assert abs(float(np.asarray(gaussians.quats)[0] @ np.array(quat))) > 1 - 2e-6


def test_versions_1_and_2(tmp_path):
    rotation = bytes([255, 128, 128])  # x = 1: half a turn about x
    halves = np.array([1.5, -2.0, 0.25], "<f2").tobytes()
    for version, position in ((1, halves), (2, POSITION)):
        gaussians = read(tmp_path, gzip.compress(header(version) + position + REST + rotation))
        np.testing.assert_array_equal(gaussians.means, [[1.5, -2, 0.25]])
        np.testing.assert_allclose(gaussians.quats, [[0, 1, 0, 0]], atol=0.005)
        np.testing.assert_allclose(np.linalg.norm(gaussians.quats, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("extent", [1e-3, 0.3, 2.0, 2047.0, 2100.0, 5e5, 8e6])
def test_positions_of_any_extent(tmp_path, extent):
    rng = np.random.default_rng(0)
    means = rng.uniform(-extent, extent, (50, 3)).astype(np.float32)
    means[0, 0] = -extent
    zeros = np.zeros((50, 3), np.float32)
    gaussians = splat.Gaussians(
        *map(jnp.asarray, (means, np.ones((50, 4), np.float32), zeros, zeros[:, 0], zeros[:, None]))
    )
    splat.save(tmp_path / "a.spz", gaussians)
    # 12 bits after the point at least where 24 suffice, and a thousandth of a small object.
    step = max(min(2**-12, extent / 1000), extent * 2**-22)
    np.testing.assert_allclose(splat.load(tmp_path / "a.spz").means, means, atol=step)


def test_precision_is_a_choice(tmp_path):
    rng = np.random.default_rng(0)
    sh = jnp.asarray(rng.uniform(-0.9, 0.9, (200, 16, 3)), jnp.float32)
    n3 = jnp.asarray(rng.uniform(-1, 1, (200, 3)), jnp.float32)
    gaussians = splat.Gaussians(n3, jnp.ones((200, 4)), n3, n3[:, 0], sh)
    for bits, error in (((5, 4), 1 / 16), ((8, 8), 1 / 256)):
        splat.save(tmp_path / "a.spz", gaussians, up="y", sh_bits=bits, fractional_bits=20)
        back = splat.load(tmp_path / "a.spz", up="y")
        np.testing.assert_allclose(back.sh[:, 1:], sh[:, 1:], atol=error + 0.008)
        np.testing.assert_allclose(back.means, n3, atol=2**-20)
    with pytest.raises(ValueError, match="fractional_bits is 24; positions up to .* allow 0 to 23"):
        splat.save(tmp_path / "b.spz", gaussians, fractional_bits=24)
    with pytest.raises(ValueError, match="sh_bits"):
        splat.save(tmp_path / "b.spz", gaussians, sh_bits=(0, 4))
    with pytest.raises(ValueError, match="exceed SPZ's range"):
        splat.save(tmp_path / "b.spz", gaussians.replace(means=1e8 * n3))
    assert not (tmp_path / "b.spz").exists()


BODY = POSITION + REST + smallest_three(1, 0, 0, 0)
good = header() + BODY
RECORD = struct.pack("<III", 0xADBE0003, 4, 4)
MALFORMED = {
    "not compressed": (
        b"NGSP" + struct.pack("<I", 3) + bytes(40),
        "SPZ version 3 without its gzip compression; .*gzip",
    ),
    "version 4": (b"NGSP" + struct.pack("<I", 4) + bytes(40), "has 0 streams at 0 of 48 bytes"),
    "version 5": (b"NGSP" + struct.pack("<I", 5) + bytes(40), "SPZ version 5; versions 1 to 4"),
    "header of 4": (b"NGSP" + struct.pack("<I", 4), "holds no SPZ header"),
    "other gzip": (gzip.compress(b"hello world, this is no splat"), "not of SPZ"),
    "short": (gzip.compress(b"NGSP"), "holds no SPZ header"),
    "version 9": (
        gzip.compress(header(version=9) + BODY),
        "SPZ version 9 in a gzip stream; versions 1 to 3 are read there, and 4 without gzip",
    ),
    "degree": (gzip.compress(header(degree=5) + BODY), "SH degree 5"),
    "fraction": (gzip.compress(header(fractional_bits=200) + BODY), "fractional bits"),
    "count": (gzip.compress(header(count=2) + BODY), "truncated: 2 gaussians"),
    "huge count": (gzip.compress(header(count=2**32 - 1) + BODY), "claims 4294967295"),
    "more than said": (gzip.compress(good + b"0"), "holds more"),
    "cut": (gzip.compress(good)[:-9], "ends early|truncated"),
    "checksum": (gzip.compress(good)[:-8] + bytes(8), "no intact gzip"),
    "damaged": (gzip.compress(good)[:12] + bytes(20), "gzip|truncated|header"),
    "frame": (gzip.compress(header(flags=2) + BODY + RECORD[:8] + b"\6\0\0\0"), "coordinate system"),
    "not finite": (gzip.compress(header(1) + b"\0\x7c" * 3 + REST + bytes(3)), "not finite"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_rejected_with_one_line(tmp_path, name):
    content, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value) and "a.spz" in str(error.value)


def test_known_extensions_are_no_obstacle(tmp_path):
    other = struct.pack("<II", 0xADBE0002, 12) + bytes(12)
    assert len(read(tmp_path, gzip.compress(header(flags=2) + BODY + other + RECORD))) == 1
    most = struct.pack("<II", 0xADBE0002, (1 << 16) - 8) + bytes((1 << 16) - 8)
    assert len(read(tmp_path, gzip.compress(header(flags=2) + BODY + most, 0))) == 1
    assert len(read(tmp_path, streams(flags=2, more=most))) == 1
    with pytest.raises(ValueError, match="holds more than its 1 gaussians"):
        read(tmp_path, gzip.compress(header(flags=2) + BODY + most + b"0", 0))


@pytest.mark.parametrize("claim", [1, 40_000_000 // 20])
def test_a_bomb_is_not_inflated(tmp_path, claim):
    bomb = gzip.compress(header(count=claim) + bytes(40_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="holds more|claims"):
        read(tmp_path, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 + len(bomb)


def test_members_of_a_gzip_file_are_joined(tmp_path):
    whole, half = read(tmp_path, gzip.compress(good)), len(good) // 2
    parts = read(tmp_path, gzip.compress(good[:half]) + gzip.compress(good[half:]))
    np.testing.assert_array_equal(parts.means, whole.means)
    with pytest.raises(ValueError, match="truncated: 1 gaussians"):
        read(tmp_path, gzip.compress(good[:half]) + gzip.compress(good[half:-1]))
    with pytest.raises(ValueError, match="more than 64 gzip members"):
        read(tmp_path, gzip.compress(b"") * 100 + gzip.compress(good))


PARTS = (POSITION, b"\x80", bytes(3), bytes(3), smallest_three(1, 0, 0, 0))


def streams(count=1, parts=PARTS, sizes=None, flags=0, more=b"", degree=0):
    """A file of version 4, written number by number; `sizes` are the plain ones that the table announces."""
    packed = [zstandard.ZstdCompressor().compress(part) for part in parts]
    sizes = [len(part) for part in parts] if sizes is None else sizes
    table = b"".join(struct.pack("<QQ", len(stream), size) for stream, size in zip(packed, sizes, strict=True))
    head = b"NGSP" + struct.pack("<IIBBBBI", 4, count, degree, 12, flags, len(parts), 32 + len(more)) + bytes(12)
    return head + more + table + b"".join(packed)


def test_version_4_is_read_as_described(tmp_path):
    fourth, third = read(tmp_path, streams()), read(tmp_path, gzip.compress(good))
    np.testing.assert_array_equal(fourth.means, third.means)
    np.testing.assert_array_equal(fourth.quats, third.quats)
    assert len(read(tmp_path, streams(flags=2, more=RECORD))) == 1


def test_files_of_no_gaussians(tmp_path):
    for degree in (0, 3):
        for content in (gzip.compress(header(count=0, degree=degree)), streams(count=0, parts=(), degree=degree)):
            found = read(tmp_path, content)
            assert len(found) == 0 and found.sh.shape == (0, (degree + 1) ** 2, 3)


# Records longer than what is read of them; the frame stands last.
LONG = struct.pack("<II", 0xADBE0002, (1 << 16) - 16) + bytes((1 << 16) - 16) + RECORD


@pytest.mark.parametrize(
    "content, message",
    [
        (streams(count=2), "stream 0 of 2 gaussians needs 18 bytes"),
        (streams(count=2**31), "claims 2147483648"),
        (streams(sizes=[9, 1, 3, 3, 5]), "5 are announced"),
        (streams(parts=(POSITION, b"1", b"123", b"12", b"1234"), sizes=[9, 1, 3, 3, 4]), "stream 3 holds 2 bytes"),
        (streams(parts=(bytes(10_000_000), b"1", b"123", b"123", b"1234"), sizes=[9, 1, 3, 3, 4]), "holds 10 bytes"),
        (streams()[:-3], "truncated: stream 4"),
        (streams().replace(b"\x28\xb5", b"\x28\xb6"), "no intact zstd"),
        (streams(flags=2, more=RECORD[:8] + b"\6\0\0\0"), "coordinate system"),
        (streams(flags=2, more=LONG), "extensions of 65540 bytes; at most 65536"),
        (streams(flags=4), "flags 0x04"),
    ],
)  # fmt: skip
def test_malformed_files_of_version_4(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)
