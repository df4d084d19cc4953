"""Arrays of .npz files: what is read, and that damage and lies cost neither memory nor another error."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from im3d_jax.archives import read_arrays
from im3d_jax.models import lpips


ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "number": np.int32(7),
    "flags": np.array([True, False]),
}


@pytest.fixture(scope="module")
def whole():
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)
    return buffer.getvalue()


def declaring(path, shape, content=b"", compression=zipfile.ZIP_STORED):
    """An archive whose array ``a`` has a header of float32 numbers of this shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.npy", header.getvalue() + content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    for name, array in read_arrays(tmp_path / "a.npz", ARRAYS).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype
    assert set(read_arrays(tmp_path / "a.npz", lambda name: name < "g")) == {"columns", "flags"}
    with pytest.raises(ValueError, match="no array 'other'"):
        read_arrays(tmp_path / "a.npz", ["other"])
    # An error of the caller is no damage of the file.
    with pytest.raises(ZeroDivisionError):
        read_arrays(tmp_path / "a.npz", lambda name: 1 // 0)


def test_numbers_that_are_declared_alone_take_no_memory(tmp_path):
    packed = declaring(tmp_path / "packed.npz", (1 << 28,), bytes(1 << 22), zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    for path, message in (
        (
            declaring(tmp_path / "a.npz", (10**12,)),
            r"shape \(1000000000000,\) .* needs 4000000000000 bytes, it holds 0",
        ),
        (declaring(tmp_path / "b.npz", (10**6, 10**6), bytes(64)), "it holds 64"),
        (packed, "it holds 4194304"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arrays(path, ["a"])
    with pytest.raises(ValueError, match="declares 0.00419 GB, at most 0.001 GB"):
        read_arrays(packed, ["a"], most=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_weights_that_declare_too_much(tmp_path):
    path = declaring(tmp_path / "vgg.npz", (10**12,))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("a.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.0.weight.npy", content)
    with pytest.raises(ValueError, match="vgg.npz is not a whole .npz archive .*needs 4000000000000 bytes"):
        lpips.load(path)


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="type object"):
        read_arrays(tmp_path / "a.npz", ["a"])


def test_flipped_bits_are_seen_or_do_not_matter(whole, tmp_path):
    """Whatever zipfile and numpy raise becomes one kind, and no number changes unseen."""
    rng, path, refused = np.random.default_rng(0), tmp_path / "a.npz", 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = read_arrays(path, ARRAYS)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            for name, array in found.items():
                np.testing.assert_array_equal(array, ARRAYS[name])
    assert refused > 100


@pytest.mark.parametrize("place, value", [(8, 99), (6, 1)])
def test_compression_and_encryption_that_zipfile_lacks(place, value, whole, tmp_path):
    """NotImplementedError and RuntimeError of zipfile."""
    damaged, first = bytearray(whole), whole.index(b"PK\x01\x02")
    struct.pack_into("<H", damaged, first + place + 2, value)
    struct.pack_into("<H", damaged, place, value)
    (tmp_path / "a.npz").write_bytes(damaged)
    with pytest.raises(ValueError):
        read_arrays(tmp_path / "a.npz", ARRAYS)
