"""What files leave open (frames, prediction, eps, which of two networks), what records keep, what a line says of it."""

import functools
import json
import math
import shutil

import jax
import numpy as np
import pytest

from im3d_jax.weights.checkpoints import load_network, open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.encoders import load_encoder
from im3d_jax.weights.tensor_files import list_tensors, read_tensor, write_tensors
from tests.weights import test_checkpoints as files
from tests.weights.test_checkpoints import FILE, TINY, names_of_full_size, refused


sgm_file, folder = files.sgm_file, files.folder


def write_hollow(path, tensors):
    """A file of zeros that takes no place on the disk."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        size = 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "F16", "shape": tensor.shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_a_folder_without_a_record_computes_the_same_after_two_conversions(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "one")
    (tmp_path / "one" / "im3d.json").unlink()
    config = json.loads((tmp_path / "one/unet/config.json").read_text())
    (tmp_path / "one/unet/config.json").write_text(json.dumps(config | {"num_frames": 21}))
    first = open_checkpoint(tmp_path / "one", preset=TINY)
    # diffusers' eps because the family's preset says so, and the length of the folder's config.
    assert (first.preset.norm_eps, first.preset.unet.up_eps, first.preset.frames) == ("diffusers", (1e-6, 1e-6), 21)
    convert_checkpoint(first, "sgm", tmp_path / "two.safetensors")
    second = open_checkpoint(tmp_path / "two.safetensors", preset=TINY)
    convert_checkpoint(second, "diffusers", tmp_path / "three")
    third = open_checkpoint(tmp_path / "three", preset=TINY)
    assert first.preset == second.preset == third.preset
    assert json.loads((tmp_path / "three/unet/config.json").read_text())["num_frames"] == 21


@pytest.mark.parametrize("frames", [21, "many", "0", "-1"])
def test_a_record_with_a_strange_length_is_refused(frames, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "one")
    record = json.loads((tmp_path / "one/im3d.json").read_text())
    (tmp_path / "one/im3d.json").write_text(json.dumps(record | {"num_frames": frames}))
    refused(tmp_path / "one", "num_frames is .*expected a number as text", preset=TINY)


def test_shards_of_a_single_file(sgm_file, tmp_path):
    tensors = list_tensors([sgm_file])
    names, index = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"svd-0000{number + 1}-of-00002.safetensors"
        items = [(n, tensors[n].dtype, tensors[n].shape, functools.partial(read_tensor, tensors[n])) for n in part]
        write_tensors(tmp_path / file, items, {})
        index |= dict.fromkeys(part, file)
    (tmp_path / "svd.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    checkpoint = open_checkpoint(tmp_path, preset=TINY)
    path, within = checkpoint.encoder
    whole = load_encoder(sgm_file, TINY.image_encoder, within=within)
    jax.tree.map(np.testing.assert_array_equal, load_encoder(path, TINY.image_encoder, within=within), whole)
    made = load_network(checkpoint, "unet")
    jax.tree.map(np.testing.assert_array_equal, made, load_network(open_checkpoint(sgm_file, preset=TINY), "unet"))


def test_a_folder_with_both_of_sv3ds_files_means_the_one_without_poses(sgm_file, tmp_path):
    for name in ("sv3d_u", "sv3d_p"):
        (tmp_path / f"{name}.safetensors").write_bytes(sgm_file.read_bytes())
    checkpoint = open_checkpoint(tmp_path, preset=TINY)
    assert checkpoint.path == tmp_path / "sv3d_u.safetensors"
    assert "sv3d_u.safetensors is used" in checkpoint.remark and "sv3d_p.safetensors" in checkpoint.remark
    assert not open_checkpoint(checkpoint.path, preset=TINY).remark
    (tmp_path / "other.safetensors").write_bytes(b"")
    assert open_checkpoint(tmp_path, preset=TINY).path == tmp_path / "sv3d_u.safetensors"


@pytest.mark.parametrize(
    "family, said, predicts",
    [("sd15", "v_prediction", "v"), ("sd15", None, "epsilon"), ("sd21", "epsilon", "epsilon"), ("sd21", None, "v")],
)
def test_what_a_picture_network_predicts(family, said, predicts, tmp_path):
    names = names_of_full_size(f"diffusers_{family}").items()
    (tmp_path / "unet").mkdir()
    write_hollow(tmp_path / "unet" / FILE, {n.removeprefix("unet/"): t for n, t in names if n.startswith("unet/")})
    if said:
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps({"prediction_type": said}))
    opened = open_checkpoint(tmp_path)
    assert opened.preset.prediction == predicts
    assert opened.preset.name == ("sd21_base" if (family, said) == ("sd21", "epsilon") else family)


@pytest.mark.parametrize(
    "family, other, remark",
    [("sd21", "sd21_base", "is read as Stable Diffusion 2.1 (768x768)"), ("svd", "svd", "25 are assumed")],
)
def test_a_single_file_says_what_it_is_taken_for(family, other, remark, tmp_path):
    write_hollow(tmp_path / "model.safetensors", names_of_full_size(f"sgm_{family}"))
    assert remark in open_checkpoint(tmp_path / "model.safetensors").remark
    assert not open_checkpoint(tmp_path / "model.safetensors", other).remark
