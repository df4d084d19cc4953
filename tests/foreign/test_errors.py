"""Foreign weights that cannot be used: exit code 2 and one line, before anything is drawn."""

import json
import math
import shutil

import jax
import numpy as np
import pytest

from im3d_jax.cli import common
from im3d_jax.cli.main import main
from im3d_jax.foreign import memory
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.hub import find_model
from im3d_jax.weights.tensor_files import list_tensors, write_tensors


@pytest.fixture(autouse=True)
def quiet(small, monkeypatch):
    monkeypatch.setattr(common, "start_jax", lambda: None)


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
    assert "both given" in refused(video, f"--image_model={sd}")
    assert "--memory is for foreign models" in refused("tiny", "--memory=16gb")
    assert "--orbit_direction is for foreign models" in refused("tiny", "--orbit_direction=cw")
    assert "--memory=8gb" in refused(video, "--memory=8gb")


def test_a_hub_id_without_network(refused, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    line = refused("stabilityai/sv3d")
    assert "sv3d_u.safetensors (about 9.4 GB)" in line and "--model=FOLDER" in line
    line = refused("stabilityai/sv3d/sv3d_p.safetensors")
    assert "fetch sv3d_p.safetensors (about 9.4 GB)" in line


@pytest.mark.parametrize("model", ["x/y-", "x/y..z", "a--b/c", "a/" + "b" * 200, "../nothing", "./y"])
def test_names_that_are_no_hub_ids(model, refused, checkpoints, capsys, tmp_path):
    pytest.importorskip("huggingface_hub")
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


def test_a_download_that_was_interrupted_goes_on(monkeypatch, tmp_path, checkpoints, refused):
    hub = pytest.importorskip("huggingface_hub")
    snapshot, asked = tmp_path / "snapshot", []
    snapshot.mkdir()
    (snapshot / "README.md").write_text("x")
    whole = [path for path in checkpoints["folder"].rglob("*") if path.is_file() and path.suffix != ".md"]
    offline = True

    def download(model, **options):
        asked.append(options.get("local_files_only", False))
        if not asked[-1] and not offline:
            for path in whole:
                target = snapshot / path.relative_to(checkpoints["folder"])
                target.parent.mkdir(exist_ok=True, parents=True)
                target.write_bytes(path.read_bytes())
            (snapshot / "scheduler").mkdir(exist_ok=True)
            (snapshot / "scheduler/scheduler_config.json").write_text("{}")
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    line = refused("stabilityai/other")
    assert "holds no safetensors file" in line and "--model=FOLDER" in line
    offline = False
    for lost in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "README.md"):
        (snapshot / lost).unlink(missing_ok=True)
        asked.clear()
        assert find_model("stabilityai/other") == snapshot
        # The last one is nothing that is read.
        assert asked == ([True] if lost == "README.md" else [True, False])
    assert open_checkpoint(snapshot).preset.name == "sv3d_u"


def test_too_little_memory(refused, checkpoints, monkeypatch):
    path = checkpoints["sv3d_u"]
    monkeypatch.setattr(memory, "device_gib", lambda: 1e-6)
    assert "needs about" in (line := refused(path)) and "larger machine" in line
    line = refused(path, "--memory=80gb")
    assert "--memory=80gb needs about" in line


def test_memory_that_runs_out_on_the_way(small, checkpoints, picture, tmp_path, monkeypatch, capsys):
    from im3d_jax.foreign.video import OrbitPipeline

    def fail(*arguments, **named):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(OrbitPipeline, "draw_views", fail)
    flags = [f"--image={picture}", f"--model={checkpoints['folder']}", "--memory=24gb", f"--out={tmp_path / 'run'}"]
    assert main(["views", *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "ran with --memory=24gb" in last and "Traceback" not in last
    assert (tmp_path / "run/input.png").exists()


def test_the_memory_preset_that_fits_is_named(monkeypatch):
    """At true size: a 16 GiB device takes the small preset, and says so when the large one is asked for."""
    from im3d_jax.foreign.recipes import MEMORIES, Recipe
    from im3d_jax.reconstruction import PRESETS as FITS
    from im3d_jax.errors import WeightsError

    monkeypatch.undo()
    from im3d_jax.weights.presets import PRESETS

    preset, side = PRESETS["sv3d_u"], PRESETS["sv3d_u"].height
    assert side == 576
    peaks = {
        name: max(memory.estimate(preset, each, 2, (side, side), FITS["standard"], Recipe().fit_side).values())
        for name, each in MEMORIES.items()
    }
    assert peaks["16gb"] < peaks["24gb"] < peaks["80gb"]
    for name, each in MEMORIES.items():
        assert peaks[name] < each.gib
    arguments = preset, 2, (side, side), FITS["standard"], Recipe().fit_side
    monkeypatch.setattr(memory, "device_gib", lambda: (peaks["16gb"] + peaks["24gb"]) / 2 / memory.SHARE_OF_DEVICE)
    assert memory.choose(None, *arguments).name == "16gb"
    with pytest.raises(WeightsError, match=r"about \d+\.\d GiB.*take --memory=16gb"):
        memory.choose("80gb", *arguments)
    monkeypatch.setattr(memory, "device_gib", lambda: 75.0)
    assert memory.choose(None, *arguments).name == "80gb"
