"""Foreign weights whose records, configs, dtypes or first tensors are damaged: one line, and nothing is written."""

import json
import math
import shutil

import numpy as np
import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.conversion import convert_checkpoint
from im3d_jax.weights.tensor_files import list_tensors, network_files, read_tensor, write_tensors


FIRST = "model.diffusion_model.input_blocks.0.0.weight"
DEEP = "[" * 100_000
pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def folder(checkpoints, tmp_path):
    """A copy of the diffusers folder to damage."""
    return shutil.copytree(checkpoints["folder"], tmp_path / "folder")


def rewritten(source, target, change=None, metadata=None, extra=()):
    """The file with other arrays ({name: array}), another header, or more tensors (name, bytes) of eight-bit floats."""
    items = []
    for name, tensor in list_tensors([source]).items():
        array = (change or {}).get(name)
        array = read_tensor(tensor) if array is None else array
        items.append((name, "F16", array.shape, lambda array=array: array))
    write_tensors(target, items, metadata)
    raw = target.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    for name, values in extra:
        field = {"dtype": "F8_E4M3", "shape": [len(values)], "data_offsets": [len(body), len(body) + len(values)]}
        header[name], body = field, body + values
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return target


def line(path, to, **options):
    """What opening and converting is refused with."""
    out = path.parent / "out"
    with pytest.raises(WeightsError) as error:
        convert_checkpoint(open_checkpoint(path, **options), to, out)
    assert list(path.parent.glob("out*")) == []
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "record, message",
    [
        ({"family": "garbage"}, "im3d.json: family is 'garbage', expected one of svd"),
        ({"family": 3}, "im3d.json: family is of type int, expected one of svd"),
        ({"family": ["svd"]}, "im3d.json: family is of type list, expected one of svd"),
        ({"family": "sv3d_u", "norm_eps": 7}, "im3d.json: norm_eps is of type int, expected one of diffusers, sgm"),
        ({"family": "sv3d_u", "norm_eps": "SGM"}, "im3d.json: norm_eps is 'SGM', expected one of diffusers, sgm"),
        ({"family": "sv3d_u", "encoder_prefix": 5}, "im3d.json: encoder_prefix is of type int, expected text"),
        (["sv3d_u"], "im3d.json must hold a JSON object, found list"),
        (None, "im3d.json is not readable as JSON"),
    ],
)
def test_records_of_folders(record, message, folder):
    (folder / "im3d.json").write_text(DEEP if record is None else json.dumps(record))
    assert message in line(folder, "sgm")


def test_a_family_that_is_given_counts_more_than_the_record(folder):
    (folder / "im3d.json").write_text(json.dumps({"family": "mine", "norm_eps": "sgm"}))
    assert open_checkpoint(folder, "sv3d_u").preset.name == "sv3d_u"


def test_headers_of_files(checkpoints, tmp_path):
    source = checkpoints["sv3d_u"]
    target = rewritten(source, tmp_path / "own.safetensors", metadata={"im3d.family": "svd9"})
    assert "own.safetensors: family is 'svd9', expected one of svd" in line(target, "diffusers")
    # Other people's fields of the same names are not our record.
    other = rewritten(source, tmp_path / "other.safetensors", metadata={"family": "nice model", "norm_eps": "7"})
    checkpoint = open_checkpoint(other)
    assert checkpoint.preset.name == "sv3d_u" and checkpoint.record == {}


@pytest.mark.parametrize("shape", [(), (8,), (0,)])
def test_first_convolutions_without_channels(shape, checkpoints, tmp_path):
    change = {FIRST: np.zeros(shape, np.float16)}
    assert "no known family" in line(rewritten(checkpoints["sv3d_u"], tmp_path / "x.safetensors", change), "diffusers")


@pytest.mark.parametrize("name", ["model_ema.x", "diffusers_only.vae.x", "conditioner.embedders.0.open_clip.model.x"])
def test_dtypes_that_are_not_read(name, checkpoints, tmp_path):
    """Tensors that are only kept aside must be read too, before anything is written."""
    target = rewritten(checkpoints["sv3d_u"], tmp_path / "f8.safetensors", extra=[(name, b"1234")])
    said = line(target, "diffusers")
    assert f"tensor {name} of dtype F8_E4M3" in said


def test_dtypes_that_are_not_read_beside_a_folder(folder):
    (folder / "sgm_only").mkdir()
    zeros = list_tensors([folder / "vae" / "diffusion_pytorch_model.safetensors"])
    name, tensor = next(iter(zeros.items()))
    file = folder / "sgm_only" / "model.safetensors"
    write_tensors(file, [(name, "F16", tensor.shape, lambda: read_tensor(tensor))])
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    count = math.prod(tensor.shape)
    header = {"x": {"dtype": "F8_E4M3", "shape": [2 * count], "data_offsets": [0, 2 * count]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    assert "tensor x of dtype F8_E4M3" in line(folder, "sgm")


def test_deep_configs(folder, checkpoints, tmp_path):
    (folder / "unet" / "config.json").write_text(DEEP)
    assert "config.json is not readable as JSON" in line(folder, "sgm")
    video = tmp_path / "video"
    convert_checkpoint(open_checkpoint(checkpoints["svd"]), "diffusers", video)
    (video / "unet" / "config.json").write_text(DEEP)
    with pytest.raises(WeightsError, match="config.json is not readable as JSON"):
        open_checkpoint(video)


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/secret.safetensors", "a/../../x.safetensors"])
def test_shards_outside_of_the_folder_are_refused(name, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(WeightsError, match="names the shard .*, which is not in its folder"):
        network_files(tmp_path)


@pytest.mark.parametrize(
    "name, message",
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "holds low-rank adapters .LoRA."),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "holds low-rank adapters .LoRA."),
        ("unet.mid_block.attn1.processor.to_q.lora.up.weight", "holds low-rank adapters .LoRA."),
        ("first_stage_model.decoder.conv_in.weight", "holds no UNet .1 tensors, such as first_stage_model"),
    ],
)
def test_files_that_hold_no_network_are_named_for_what_they_are(name, message, tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, [(name, "F32", (2, 3), lambda: np.zeros((2, 3), np.float32))])
    with pytest.raises(WeightsError, match=message) as error:
        open_checkpoint(path)
    assert "None" not in str(error.value)
