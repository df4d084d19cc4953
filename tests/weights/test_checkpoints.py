"""Foreign checkpoints of small networks: both layouts there and back, loading, what is refused."""

import dataclasses
import gzip
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.models.clip import CLIPTextConfig, CLIPVisionConfig
from im3d_jax.parallel import fsdp_sharding, make_mesh
from im3d_jax.weights import checkpoints
from im3d_jax.weights.checkpoints import load_network, network_table, open_checkpoint, save_network
from im3d_jax.weights.conversion import OLD_ATTENTION, convert_checkpoint, diffusers_configs
from im3d_jax.weights.encoders import encoder_table, load_encoder
from im3d_jax.weights.names.networks import autoencoder_shapes, autoencoder_table, unet_shapes, unet_table
from im3d_jax.weights.presets import PRESETS
from im3d_jax.weights.tensor_files import DTYPES, StoredTensor, arranged, list_tensors, read_tensor, write_tensors
from im3d_jax.weights.trees import flatten


SVD = PRESETS["svd"]
TINY = dataclasses.replace(
    SVD,
    unet=dataclasses.replace(
        SVD.unet, channels=(8, 16), groups=4, layers_per_block=(1, 1), attention=(True, False), heads=(1, 2),
        context_dims=(6,), vector_dims=(4, 4, 4), down_eps=(1e-6, 1e-5), up_eps=(1e-6, 1e-6),
    ),
    autoencoder=dataclasses.replace(SVD.autoencoder, channels=(8, 16), groups=4),
    image_encoder=CLIPVisionConfig(width=16, layers=2, heads=2, hidden=32, projection=6, image_size=8, patch=4),
)  # fmt: skip
FILE = "diffusion_pytorch_model.safetensors"
OPEN_CLIP = "conditioner.embedders.0.open_clip.model."
SPARE = [OPEN_CLIP + "logit_scale", "conditioner.embedders.3.encoder.decoder.x", "first_stage_model.encoder.y"]


def contents(*files):
    return {name: (t.dtype, t.shape, read_tensor(t).tobytes()) for name, t in list_tensors(files).items()}


def write(path, shapes, dtype="F16"):
    """A file of random tensors of given names and shapes."""
    rng = np.random.default_rng(0)
    values = lambda shape: rng.normal(size=shape).astype(DTYPES[dtype])  # noqa: E731
    write_tensors(path, [(name, dtype, shape, lambda s=shape: values(s)) for name, shape in shapes.items()])


def names_of_full_size(name):
    path = pathlib.Path(__file__).with_name("names") / f"{name}.txt.gz"
    lines = gzip.open(path, "rt").read().splitlines()
    return {n: StoredTensor(pathlib.Path(), tuple(map(int, s.split("x"))), "F16") for n, s in map(str.split, lines)}


