"""Encoder tables: true sizes, both layouts, files that hold more, and files that are wrong."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from im3d_jax.errors import WeightsError
from im3d_jax.models import clip, t5
from im3d_jax.weights.encoders import detect_layout, encoder_shapes, encoder_table, load_encoder
from im3d_jax.weights.trees import flatten


TEXT = clip.CLIPTextConfig(vocabulary=20, length=6, width=8, layers=2, heads=2, hidden=12, projection=5)
VISION = clip.CLIPVisionConfig(image_size=14, patch=7, width=8, layers=2, heads=2, hidden=12, projection=5)
T5 = t5.T5Config(vocabulary=20, width=8, head_dim=3, heads=2, hidden=12, layers=2)
SGM = "conditioner.embedders.0.open_clip.model."


def counted(config):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(encoder_shapes(config)))


# Counted on the meta device with transformers 5.23.0; ViT-H's tower also by Stability's log of SV3D: 683,800,065 less
# OpenCLIP's token and position embeddings, final norm, text projection and temperature.
@pytest.mark.parametrize(
    "config, expected",
    [
        (clip.CLIP_TEXT_L14, 123_060_480),
        (dataclasses.replace(clip.CLIP_TEXT_L14, projection=768), 123_650_304),
        (clip.OPENCLIP_TEXT_H, 340_387_840),
        (clip.CLIP_VISION_H14, 632_076_800),
        (clip.CLIP_VISION_H14, 683_800_065 - 49408 * 1024 - 77 * 1024 - 2 * 1024 - 1024 * 1024 - 1),
        (clip.CLIP_VISION_L14, 303_966_208),
        (t5.T5_XL, 1_223_527_424),
        (t5.T5_XXL, 4_762_310_656),
    ],
)
def test_true_sizes(config, expected):
    assert counted(config) == expected


def drawn(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def stored_shapes(config, layout, prefix):
    return {entry.name: entry.shape for entry in encoder_table(config, layout, prefix).entries.values()}


def as_open_clip(named, vision):
    """OpenCLIP's arrangement of a transformers model, written independently of the tables."""
    tower = "visual." if vision else ""
    result = {}

    def put(theirs, ours, change=lambda a: a):
        result[tower + theirs] = np.ascontiguousarray(change(named.pop(ours)))

    outer = "vision_model." if vision else "text_model."
    put("positional_embedding", outer + "embeddings.position_embedding.weight")
    if vision:
        put("class_embedding", outer + "embeddings.class_embedding")
        put("conv1.weight", outer + "embeddings.patch_embedding.weight")
        put("proj", "visual_projection.weight", np.transpose)
        norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
    else:
        put("token_embedding.weight", outer + "embeddings.token_embedding.weight")
        put("text_projection", "text_projection.weight", np.transpose)
        norms = {"final_layer_norm": "ln_final"}
    for kind in ("weight", "bias"):
        for ours, theirs in norms.items():
            put(f"{theirs}.{kind}", f"{outer}{ours}.{kind}")
        for i in range(2):
            ours, theirs = f"{outer}encoder.layers.{i}.", f"transformer.resblocks.{i}."
            parts = [named.pop(f"{ours}self_attn.{part}_proj.{kind}") for part in ("q", "k", "v")]
            result[f"{tower}{theirs}attn.in_proj_{kind}"] = np.concatenate(parts)
            put(f"{theirs}attn.out_proj.{kind}", f"{ours}self_attn.out_proj.{kind}")
            for number in (1, 2):
                put(f"{theirs}ln_{number}.{kind}", f"{ours}layer_norm{number}.{kind}")
            put(f"{theirs}mlp.c_fc.{kind}", f"{ours}mlp.fc1.{kind}")
            put(f"{theirs}mlp.c_proj.{kind}", f"{ours}mlp.fc2.{kind}")
    assert not named
    return result


@pytest.mark.parametrize("config", [TEXT, VISION])
def test_both_layouts_give_the_same_parameters(config, tmp_path):
    vision = config is VISION
    named = drawn(stored_shapes(config, "transformers", "vision_model." if vision else "text_model."))
    other = {"text_model.x.weight" if vision else "vision_model.x.weight": np.zeros(3, np.float32)}
    extra = {"logit_scale": np.zeros((), np.float32)}
    positions = {("vision_model" if vision else "text_model") + ".embeddings.position_ids": np.arange(6)[None]}
    save_file(named | other | extra | positions, tmp_path / "transformers.safetensors")
    rest = {"ln_final.bias": np.zeros(3, np.float32)} if vision else {"visual.conv1.weight": np.zeros(3, np.float32)}
    single = {SGM + name: array for name, array in (as_open_clip(dict(named), vision) | extra | rest).items()}
    save_file(single | {"model.unet.weight": np.zeros(2, np.float32)}, tmp_path / "single.safetensors")

    first = load_encoder(tmp_path / "transformers.safetensors", config)
    second = load_encoder(tmp_path / "single.safetensors", config, within=SGM)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    flat = flatten(first)
    name = "encoder.layers.1.mlp.fc1"
    stem = "vision_model." if vision else "text_model."
    np.testing.assert_array_equal(flat[name + ".kernel"], named[stem + name + ".weight"].T)
    with pytest.raises(WeightsError, match="unknown.*model.unet.weight"):
        load_encoder(tmp_path / "single.safetensors", config)


