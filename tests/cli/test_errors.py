"""Every wrong input ends with exit code 2 and one line on stderr that names the cause and the way out."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
from absl import flags
from PIL import Image

from im3d_jax import weights
from im3d_jax.cli.main import COMMANDS, main
from tests.flag_bounds import unbounded


PROMPT = "--prompt=a red mug"


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs the program, expects a refusal, returns its line."""

    def run(*arguments, out=True):
        out_flag = [f"--out={tmp_path / 'run'}"] if out else []
        assert main([*arguments, *out_flag]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and "Traceback" not in captured.err
        return captured.err

    return run


def picture(path, size=(64, 64), alpha=255):
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[..., 3] = alpha
    Image.fromarray(pixels).save(path)
    return path


def test_commands_and_flags(refused):
    assert "did you mean 'generate'" in refused("generat", out=False)
    assert "expected one of" in refused("zzz", out=False)
    assert "Did you mean: prompt" in refused("generate", "--promt=x")
    assert "--rounds=-1" in refused("generate", PROMPT, "--rounds=-1")
    assert "--rounds=3" in refused("generate", PROMPT, "--rounds=3")
    assert "--rounds=two" in refused("generate", PROMPT, "--rounds=two")
    assert "quality" in refused("generate", PROMPT, "--quality=ultra")
    assert "unexpected argument 'mug'" in refused("generate", PROMPT, "mug")
    assert "rounds" in refused("views", PROMPT, "--rounds=1"), "another command's flag is unknown"
    assert "prompt" in refused("generate", "--prompt", out=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_of_numbers_have_bounds(name):
    values = flags.FlagValues()
    importlib.import_module(f"im3d_jax.cli.{name.replace('-', '_')}").register(values)
    assert unbounded(values) == []


def test_numbers_beyond_the_bounds(refused):
    assert "range [0, 4294967295]" in refused("generate", PROMPT, "--seed=99999999999999999999")
    assert "range [-89.0, 89.0]" in refused("generate", PROMPT, "--elevation_deg=nan")
    for flag in ("steps", "hold_out", "downscale"):
        for number in ("99999999999999999999", "3000000000"):
            line = refused("reconstruct", "--data=nothing", f"--{flag}={number}")
            assert f"flag --{flag}={number}: " in line and ", 2147483647]" in line


def test_sources(refused):
    assert "empty" in refused("generate", "--prompt=")
    assert "empty" in refused("generate", "--prompt=  ")
    assert "neither" in refused("generate")
    assert "--out is missing" in refused("generate", PROMPT, out=False)
    assert "elevation_deg=nan" in refused("generate", PROMPT, "--elevation_deg=nan")
    assert "UTF-8" in refused("generate", "--prompt=mug \udcff")
    assert "--model is empty" in refused("generate", PROMPT, "--model=")


def test_pictures(refused, tmp_path):
    assert "missing" in refused("generate", f"--image={tmp_path / 'none.png'}")
    whole = picture(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused("generate", f"--image={tmp_path / 'cut.png'}")
    assert "1x1" in refused("views", f"--image={picture(tmp_path / 'dot.png', (1, 1))}")
    assert "transparent" in refused("views", f"--image={picture(tmp_path / 'air.png', alpha=0)}")
    assert not (tmp_path / "run").exists(), "a refused picture leaves no folder"


def test_folders(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("generate", PROMPT, f"--out={tmp_path / 'file' / 'run'}", out=False)
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text(json.dumps({"settings": {"seed": 1}}))
    (tmp_path / "run/state/stages.json").write_text(json.dumps({"input": {}}))
    line = refused("generate", PROMPT)
    assert "other settings" in line and "--overwrite" in line


def test_sources_among_the_results_are_kept(refused, tmp_path):
    (tmp_path / "run/views").mkdir(parents=True)
    image = picture(tmp_path / "run/input.png")
    (tmp_path / "run/views/cameras.json").write_text("{}")
    for more in ([], ["--overwrite"]):
        assert "among the results" in refused("generate", f"--image={image}", *more)
        assert "among the results" in refused("reconstruct", f"--data={tmp_path / 'run/views'}", *more)
    assert image.exists() and (tmp_path / "run/views/cameras.json").exists()
    for inside in ("state", "views/mine"):
        data, out = f"--data={tmp_path / 'run'}", f"--out={tmp_path / 'run' / inside}"
        assert "is among the results in --data=" in refused("reconstruct", data, out, out=False)
    assert not (tmp_path / "run/state").exists()


def test_models(refused, tmp_path):
    assert "no such folder" in refused("generate", PROMPT, f"--model={tmp_path / 'none'}")
    # Nothing was made yet, so the corrected command may use the folder.
    assert "other settings" not in refused("generate", PROMPT, f"--model={tmp_path / 'neither'}")
    assert "no such folder" in refused("generate", PROMPT, f"--model={tmp_path / (400 * 'x')}")
    folder = tmp_path / "weights"
    folder.mkdir()
    assert "config.json" in refused("generate", PROMPT, f"--model={folder}")
    config = weights.BundleConfig()
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    (folder / "tokenizer.json").write_text(weights.build_tokenizer(["red", "mug"]))
    assert "autoencoder.safetensors" in refused("generate", PROMPT, f"--model={folder}")
    (folder / "autoencoder.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{broken")
    assert "autoencoder.safetensors" in refused("generate", PROMPT, f"--model={folder}")


def test_captures(refused, tmp_path):
    data = tmp_path / "capture"
    assert "--data is missing" in refused("reconstruct")
    assert "no such folder" in refused("reconstruct", f"--data={data}")
    data.mkdir()
    assert "no camera file" in refused("reconstruct", f"--data={data}")
    assert "--out and --data are the same folder" in refused(
        "reconstruct", f"--data={data}", f"--out={data}", out=False
    )
    picture(data / "a.png"), picture(data / "b.png", (65, 64))
    eye = np.eye(4).tolist()

    def frames(*pairs, **fields):
        views = [{"file_path": name, "transform_matrix": matrix} for name, matrix in pairs]
        (data / "transforms.json").write_text(json.dumps({"frames": views, **fields}))
        return refused("reconstruct", f"--data={data}")

    assert "camera_angle_x" in frames(("a", eye))
    assert "singular" in frames(("a", np.zeros((4, 4)).tolist()), camera_angle_x=0.7)
    assert "mismatched image sizes" in frames(("a", eye), ("b", eye), camera_angle_x=0.7, w=64, h=64)
    picture(data / "dot.png", (1, 1))
    assert "1x1 pixels" in frames(("dot", eye), camera_angle_x=0.7)
    (data / "transforms.json").rename(data / "cameras.json")
    view = {"file_path": "a", "transform_matrix": eye}
    (data / "cameras.json").write_text(json.dumps({"frames": [view], "camera_angle_x": 0.7}))
    assert "one view" in refused("reconstruct", f"--data={data}")
    (data / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7}))
    assert "'frames'" in refused("reconstruct", f"--data={data}")


def test_help(capsys):
    assert main([]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"im3d {name}" in shown
        assert main(["help", name]) == 0
        assert capsys.readouterr().out == shown
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("0.")