@pytest.fixture(scope="module")
def sgm_file(tmp_path_factory):
    """A file as Stability AI's: three networks in three dtypes, and tensors that nobody uses."""
    path = tmp_path_factory.mktemp("sgm") / "svd.safetensors"
    unet = unet_table(TINY, unet_shapes(TINY.unet), "sgm")
    autoencoder = autoencoder_table(TINY, autoencoder_shapes(TINY.autoencoder), "sgm")
    entries = encoder_table(TINY.image_encoder, "open_clip", OPEN_CLIP).entries
    encoder = {entry.name: entry.shape for entry in entries.values()}
    rng = np.random.default_rng(0)

    def make(shape, dtype):
        return np.asarray(10 * rng.normal(size=shape)).astype(DTYPES[dtype])

    items = []
    for dtype, shapes in (
        ("F16", {e.name: e.shape for e in unet.values()}),
        ("F32", {e.name: e.shape for e in autoencoder.values()}),
        ("BF16", {**encoder, SPARE[0]: ()}),
        ("I64", {SPARE[1]: (3,), SPARE[2]: (2, 2)}),
    ):
        items += [(name, dtype, s, lambda s=s, dtype=dtype: make(s, dtype)) for name, s in shapes.items()]
    write_tensors(path, items, {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def folder(sgm_file, tmp_path_factory):
    """The same as a diffusers folder."""
    path = tmp_path_factory.mktemp("diffusers") / "svd"
    counts = convert_checkpoint(open_checkpoint(sgm_file, preset=TINY), "diffusers", path)
    assert counts["aside"] == 3
    return path


def test_sgm_file_and_back(sgm_file, folder, tmp_path):
    again = open_checkpoint(folder, preset=TINY)
    assert again.layout == "diffusers" and again.preset.norm_eps == "sgm" and again.preset.autoencoder.temporal_decoder
    convert_checkpoint(again, "sgm", tmp_path / "again.safetensors")
    assert contents(tmp_path / "again.safetensors") == contents(sgm_file)


@pytest.mark.parametrize(
    "family, layout, prefix",
    [
        ("sd15", "transformers", "cond_stage_model.transformer.text_model."),
        ("sd21", "open_clip", "cond_stage_model.model."),
        ("sd21", "open_clip", "conditioner.embedders.0.model."),
    ],
)
def test_text_encoders_there_and_back(family, layout, prefix, tmp_path):
    sd = PRESETS[family]
    sizes = {
        name: getattr(TINY.unet, name) for name in ("channels", "groups", "layers_per_block", "attention", "heads")
    }
    unet = dataclasses.replace(sd.unet, **sizes, context_dims=(6,), down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2)
    text = CLIPTextConfig(vocabulary=9, length=4, width=8, layers=2, heads=2, hidden=16, end_token=8)
    autoencoder = dataclasses.replace(sd.autoencoder, channels=(8, 16), groups=4)
    preset = dataclasses.replace(sd, unet=unet, autoencoder=autoencoder, text_encoders=(text,))
    shapes = {e.name: e.shape for e in unet_table(preset, unet_shapes(unet), "sgm").values()}
    shapes |= {e.name: e.shape for e in autoencoder_table(preset, autoencoder_shapes(autoencoder), "sgm").values()}
    shapes |= {entry.name: entry.shape for entry in encoder_table(text, layout, prefix).entries.values()}
    # The last layer, which Stable Diffusion 2.1 does not use, and a buffer.
    shapes |= {prefix + "transformer.resblocks.2.ln_1.weight": (8,), "alphas_cumprod": (1000,)}
    write(tmp_path / "one.safetensors", shapes)
    counts = convert_checkpoint(
        open_checkpoint(tmp_path / "one.safetensors", preset=preset), "diffusers", tmp_path / "two"
    )
    assert counts["aside"] == 2
    stored = contents(tmp_path / "two" / "text_encoder" / "model.safetensors")
    assert "text_model.encoder.layers.1.self_attn.q_proj.weight" in stored
    convert_checkpoint(open_checkpoint(tmp_path / "two", preset=preset), "sgm", tmp_path / "three.safetensors")
    assert contents(tmp_path / "three.safetensors") == contents(tmp_path / "one.safetensors")


def test_diffusers_folder_and_back(folder, tmp_path):
    # A buffer that only this layout has.
    extra = {**contents(folder / "image_encoder" / "model.safetensors")}
    source = tmp_path / "source"
    for file in folder.rglob("*"):
        if file.is_file():
            target = source / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    tensors = list_tensors([folder / "image_encoder" / "model.safetensors"])
    items = [(n, t.dtype, t.shape, lambda t=t: read_tensor(t)) for n, t in tensors.items()]
    items.append(("vision_model.embeddings.position_ids", "I64", (1, 5), lambda: np.arange(5)[None]))
    write_tensors(source / "image_encoder" / "model.safetensors", items)
    assert len(contents(source / "image_encoder" / "model.safetensors")) == len(extra) + 1
    convert_checkpoint(open_checkpoint(source, preset=TINY), "sgm", tmp_path / "one.safetensors")
    convert_checkpoint(open_checkpoint(tmp_path / "one.safetensors", preset=TINY), "diffusers", tmp_path / "again")
    for file in source.rglob("*.safetensors"):
        assert contents(file) == contents(tmp_path / "again" / file.relative_to(source)), file.name
    for file in source.rglob("*.json"):
        assert file.read_text() == (tmp_path / "again" / file.relative_to(source)).read_text()


def test_old_attention_names_come_back(folder, tmp_path):
    vae = list_tensors([folder / "vae" / FILE])
    checkpoint = open_checkpoint(folder, preset=TINY)
    table = autoencoder_table(TINY, autoencoder_shapes(TINY.autoencoder), "diffusers", [OLD_ATTENTION])
    old = tmp_path / "old"
    (old / "unet").mkdir(parents=True)
    (old / "vae").mkdir()
    (old / "unet" / FILE).write_bytes((folder / "unet" / FILE).read_bytes())
    save_network(old / "vae" / FILE, load_network(checkpoint, "vae"), table)
    assert OLD_ATTENTION in contents(old / "vae" / FILE) and OLD_ATTENTION not in vae
    convert_checkpoint(open_checkpoint(old, preset=TINY), "sgm", tmp_path / "one.safetensors")
    convert_checkpoint(open_checkpoint(tmp_path / "one.safetensors", preset=TINY), "diffusers", tmp_path / "again")
    assert contents(tmp_path / "again" / "vae" / FILE) == contents(old / "vae" / FILE)


@pytest.mark.parametrize("network", ["unet", "vae"])
def test_both_layouts_load_alike(sgm_file, folder, network):
    one = load_network(open_checkpoint(sgm_file, preset=TINY), network)
    two = load_network(open_checkpoint(folder, preset=TINY), network, dtype=jnp.bfloat16)
    expected = np.float16 if network == "unet" else np.float32
    assert all(leaf.dtype == expected for leaf in jax.tree.leaves(one))
    for name, leaf in flatten(two).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, np.asarray(flatten(one)[name]).astype(jnp.bfloat16))


def test_axes_of_what_is_loaded(sgm_file):
    parameters = flatten(load_network(open_checkpoint(sgm_file, preset=TINY), "unet"))
    tensors = list_tensors([sgm_file])
    prefix = "model.diffusion_model.input_blocks.1."
    conv = read_tensor(tensors[prefix + "0.in_layers.2.weight"])
    frames = read_tensor(tensors[prefix + "0.time_stack.in_layers.2.weight"])
    linear = read_tensor(tensors[prefix + "1.time_stack.0.ff_in.net.0.proj.weight"])
    block = "down_blocks.0.resnets.0."
    np.testing.assert_array_equal(parameters[block + "spatial_res_block.conv1.kernel"], conv.transpose(2, 3, 1, 0))
    ours = parameters[block + "temporal_res_block.conv1.kernel"]
    np.testing.assert_array_equal(ours, frames[..., 0, 0].transpose(2, 1, 0))
    name = "down_blocks.0.attentions.0.temporal_transformer_blocks.0.ff_in.net.0.proj.kernel"
    np.testing.assert_array_equal(parameters[name], linear.T)


def test_the_encoder_is_found_in_both(sgm_file, folder):
    (path, within), (other, nothing) = (open_checkpoint(p, preset=TINY).encoder for p in (sgm_file, folder))
    assert within == "conditioner.embedders.0." and nothing == "" and other == folder / "image_encoder"
    one, two = load_encoder(path, TINY.image_encoder, within=within), load_encoder(other, TINY.image_encoder)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_export_writes_what_was_loaded(folder, tmp_path):
    checkpoint = open_checkpoint(folder, preset=TINY)
    _, table = network_table(checkpoint, "unet")
    save_network(tmp_path / "unet.safetensors", load_network(checkpoint, "unet"), table)
    assert contents(tmp_path / "unet.safetensors") == contents(folder / "unet" / FILE)


def test_sharded_loading_equals_plain(folder):
    """Eight devices, in a process of their own."""
    checkpoint = open_checkpoint(folder, preset=TINY)
    one = load_network(checkpoint, "vae", sharding=lambda shapes: fsdp_sharding(make_mesh(fsdp=1), shapes, 1))
    jax.tree.map(np.testing.assert_array_equal, one, load_network(checkpoint, "vae"))
    code = f"""
import os
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
import jax, numpy as np
from tests.weights import test_checkpoints as tests
checkpoint = tests.open_checkpoint({str(folder)!r}, preset=tests.TINY)
place = lambda shapes: tests.fsdp_sharding(tests.make_mesh(data=2, fsdp=4), shapes, 1)
sharded = tests.load_network(checkpoint, "unet", sharding=place)
jax.tree.map(np.testing.assert_array_equal, sharded, tests.load_network(checkpoint, "unet"))
split = [a for a in jax.tree.leaves(sharded) if not a.is_fully_replicated]
assert len(split) > 100 and all(a.addressable_shards[0].data.size * 4 == a.size for a in split)
"""
    root = pathlib.Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=root)


