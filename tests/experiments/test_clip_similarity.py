"""CLIP similarities from folders in both layouts, against cosines in numpy and transformers' own model."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

from experiments.evaluation import clip_folders
from im3d_jax.errors import InputError
from im3d_jax.models import clip_images
from im3d_jax.weights.encoders import encoder_network, encoder_table


PROMPT = "a red mug"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = SIZES | {"max_position_embeddings": 9, "hidden_act": "gelu"}
VISION = SIZES | {"image_size": 28, "patch_size": 14, "hidden_act": "gelu"}


def write_tokenizer(folder):
    """A byte-pair vocabulary of few merges; returns its size."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = ["r e", "re d</w>", "m u", "mu g</w>"]
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(tokens)


def weights_of(config, layout, prefix, seed):
    rng, entries = np.random.default_rng(seed), encoder_table(config, layout, prefix).entries
    return {entry.name: (rng.normal(size=entry.shape) * 0.3).astype(np.float32) for entry in entries.values()}


def write_clip(folder, layout="transformers"):
    """A random tiny CLIP; returns the folder."""
    folder.mkdir(exist_ok=True)
    text, vision = TEXT | {"vocab_size": write_tokenizer(folder)}, VISION
    config = {"text_config": text, "vision_config": vision, "projection_dim": 12}
    (folder / "config.json").write_text(json.dumps(config))
    _, ours_text, ours_vision = clip_folders._transformers(folder / "config.json")
    if layout == "transformers":
        named = weights_of(ours_text, layout, "text_model.", 1) | weights_of(ours_vision, layout, "vision_model.", 2)
        save_file(named | {"logit_scale": np.zeros((), np.float32)}, folder / "model.safetensors")
        return folder
    (folder / "config.json").unlink()
    tower = {"width": 16, "layers": 2, "mlp_ratio": 1.5}
    sizes = {
        "embed_dim": 12,
        "vision_cfg": tower | {"image_size": 28, "patch_size": 14, "head_width": 8},
        "text_cfg": tower | {"context_length": 9, "vocab_size": text["vocab_size"], "heads": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes}))
    named = weights_of(ours_text, layout, "", 1) | weights_of(ours_vision, layout, "", 2)
    save_file(named | {"logit_scale": np.zeros((), np.float32)}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "weights")


@pytest.fixture(scope="module")
def clip(folder):
    return clip_folders.load_clip(folder)


@pytest.fixture(scope="module")
def views():
    """A red, a green and a blue picture with noise, and a hole."""
    views = np.random.default_rng(3).uniform(size=(3, 40, 40, 4)).astype(np.float32)
    views[..., :3] *= np.eye(3, dtype=np.float32)[:, None, None]
    views[..., 3] = 1
    views[:, 10:20, 5:30, 3] = 0
    return views


def composite(rgba):
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def test_similarities_are_mean_cosines(clip, views):
    vision, text = encoder_network(clip.vision.config), encoder_network(clip.text.config)
    pixels = clip_images.similarity_pixels(composite(views), 28)
    seen = vision.apply({"params": clip.vision_params}, pixels).pooled
    read = text.apply({"params": clip.text_params}, clip.tokenizer([PROMPT])[0]).pooled[0]
    found = clip.similarities(views, prompt=PROMPT, image=views[0])
    assert found["clip_text"] == pytest.approx(np.mean([cosine(one, read) for one in seen]), abs=1e-5)
    assert found["clip_image"] == pytest.approx(np.mean([cosine(one, seen[0]) for one in seen]), abs=1e-5)
    assert found["clip_image"] < 1 - 1e-4
    assert clip.similarities(views[:1], image=views[0]) == {"clip_image": pytest.approx(1, abs=1e-6)}
    np.testing.assert_allclose(np.linalg.norm(clip.embed_images(views), axis=1), 1, atol=1e-6)