def test_the_last_layer_of_openclip_may_be_left_out(tmp_path):
    config = dataclasses.replace(TEXT, projection=None)
    named = drawn(stored_shapes(config, "open_clip", "cond_stage_model.model."))
    last = {name.replace(".1.", ".2."): array for name, array in named.items() if ".resblocks.1." in name}
    save_file(named | last, tmp_path / "model.safetensors")
    shallow = load_encoder(tmp_path, config, within="cond_stage_model.")
    deep = load_encoder(tmp_path, dataclasses.replace(config, layers=3, skip_last=1), within="cond_stage_model.")
    for name, value in flatten(shallow).items():
        np.testing.assert_array_equal(value, flatten(deep)[name])
    with pytest.raises(WeightsError, match="12 tensors unknown"):
        load_encoder(tmp_path, dataclasses.replace(config, layers=1))


def test_the_patch_kernel_is_transposed():
    entry = encoder_table(VISION).entries["embeddings.patch_embedding.kernel"]
    stored = np.arange(np.prod(entry.shape)).reshape(entry.shape)
    taken = entry.take(stored)
    assert taken.shape == flatten(encoder_shapes(VISION))["embeddings.patch_embedding.kernel"].shape
    assert taken[1, 2, 0, 1] == stored[1, 0, 1, 2]


def test_t5_leaves_decoder_and_tied_embedding_aside_and_places_stored_dtypes(tmp_path):
    named = {
        name: array.astype(ml_dtypes.bfloat16) for name, array in drawn(stored_shapes(T5, "transformers", "")).items()
    }
    shards = [dict(list(named.items())[:9]), dict(list(named.items())[9:])]
    shards[1]["encoder.embed_tokens.weight"] = named["shared.weight"]
    shards[1]["decoder.final_layer_norm.weight"] = np.zeros(8, np.float32)
    where = {}
    for i, shard in enumerate(shards):
        save_file(shard, tmp_path / f"model-{i}.safetensors")
        where |= dict.fromkeys(shard, f"model-{i}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    placed = {}

    def place(name, array):
        placed[name] = array.dtype
        return array.astype(np.float32)

    flat = flatten(load_encoder(tmp_path, T5, place=place))
    assert set(placed) == set(flat) and set(placed.values()) == {np.dtype(ml_dtypes.bfloat16)}
    np.testing.assert_array_equal(flat["shared.weight"], named["shared.weight"].astype(np.float32))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match="lacks 1 of the 2 shards.*model-1.safetensors"):
        load_encoder(tmp_path, T5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda named: named.pop("text_model.final_layer_norm.bias"), "1 tensors missing: .*final_layer_norm.bias"),
        (lambda named: named.update(odd=np.zeros(2, np.float32)), "1 tensors unknown: odd"),
        (
            lambda named: named.update({"text_projection.weight": np.zeros((8, 5), np.float32)}),
            r"another shape: text_projection.weight \[8, 5\] \(expected \[5, 8\]\)",
        ),
        (lambda named: named.pop("text_model.embeddings.token_embedding.weight"), "no CLIP text encoder"),
    ],
)
def test_wrong_files_are_one_line(change, message, tmp_path):
    named = drawn(stored_shapes(TEXT, "transformers", "text_model."))
    change(named)
    save_file(named, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message) as error:
        load_encoder(tmp_path / "model.safetensors", TEXT)
    assert "\n" not in str(error.value)


def test_damaged_and_ambiguous_places(tmp_path):
    with pytest.raises(WeightsError, match="no safetensors file in"):
        load_encoder(tmp_path, TEXT)
    for content, message in (
        (b"\x80\x02 not weights", "is a pickle"),
        (b"{} not weights", "not a whole safetensors file"),
    ):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            load_encoder(tmp_path, TEXT)
    names = ["a.embeddings.token_embedding.weight", "b.embeddings.token_embedding.weight"]
    with pytest.raises(WeightsError, match="more than one CLIP text encoder"):
        detect_layout(names, TEXT)
    assert detect_layout(["x.visual.class_embedding"], VISION) == ("open_clip", "x.")