@pytest.mark.parametrize("family", ["svd", "sv3d_u", "sv3d_p", "sd15", "sd21"])
def test_families_are_told_from_full_size_tensors(family):
    tensors = names_of_full_size(f"sgm_{family}")
    preset = checkpoints._preset(None, tensors, {}, pathlib.Path("file"))
    assert preset.name == {"svd": "svd_xt"}.get(family, family)
    buffer = {"alphas_cumprod": StoredTensor(pathlib.Path(), (1000,), "F32")}
    opened = checkpoints._open_sgm(pathlib.Path("file"), {**tensors, **buffer}, {}, preset)
    spare = {"svd": 246, "sv3d_u": 140, "sv3d_p": 140}.get(family, 0)
    assert len(opened.aside) == spare + 1
    assert sum(map(len, opened.networks.values())) == len(tensors) - spare
    assert opened.preset.autoencoder == PRESETS[family].autoencoder
    assert opened.preset.norm_eps == "sgm"


def test_configs_say_which_of_two_alike(tmp_path):
    tensors = {n.removeprefix("unet/"): t for n, t in names_of_full_size("diffusers_svd").items()}
    assert checkpoints._preset(None, tensors, {"num_frames": 14}, tmp_path).name == "svd"
    assert checkpoints._preset(None, tensors, {"num_frames": 25}, tmp_path).name == "svd_xt"
    tensors = {n.removeprefix("unet/"): t for n, t in names_of_full_size("diffusers_sd21").items()}
    assert checkpoints._preset(None, tensors, {}, tmp_path).name == "sd21"
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "epsilon"}))
    assert checkpoints._preset(None, tensors, {}, tmp_path).name == "sd21_base"