def test_the_backbone_is_named(clip, folder, tmp_path):
    name, _, digest = clip.backbone.rpartition(" ")
    assert name == "CLIP ViT, 2 layers of 16, 14px patches at 28px, SHA-256"
    assert digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    # Of shards, all count.
    names = []
    for change in (0, 1):
        shards = tmp_path / f"shards{change}"
        shutil.copytree(folder, shards)
        (shards / "model.safetensors").unlink()
        tensors = sorted(load_file(folder / "model.safetensors").items())
        parts = {f"model-{n}-of-2.safetensors": dict(tensors[n - 1 :: 2]) for n in (1, 2)}
        parts["model-2-of-2.safetensors"]["logit_scale"] = np.full((), change, np.float32)
        parts["model-1-of-2.safetensors"].pop("logit_scale", None)
        for file, part in parts.items():
            save_file(part, shards / file)
        weight_map = {tensor: file for file, part in parts.items() for tensor in part}
        (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        names.append(clip_folders.load_clip(shards).backbone)
    assert len({clip.backbone, *names}) == 3


HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}
IMAGE_HALVES = {f"image_{name}": value for name, value in HALVES.items()}


def add_preprocessing(folder, fields):
    """States the preprocessing as the folder's layout does."""
    if (folder / "open_clip_config.json").is_file():
        config = json.loads((folder / "open_clip_config.json").read_text())
        (folder / "open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": fields}))
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        ("open_clip", HALVES | {"interpolation": "bicubic", "resize_mode": "shortest", "size": [28, 28]}),
        ("open_clip", {"mean": 0.5, "std": 0.5}),
        ("transformers", IMAGE_HALVES | {"resample": 3, "size": 28, "crop_size": 28, "do_resize": True}),
        ("transformers", IMAGE_HALVES | {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}),
    ],
)
def test_the_weights_own_mean_and_deviation(tmp_path, views, layout, fields):
    folder = write_clip(tmp_path / "clip", layout)
    usual = clip_folders.load_clip(folder)
    np.testing.assert_allclose((usual.mean, usual.std), (clip_images.CLIP_MEAN, clip_images.CLIP_STD))
    add_preprocessing(folder, fields)
    clip = clip_folders.load_clip(folder)
    pixels = 2 * clip_images.resize_and_crop(composite(views), 28) - 1
    seen = encoder_network(clip.vision.config).apply({"params": clip.vision_params}, pixels).pooled
    seen = np.asarray(seen) / np.linalg.norm(seen, axis=1, keepdims=True)
    np.testing.assert_allclose(clip.embed_images(views), seen, atol=1e-5)
    assert np.abs(usual.embed_images(views) - seen).max() > 1e-3


def test_the_other_layouts_preprocessing_counts_where_its_own_is_missing(tmp_path):
    folder = write_clip(tmp_path / "clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": HALVES}))
    assert clip_folders.load_clip(folder).mean == (0.5,) * 3
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {"image_mean": [0.25] * 3}}))
    assert clip_folders.load_clip(folder).mean == (0.25,) * 3


@pytest.mark.parametrize(
    ("layout", "field", "value"),
    [
        ("open_clip", "resize_mode", "squash"),
        ("open_clip", "interpolation", "bilinear"),
        ("open_clip", "mode", "L"),
        ("open_clip", "size", 32),
        ("open_clip", "mean", [0.5, 0.5]),
        ("open_clip", "std", [0.5, 0.0, 0.5]),
        ("transformers", "resample", 2),
        ("transformers", "size", {"height": 28, "width": 28}),
        ("transformers", "size", 32),
        ("transformers", "crop_size", 24),
        ("transformers", "do_center_crop", False),
        ("transformers", "rescale_factor", 1.0),
        ("transformers", "image_processor_type", "SiglipImageProcessor"),
        ("transformers", "image_mean", "grey"),
    ],
)
def test_a_preprocessing_that_is_not_ours_is_refused(tmp_path, layout, field, value):
    folder = write_clip(tmp_path / "clip", layout)
    add_preprocessing(folder, {field: value})
    with pytest.raises(InputError, match=rf"{field} is .*; expected"):
        clip_folders.load_clip(folder)


