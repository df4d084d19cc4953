"""`im3d doctor`, and how jax is started."""

import os
import subprocess
import sys

import pytest

from im3d_jax.cli.main import main


def test_doctor(bundle, capsys):
    assert main(["doctor", f"--model={bundle}"]) == 0
    shown = capsys.readouterr().out
    for words in ("jax 0.", "device 0: cpu", "GiB", f"in {bundle}", "unet.safetensors: ", "complete: they load"):
        assert words in shown
    assert "compiled programs" in shown and "--model=FOLDER" in shown
    assert "MISSING" not in shown.split("weights of")[0], "all packages of the base installation are there"


@pytest.mark.usefixtures("small")
def test_video_and_picture_models(checkpoints, capsys):
    assert main(["doctor", f"--model={checkpoints['folder']}"]) == 0
    shown = capsys.readouterr().out
    assert "sv3d_u (diffusers), draws orbits" in shown and "--memory=16gb: encoder" in shown
    assert "elevation head: none" in shown and "5 frames of 32x32" in shown
    assert main(["doctor", f"--model={checkpoints['sd']}"]) == 0
    assert "draws pictures from prompts" in capsys.readouterr().out
    assert main(["doctor", "--vocabulary", f"--model={checkpoints['folder']}"]) == 2
    assert "no list of words" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none", "x.safetensors", "empty"])
def test_a_model_that_points_nowhere_is_a_wrong_input(name, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert main(["doctor", f"--model={tmp_path / name}"]) == 2
    shown, line = capsys.readouterr()
    assert "weights of" in shown and "NOT usable" in shown and "--model=FOLDER" in shown
    assert line.startswith("im3d: ") and line.count("\n") == 1 and name in line


def test_an_empty_name(capsys):
    assert main(["doctor", "--model="]) == 2
    assert capsys.readouterr().err == (
        "im3d: --model is empty; expected `tiny`, a folder, a file or a hub id of weights\n"
    )


def test_vocabulary(bundle, capsys):
    assert main(["doctor", "--vocabulary", f"--model={bundle}"]) == 0
    assert capsys.readouterr().out == "a\nmug\nred\n"
    assert main(["doctor", "--vocabulary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == sorted(lines, key=lambda line: line.partition(":")[0]) and len(lines) > 50
    assert any(line.startswith("mug: ") and "cup" in line for line in lines), "and what else may stand for a word"


def test_absent_platform_is_one_line():
    environment = os.environ | {"JAX_PLATFORMS": "tpu"}
    done = subprocess.run([sys.executable, "-m", "im3d_jax", "doctor"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("im3d:")]
    assert len(lines) == 1 and "JAX_PLATFORMS" in lines[0] and "Traceback" not in done.stderr