@pytest.mark.parity
@pytest.mark.parametrize("family", ["svd", "sd15", "sd21"])
def test_configs_build_the_same_networks_in_diffusers(family):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    found = {}
    for folder, config in diffusers_configs(PRESETS[family]).items():
        with torch.device("meta"):
            model = getattr(diffusers, config["_class_name"]).from_config(config)
        found |= {f"{folder}/{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in names_of_full_size(f"diffusers_{family}").items()}


def refused(path, match, **arguments):
    with pytest.raises(WeightsError, match=match) as error:
        checkpoint = open_checkpoint(path, **(arguments or dict(preset=TINY)))
        network_table(checkpoint, "unet")
        network_table(checkpoint, "vae")
    assert "\n" not in str(error.value)


def test_files_that_are_refused(sgm_file, tmp_path):
    refused(tmp_path / "none.safetensors", "the file is missing")
    refused(tmp_path, "no safetensors file in")
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04 and so on")
    refused(tmp_path / "model.ckpt", "is a pickle")
    refused(tmp_path, "is a pickle")
    data = sgm_file.read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "short.safetensors", "not a whole safetensors file")
    refused(sgm_file, "unknown family 'svd3'.*expected one of svd, svd_xt", family="svd3")
    write(tmp_path / "odd.safetensors", {"conv_in.weight": (8, 5, 3, 3)})
    refused(tmp_path / "odd.safetensors", "no known family.*5 input channels", family=None)


