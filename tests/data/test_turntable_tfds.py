"""Data sets of tensorflow-datasets: what goes in comes out, without TensorFlow; one line for each damage."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from im3d_jax.data.turntable import Turntable, TurntableSet
from im3d_jax.data.turntable_sets import open_turntables
from im3d_jax.data.turntable_tfds import Turntables, TurntablesConfig, TurntableTfds, build_turntables
from im3d_jax.errors import InputError


ROOT = pathlib.Path(__file__).resolve().parents[2]
needs_beam = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="needs the extra beam")


class Noise:
    """Turntables of random pixels."""

    frames, size = 3, 8

    def __init__(self, count, bad=None):
        self._count, self._bad = count, bad

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index == self._bad:
            raise InputError(f"turntable {index} is damaged; render it again")
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (self.frames, self.size, self.size, 4), np.uint8)
        return Turntable(pixels, f"thing ü {index}", *rng.random((2, self.frames), np.float32), key=f"k{index}")


def assert_same(found, wanted):
    assert (len(found), found.frames, found.size) == (len(wanted), wanted.frames, wanted.size)
    for index in range(len(wanted)):
        one, other = found[index], wanted[index]
        assert (one.key, one.caption) == (other.key, other.caption)
        assert one.rgba.dtype == np.uint8 and one.elevations.dtype == one.azimuths.dtype == np.float32
        for name in ("rgba", "elevations", "azimuths"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data set of 25 turntables in 12 files; with its folder and what was reported."""
    out, told = tmp_path_factory.mktemp("tfds"), []
    folder = build_turntables(Noise(25), out, shards=12, report=lambda done, total, note="": told.append((done, total)))
    return out, folder, told


@pytest.fixture
def copy(built, tmp_path):
    """A copy that may be damaged."""
    for file in built[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_what_goes_in_comes_out(built, capfd):
    out, folder, told = built
    found: TurntableSet = TurntableTfds(folder)
    assert_same(found, Noise(25))
    assert told == [(done, 25) for done in range(1, 26)]
    assert len(list(folder.glob("*.array_record-*-of-00012"))) == 12
    assert {path.name for path in out.iterdir()} == {"turntables"}, "no folder of downloads"
    for index in (25, -1):
        with pytest.raises(IndexError):
            found[index]
    assert_same(TurntableTfds(out), Noise(25))
    assert not capfd.readouterr().out


@needs_beam
def test_beam_writes_the_same(built, tmp_path):
    """More than ten files: their numbers as text have another order."""
    folder = build_turntables(Noise(25), tmp_path, shards=12, beam_runner="DirectRunner")
    assert_same(TurntableTfds(folder), Noise(25))
    assert {path.name for path in folder.iterdir()} == {path.name for path in built[1].iterdir()}


@needs_beam
def test_beam_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError) as raised:
        build_turntables(Noise(6, bad=4), tmp_path, shards=2, beam_runner="DirectRunner")
    assert str(raised.value) == "turntable 4 is damaged; render it again"
    with pytest.raises(InputError, match="Beam has no runner Slow"):
        build_turntables(Noise(6), tmp_path, beam_runner="Slow")


def test_without_beam(tmp_path, monkeypatch):
    for name in ("apache_beam", "apache_beam.runners.runner"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="apache-beam is not installed; pip install"):
        build_turntables(Noise(6), tmp_path, beam_runner="DirectRunner")


def test_files_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr("im3d_jax.data.turntable_tfds._SHARD_BYTES", 5 * 3 * 8 * 8 * 4)
    folder = build_turntables(Noise(20), tmp_path)
    files = len(list(folder.glob("*array_record*")))
    assert 4 <= files <= 8, "PNGs of noise are larger than its pixels"
    assert_same(TurntableTfds(folder), Noise(20))


def test_of_toybox_and_again(tmp_path):
    folder = build_turntables("toybox:3:16", tmp_path)
    assert folder == tmp_path / "turntables" / "toybox-3-16" / "1.0.0"
    assert_same(open_turntables(str(folder)), open_turntables("toybox:3:16"))
    again = build_turntables(str(folder), tmp_path / "again")
    assert_same(open_turntables(str(again)), open_turntables("toybox:3:16"))
    with pytest.raises(InputError, match="1.0.0 is there already; remove it"):
        build_turntables("toybox:3:16", tmp_path)


