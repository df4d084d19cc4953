"""`im3d doctor`, and how jax is started."""

import os
import subprocess
import sys

import pytest

from im3d_jax.cli import common
from im3d_jax.errors import InputError
from im3d_jax.cli.main import main


def test_doctor(by_hand, capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in ("jax 0.", "device 0: cpu", "GiB", "weights of tiny", "compiled programs", "--model=FOLDER"):
        assert words in shown
    assert "MISSING" not in shown.split("weights of")[0], "all packages of the base installation are there"


def test_doctor_names_what_is_missing(by_hand, capsys, monkeypatch, tmp_path):
    def refuse(name):
        raise InputError("no such folder")

    monkeypatch.setattr(common, "load_model", refuse)
    assert main(["doctor", "--model="]) == 2
    assert "--model is empty" in capsys.readouterr().err
    assert main(["doctor", f"--model={tmp_path / 'none'}"]) == 2
    shown, line = capsys.readouterr()
    assert "MISSING" in shown and "NOT usable: no such folder" in shown and "--model=FOLDER" in shown
    assert line == "im3d: no such folder\n"


@pytest.mark.parametrize("name", ["none", "x.safetensors", "empty"])
def test_a_model_that_points_nowhere_is_a_wrong_input(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    (tmp_path / "empty").mkdir()
    assert main(["doctor", f"--model={tmp_path / name}"]) == 2
    shown, line = capsys.readouterr()
    assert "weights of" in shown and "NOT usable" in shown
    assert line.startswith("im3d: ") and line.count("\n") == 1 and name in line


def test_vocabulary(by_hand, capsys):
    assert main(["doctor", "--vocabulary"]) == 0
    assert capsys.readouterr().out == "mug: cup, tea cup\nred\n"


def test_absent_platform_is_one_line(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "tpu", "IM3D_COMPILATION_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "im3d_jax", "doctor"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("im3d:")]
    assert len(lines) == 1 and "JAX_PLATFORMS" in lines[0] and "Traceback" not in done.stderr


def test_compilation_cache_folder(monkeypatch, tmp_path):
    for name in ("JAX_COMPILATION_CACHE_DIR", "IM3D_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert common.compilation_cache() == tmp_path / "im3d" / "compiled"
    monkeypatch.setenv("IM3D_COMPILATION_CACHE_DIR", "/a")
    assert str(common.compilation_cache()) == "/a"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/b")
    assert str(common.compilation_cache()) == "/b"