def test_both_layouts_are_read(tmp_path, views):
    one = clip_folders.load_clip(write_clip(tmp_path / "open", "open_clip"))
    assert one.backbone.startswith("OpenCLIP ViT, 2 layers of 16, 14px")
    found = one.similarities(views, prompt=PROMPT, image=views[0])
    # A colour that changes nothing under zero alpha must not count.
    hidden = np.where(views[..., 3:] > 0, views, np.float32([0.5, 0.5, 0.5, 0]))
    assert not np.array_equal(hidden, views)
    assert found == one.similarities(hidden, prompt=PROMPT, image=views[0])
    theirs = clip_folders._open_clip(tmp_path / "open" / "open_clip_config.json")[1:]
    write_clip(tmp_path / "both")
    ours = clip_folders._transformers(tmp_path / "both" / "config.json")[1:]
    assert theirs == ours


def test_true_sizes_of_known_files(tmp_path):
    """The fields that laion's ViT-H/14 and OpenAI's ViT-L/14 state."""
    from im3d_jax.models import clip

    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32}
    config = {"projection_dim": 1024, "text_config": text | {"hidden_act": "gelu"}}
    config["vision_config"] = vision | {"hidden_act": "gelu", "patch_size": 14}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, text, vision = clip_folders._transformers(tmp_path / "config.json")
    assert vision == clip.CLIP_VISION_H14
    assert text == dataclasses.replace(clip.OPENCLIP_TEXT_H, layers=24, projection=1024)
    tower = {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
    words = {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}
    model = {"model_cfg": {"embed_dim": 1024, "vision_cfg": tower, "text_cfg": words}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(model))
    assert clip_folders._open_clip(tmp_path / "open_clip_config.json")[1:] == (text, vision)


def test_wrong_folders_are_one_line(tmp_path, folder):
    with pytest.raises(InputError, match="no such folder"):
        clip_folders.load_clip(tmp_path / "none")
    with pytest.raises(InputError, match="neither a config.json of CLIP"):
        clip_folders.load_clip(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        clip_folders.load_clip(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    wrong = {"vision_config": {"patch_size": "14"}, "text_config": {"hidden_act": "relu"}}
    for part, message in (("vision_config", "patch is '14'"), ("text_config", "unknown activation 'relu'")):
        (tmp_path / "config.json").write_text(json.dumps(config | {part: config[part] | wrong[part]}))
        with pytest.raises(InputError, match=message):
            clip_folders.load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="tokenizer"):
        clip_folders.load_clip(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no safetensors file"):
        clip_folders.load_clip(tmp_path)
    (tmp_path / "config.json").unlink()
    for change in ({"timm_model_name": "x"}, {"layers": [1, 2]}):
        model = {"embed_dim": 12, "vision_cfg": {"width": 16, **change}, "text_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
        with pytest.raises(InputError, match="a tower that is not read"):
            clip_folders.load_clip(tmp_path)


@pytest.mark.parity
def test_as_in_transformers(tmp_path, views):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    count = write_tokenizer(tmp_path)
    end = {"eos_token_id": count - 1, "bos_token_id": count - 2, "pad_token_id": count - 1}
    config = transformers.CLIPConfig(
        text_config=TEXT | {"vocab_size": count, **end}, vision_config=VISION, projection_dim=12
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = clip_folders.load_clip(tmp_path)
    pixels = np.array(clip_images.similarity_pixels(composite(views), 28)).transpose(0, 3, 1, 2)
    tokens = torch.from_numpy(ours.tokenizer([PROMPT])[0]).long()
    with torch.no_grad():
        out = theirs(input_ids=tokens, pixel_values=torch.from_numpy(pixels))
    found = ours.similarities(views, prompt=PROMPT, image=views[1])
    seen, read = out.image_embeds.numpy(), out.text_embeds.numpy()[0]
    assert found["clip_text"] == pytest.approx((seen @ read).mean(), abs=2e-5)
    assert found["clip_image"] == pytest.approx((seen @ seen[1]).mean(), abs=2e-5)
    np.testing.assert_allclose(ours.embed_text(PROMPT), read, atol=2e-5)