def test_tensors_that_do_not_belong(sgm_file, tmp_path):
    tensors = list_tensors([sgm_file])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    target = tmp_path / "changed.safetensors"
    first = "model.diffusion_model.input_blocks.0.0.weight"

    write(target, {name: shape for name, shape in shapes.items() if name != first})
    refused(target, f"1 tensors missing: {first}")
    write(target, {**shapes, first: (8, 8, 3, 5)})
    refused(target, r"input_blocks.0.0.weight \[8, 8, 3, 5\] \(expected \[8, 8, 3, 3\]\)")
    write(target, {**shapes, "model.diffusion_model.new": (1,)})
    refused(target, "1 tensors unknown: model.diffusion_model.new")
    last, query = OPEN_CLIP + "visual.ln_post.bias", OPEN_CLIP + "visual.transformer.resblocks.0.attn.in_proj_bias"
    write(target, {name: shape for name, shape in {**shapes, query: (3,)}.items() if name != last})
    with pytest.raises(WeightsError, match=f"1 tensors missing: {last}.*in_proj_bias .3. .expected"):
        convert_checkpoint(open_checkpoint(target, preset=TINY), "diffusers", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    write(target, {**shapes, "first_stage_model.decoder.new": (1,)})
    refused(target, "1 tensors unknown: first_stage_model.decoder.new")
    write(target, {**shapes, "lora.up": (1,)})
    refused(target, "1 tensors that no svd checkpoint has: lora.up")


def test_shards(folder, tmp_path):
    unet = contents(folder / "unet" / FILE)
    tensors = list_tensors([folder / "unet" / FILE])
    parts = {"a.safetensors": sorted(unet)[::2], "b.safetensors": sorted(unet)[1::2]}
    for name, members in parts.items():
        read = lambda n: (n, tensors[n].dtype, tensors[n].shape, lambda: read_tensor(tensors[n]))  # noqa: E731
        write_tensors(tmp_path / name, [read(member) for member in members])
    index = {"weight_map": {member: name for name, members in parts.items() for member in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(tmp_path, preset=TINY)
    whole = load_network(open_checkpoint(folder, preset=TINY), "unet")
    jax.tree.map(np.testing.assert_array_equal, load_network(checkpoint, "unet"), whole)
    (tmp_path / "b.safetensors").unlink()
    refused(tmp_path, r"lacks 1 of the 2 shards .*b\.safetensors")


def test_conversions_that_are_refused(sgm_file, folder, tmp_path):
    checkpoint = open_checkpoint(sgm_file, preset=TINY)
    with pytest.raises(WeightsError, match="has the sgm layout already"):
        convert_checkpoint(checkpoint, "sgm", tmp_path / "new")
    with pytest.raises(WeightsError, match="exists: give a new folder"):
        convert_checkpoint(checkpoint, "diffusers", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", [np.float32, ml_dtypes.bfloat16])
def test_tensors_are_cast_and_moved_and_no_view_is_left(stored, wanted):
    values = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(stored)
    for view in (values.transpose(2, 3, 1, 0), values):
        made = arranged(view, wanted)
        np.testing.assert_array_equal(made, view.astype(wanted))
        assert made.dtype == wanted and made.flags.c_contiguous and not np.shares_memory(made, values)
