"""Weights that cannot be used: exit code 2 and one line, before anything is drawn."""

import json
import math
import shutil

import numpy as np
import pytest

from im3d_jax.cli.main import main
from im3d_jax.pipelines import memory
from im3d_jax.weights.tensor_files import list_tensors, write_tensors


pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def refused(capsys, picture, tmp_path):
    """Runs `views` on a picture (or other flags), expects a refusal without results, returns its line."""

    def run(model, *flags, image=True):
        source = [f"--image={picture}"] if image else []
        assert main(["views", f"--model={model}", f"--out={tmp_path / 'run'}", *source, *flags]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and "Traceback" not in captured.err
        assert not (tmp_path / "run" / "run.json").exists()
        return captured.err

    return run


def copied(source, target, change=lambda name, shape: shape, leave_out=()):
    """A checkpoint with other shapes or fewer tensors."""
    shapes = {name: tensor.shape for name, tensor in list_tensors([source]).items() if name not in leave_out}
    zeros = lambda shape: np.zeros(shape, np.float16)  # noqa: E731
    write_tensors(target, [(n, "F16", change(n, s), lambda n=n, s=s: zeros(change(n, s))) for n, s in shapes.items()])
    return target


def test_files(refused, checkpoints, tmp_path):
    whole = checkpoints["sv3d_u"].read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "not a whole safetensors file" in refused(cut)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/model.ckpt").write_bytes(b"\x80\x02}q\x00.")
    assert "is a pickle" in refused(tmp_path / "old")
    assert "is a pickle" in refused(tmp_path / "old/model.ckpt")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    other = copied(checkpoints["sv3d_u"], tmp_path / "o.safetensors", lambda n, s: (*s[:2], 3, 5) if n == first else s)
    assert "expected [8, 8, 3, 3]" in refused(other)
    missing = copied(checkpoints["sv3d_u"], tmp_path / "m.safetensors", leave_out=[first.replace("weight", "bias")])
    assert "1 tensors missing" in refused(missing)
    unknown = copied(
        checkpoints["sv3d_u"], tmp_path / "u.safetensors", lambda n, s: (s[0], 5, 3, 3) if n == first else s
    )
    assert "no known family" in refused(unknown)


def f8(source, target, part):
    """The checkpoint with zeros only, the tensors with `part` in their names in a dtype of eight bits."""
    header, offset = {}, 0
    for name, tensor in list_tensors([source]).items():
        dtype, width = ("F8_E4M3", 1) if part in name else ("F16", 2)
        end = offset + math.prod(tensor.shape) * width
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
    return target


def test_old_results_stay_when_the_new_model_is_broken(checkpoints, picture, tmp_path, capsys):
    """With --overwrite nothing is removed before every network is known to be whole, the encoder too."""
    old = tmp_path / "old"
    (old / "views").mkdir(parents=True)
    for name in ("run.json", "views/00.png"):
        (old / name).write_text("{}")

    def line(model):
        flags = [f"--image={picture}", f"--model={model}", f"--out={old}", "--overwrite"]
        assert main(["views", *flags]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert sorted(path.name for path in old.rglob("*")) == ["00.png", "run.json", "views"]
        return captured.err

    folder = checkpoints["folder"]
    stored = list_tensors([folder / "image_encoder/model.safetensors"])
    name = next(name for name in stored if name.endswith("layer_norm1.bias"))
    bad = shutil.copytree(folder, tmp_path / "missing")
    copied(folder / "image_encoder/model.safetensors", bad / "image_encoder/model.safetensors", leave_out=[name])
    assert f"1 tensors missing: {name}" in line(bad)
    for part in ("visual.ln_post.bias", "input_blocks.0.0.bias", "first_stage_model.decoder.conv_in.bias"):
        model = f8(checkpoints["sv3d_u"], tmp_path / "f8.safetensors", part)
        assert part in (said := line(model)) and "F8_E4M3" in said


def test_shards(refused, tmp_path, checkpoints):
    unet = tmp_path / "model" / "unet"
    unet.mkdir(parents=True)
    (unet / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    assert "lacks 1 of the 1 shards" in refused(tmp_path / "model")
    for text, message in (
        ('{"weight_map": {"a": 3}}', "is not an index of shards"),
        ('{"weight_map": {"a": null}}', "is not an index of shards"),
        ('{"weight_map": []}', "is not an index of shards"),
        ('{"weight_map": {"a": "%s"}}' % ("x" * 5000), "lacks 1 of the 1 shards"),
        ("[" * 100000, "is not readable as JSON"),
        ("[]", "must hold a JSON object"),
    ):
        (unet / "x.safetensors.index.json").write_text(text)
        assert message in refused(tmp_path / "model")


def test_what_a_model_is_for(refused, checkpoints, picture):
    assert "starts from a picture" in refused(checkpoints["sv3d_u"], "--prompt=a mug", image=False)
    assert "draws no orbits" in refused(checkpoints["sd"])
    sd, video = checkpoints["sd"], checkpoints["folder"]
    assert "draws no pictures" in refused(video, "--prompt=a mug", f"--image_model={video}", image=False)
    assert "--image and --image_model are both given" in refused(video, f"--image_model={sd}")
    assert "tiny has no memory presets; remove --memory=16gb" in refused("tiny", "--memory=16gb")
    assert "orbit_direction=cw: tiny draws ccw orbits only" in refused("tiny", "--orbit_direction=cw")
    assert "--memory=8gb" in refused(video, "--memory=8gb")


def test_a_hub_id_without_network(refused, checkpoints):
    line = refused("stabilityai/sv3d")
    assert "sv3d_u.safetensors (about 9.4 GB)" in line and "--model=FOLDER" in line
    line = refused("stabilityai/sv3d/sv3d_p.safetensors")
    assert "fetch sv3d_p.safetensors (about 9.4 GB)" in line
    flags = ["--image_model=stable-diffusion-v1-5/stable-diffusion-v1-5", "--prompt=a mug"]
    line = refused(checkpoints["folder"], *flags, image=False)
    assert "(about 4.3 GB)" in line and "--image_model=FOLDER" in line


@pytest.mark.parametrize("model", ["x/y-", "x/y..z", "a--b/c", "a/" + "b" * 200, "../nothing", "./y"])
def test_names_that_are_no_hub_ids(model, refused, checkpoints, capsys, tmp_path):
    assert f"--model={model}: no such f" in refused(model)
    flags = [f"--image_model={model}", "--prompt=a mug"]
    line = refused(checkpoints["folder"], *flags, image=False)
    assert f"--image_model={model}: no such file or folder, and not a hub id" in line and "--model=" not in line
    assert main(["convert", f"--model={model}", "--to=sgm", f"--out={tmp_path / 'x'}"]) == 2
    captured = capsys.readouterr()
    assert "not a hub id" in captured.err and captured.err.count("\n") == 1


def test_picture_models_that_are_not_there(refused, checkpoints):
    for flags, message in (
        (["--image_model="], "--image_model is empty"),
        (["--image_model=no"], "--image_model=no: "),
    ):
        for model in (checkpoints["folder"], "tiny"):
            line = refused(model, *flags, "--prompt=a mug", image=False)
            assert message in line and "--model=" not in line


def test_too_little_memory(refused, checkpoints, monkeypatch):
    monkeypatch.setattr(memory, "device_gib", lambda: 1e-6)
    assert "needs about" in (line := refused(checkpoints["sv3d_u"])) and "machine with more memory" in line
    assert "--memory=80gb needs about" in refused(checkpoints["sv3d_u"], "--memory=80gb")