def test_several_data_sets(tmp_path):
    for objects in (1, 2):
        build_turntables(f"toybox:{objects}:8", tmp_path)
    with pytest.raises(InputError, match="holds 2 data sets; give one of turntables/toybox-1-8/1.0.0, turntables/"):
        TurntableTfds(tmp_path)
    assert len(TurntableTfds(tmp_path / "turntables" / "toybox-2-8")) == 2


def test_sources_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="turntable 4 is damaged; render it again"):
        build_turntables(Noise(6, bad=4), tmp_path, shards=1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(InputError, match="no turntables to write"):
        build_turntables(Noise(0), tmp_path)
    wrong = Noise(2)
    wrong.size = 9
    whole = Noise.__getitem__(Noise(2), 0)
    wrong.__class__ = type("Wrong", (Noise,), {"__getitem__": lambda self, index: whole})
    with pytest.raises(InputError, match=r"turntable 0 \(k0\) is uint8 \[3, 8, 8, 4\], expected uint8 \[3, 9, 9, 4\]"):
        build_turntables(wrong, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory|File exists"):
        build_turntables(Noise(1), tmp_path / "file")


def test_the_builder_alone(tmp_path):
    """As tensorflow-datasets itself uses it."""
    config = TurntablesConfig(name="noise", turntables=Noise(2))
    builder = Turntables(config=config, data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    assert builder.info.splits["train"].num_examples == 2
    first = builder.as_data_source("train")[0]
    np.testing.assert_array_equal(first["rgba"], Noise(2)[0].rgba)


def refused(folder):
    with pytest.raises(InputError) as raised:
        found = TurntableTfds(folder)
        for index in range(len(found)):
            found[index]
    assert "\n" not in str(raised.value) and "experiments.build_tfds" in str(raised.value)
    return str(raised.value)


def test_damaged_files(copy):
    shard = next(copy.glob("*-00003-of-00012"))
    whole = shard.read_bytes()
    shard.unlink()
    assert f"{shard} is missing" in refused(copy)
    for content in (b"", whole[: len(whole) // 2], whole[:-1]):
        shard.write_bytes(content)
        assert "is damaged" in refused(copy)
    place = 120
    shard.write_bytes(whole[:place] + bytes(255 - value for value in whole[place : place + 40]) + whole[place + 40 :])
    assert "turntable 6 is damaged" in refused(copy)
    shard.write_bytes(next(copy.glob("*-00000-of-00012")).read_bytes())
    two, three = (len(range(25 * i // 12, 25 * (i + 1) // 12)) for i in (0, 11))
    assert (two, three) == (2, 3)
    next(copy.glob("*-00011-of-00012")).write_bytes(shard.read_bytes())
    assert "holds 2 turntables, expected 3" in refused(copy)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_notes(copy, name):
    whole = (copy / name).read_text()
    for content in ("", "{", "[]", whole[: len(whole) // 2]):
        (copy / name).write_text(content)
        assert str(copy) in refused(copy)
    (copy / name).unlink()
    assert str(copy) in refused(copy)


def test_no_data_set(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert "no data set of tensorflow-datasets" in refused(folder)


def test_tensorflow_is_never_imported(tmp_path):
    """Nor where it is installed: an import of this one ends the process."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os\nos._exit(77)\n")
    code = """
        import importlib.util, sys
        from im3d_jax.data.turntable_tfds import TurntableTfds, build_turntables
        folder = build_turntables("toybox:3:8", sys.argv[1], shards=2)
        assert TurntableTfds(folder)[2].key == "train-2"
        assert importlib.util.find_spec("tensorflow").origin.startswith(sys.argv[1])
        assert "tensorflow" not in sys.modules
    """
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert not done.stdout


def test_a_full_disk(tmp_path):
    """The limit on the size of files stands for it."""
    code = """
        import resource, signal, sys
        from im3d_jax.data.turntable_tfds import build_turntables
        from im3d_jax.errors import InputError
        from tests.data.test_turntable_tfds import Noise
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            build_turntables(Noise(300), sys.argv[1], shards=1)
        except InputError as error:
            print(error)
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1 and "cannot be written" in done.stdout, (done.stdout, done.stderr)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
