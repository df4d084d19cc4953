"""Name tables against the tensors that the public implementations really have, and the presets' sizes."""

import gzip
import pathlib

import numpy as np
import pytest

from im3d_jax.errors import WeightsError
from im3d_jax.models import is_temporal_parameter
from im3d_jax.weights.names.networks import autoencoder_shapes, autoencoder_table, count, unet_shapes, unet_table
from im3d_jax.weights.names.table import CONV, FRAMES, LINEAR, POINTWISE, check_complete, make_table
from im3d_jax.weights.presets import PRESETS, with_norm_eps
from im3d_jax.weights.trees import flatten


FOLDER = pathlib.Path(__file__).with_name("names")
SIZES = {
    "svd": (1428, 1_524_623_082, 374, 97_742_847),
    "svd_xt": (1428, 1_524_623_082, 374, 97_742_847),
    "sv3d_u": (1428, 1_523_967_722, 246, 83_653_843),
    "sv3d_p": (1428, 1_525_278_442, 246, 83_653_843),
    "sd15": (686, 859_520_964, 248, 83_653_863),
    "sd21": (686, 865_910_724, 248, 83_653_863),
    "sd21_base": (686, 865_910_724, 248, 83_653_863),
    "emu_video": (2805, 4_202_996_744, 248, 83_709_419),
}


@pytest.fixture(scope="module")
def shapes():
    """Shapes by config, each computed once."""
    made = {}
    for preset in PRESETS.values():
        if preset.unet not in made:
            made[preset.unet] = unet_shapes(preset.unet)
        if preset.autoencoder not in made:
            made[preset.autoencoder] = autoencoder_shapes(preset.autoencoder)
    return made


def listed(name):
    lines = gzip.open(FOLDER / f"{name}.txt.gz", "rt").read().splitlines()
    return {line.split()[0]: tuple(map(int, line.split()[1].split("x"))) for line in lines}


def named(table):
    return {entry.name: entry.shape for entry in table.values()}


def test_sizes(shapes):
    found = {name: (*count(shapes[p.unet]), *count(shapes[p.autoencoder])) for name, p in PRESETS.items()}
    assert found == SIZES


def test_temporal_parameters_of_svd(shapes):
    leaves = flatten(shapes[PRESETS["svd"].unet])
    temporal = {name: leaf for name, leaf in leaves.items() if is_temporal_parameter(name)}
    assert (len(temporal), sum(np.prod(leaf.shape) for leaf in temporal.values())) == (738, 656_076_838)


@pytest.mark.parametrize("family", ["svd", "sd15", "sd21"])
def test_diffusers_names(family, shapes):
    preset = PRESETS[family]
    unet = unet_table(preset, shapes[preset.unet], "diffusers")
    autoencoder = autoencoder_table(preset, shapes[preset.autoencoder], "diffusers")
    found = {f"unet/{name}": shape for name, shape in named(unet).items()}
    found |= {f"vae/{name}": shape for name, shape in named(autoencoder).items()}
    assert found == listed(f"diffusers_{family}")


@pytest.mark.parametrize("family", ["svd", "sv3d_u", "sv3d_p", "sd15", "sd21"])
def test_sgm_names(family, shapes):
    preset = PRESETS[family]
    found = named(unet_table(preset, shapes[preset.unet], "sgm"))
    found |= named(autoencoder_table(preset, shapes[preset.autoencoder], "sgm"))
    wanted = listed(f"sgm_{family}")
    # Video families hold a second encoder or decoder that their own samplers do not use.
    number = 3 if family == "svd" else 1
    spare = (f"conditioner.embedders.{number}.encoder.decoder.", f"conditioner.embedders.{number}.encoder.post_quant")
    spare += ("first_stage_model.encoder.",) if family == "svd" else ()
    spare = () if family.startswith("sd") else spare
    assert found == {name: shape for name, shape in wanted.items() if not name.startswith(spare)}


def test_old_attention_names(shapes):
    preset = PRESETS["sd15"]
    old = "decoder.mid_block.attentions.0.proj_attn.weight"
    table = autoencoder_table(preset, shapes[preset.autoencoder], "diffusers", [old])
    assert table["decoder.mid_block.attentions.0.to_out.0.kernel"].name == old
    assert table["encoder.mid_block.attentions.0.to_q.bias"].name == "encoder.mid_block.attentions.0.query.bias"


def test_no_sgm_layout_for_emu_video(shapes):
    preset = PRESETS["emu_video"]
    with pytest.raises(ValueError, match="no sgm layout"):
        unet_table(preset, shapes[preset.unet], "sgm")


@pytest.mark.parametrize(
    "layout, stored, ours",
    [
        (LINEAR, (5, 3), (3, 5)),
        (POINTWISE, (5, 3, 1, 1), (3, 5)),
        (CONV, (5, 3, 2, 4), (2, 4, 3, 5)),
        (FRAMES, (5, 3, 3, 1, 1), (3, 3, 5)),
    ],
)
def test_layouts_of_axes(layout, stored, ours):
    array = np.random.default_rng(0).normal(size=stored)
    converted = layout.from_file(array)
    assert converted.shape == ours and layout.file_shape(ours) == stored
    np.testing.assert_array_equal(layout.to_file(converted), array)
    # Output features are the file's first axis and our last.
    np.testing.assert_array_equal(converted[..., 4].ravel(), np.moveaxis(array[4], 0, -1).ravel())


def test_incomplete_tensors_are_listed():
    table = make_table({"a.kernel": (2, 3), "b.scale": (4,), "c.bias": (1,)}, prefix="net.")
    found = {"net.a.weight": (3, 2), "net.b.weight": (5,), "net.d.bias": (1,)}
    with pytest.raises(WeightsError) as error:
        check_complete(table, found, "FILE")
    message = str(error.value)
    assert "FILE" in message and "\n" not in message
    assert "1 tensors missing: net.c.bias" in message
    assert "1 tensors unknown: net.d.bias" in message
    assert "net.b.weight [5] (expected [4])" in message
    # What nobody uses may be there, but does not excuse what is wrong in what is used.
    with pytest.raises(WeightsError) as error:
        check_complete(table, found, "FILE", ["other.*", "net.*"])
    assert "unknown" not in str(error.value) and "missing: net.c.bias" in str(error.value)
    assert "net.b.weight [5] (expected [4])" in str(error.value)
    with pytest.raises(ValueError, match="share a name"):
        make_table({"a.kernel": (2, 3), "a.scale": (4,)})


def test_norm_eps_of_both_codes():
    svd = PRESETS["svd"]
    assert svd.norm_eps == "diffusers" and PRESETS["sv3d_p"].norm_eps == "sgm"
    assert svd.unet.down_eps == (1e-6, 1e-6, 1e-6, 1e-5) and svd.unet.up_eps == (1e-6,) * 4
    assert with_norm_eps(svd, "sgm").unet.down_eps == with_norm_eps(svd, "sgm").unet.up_eps == (1e-5,) * 4
    assert with_norm_eps(PRESETS["sd21"], "diffusers").unet == PRESETS["sd21"].unet
