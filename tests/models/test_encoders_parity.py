"""CLIP and T5 against `transformers` on random weights, read through the project's own name tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import clip, t5
from im3d_jax.weights.encoders import detect_layout, encoder_network, encoder_table, load_encoder


pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

TEXT = dict(vocabulary=99, length=12, width=48, layers=3, heads=4, hidden=80, end_token=98)
VISION = dict(image_size=28, patch=7, width=48, layers=2, heads=4, hidden=80, projection=20)


def randomised(model):
    """All parameters drawn anew, biases and norms too, so that none is at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if parameter.ndim == 1:
                parameter.add_(0.7)
    return model.eval()


def stored(model, folder):
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    return folder


def tokens_with_ends(length):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 97, (3, length)).astype(np.int32)
    # Padded by the end token (OpenAI), by 0 (OpenCLIP), and full.
    rows[0, 5:], rows[1, 4], rows[1, 5:], rows[2, -1] = 98, 98, 0, 98
    return rows


def apply(config, params, *inputs):
    return jax.jit(lambda params, *inputs: encoder_network(config).apply({"params": params}, *inputs))(params, *inputs)


def close(ours, theirs, tolerance=1e-5):
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert error <= tolerance, error


def clip_text(config):
    return transformers.CLIPTextConfig(
        vocab_size=config.vocabulary,
        max_position_embeddings=config.length,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.hidden,
        hidden_act=config.activation,
        projection_dim=config.projection or 512,
        eos_token_id=config.end_token,
        layer_norm_eps=config.eps,
    )


@pytest.mark.parametrize("activation, skip", [("quick_gelu", 0), ("gelu", 1)])
def test_text_with_projection(activation, skip, tmp_path):
    config = clip.CLIPTextConfig(**TEXT, activation=activation, projection=20, skip_last=skip)
    model = randomised(transformers.CLIPTextModelWithProjection(clip_text(config)))
    tokens = tokens_with_ends(config.length)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long(), output_hidden_states=True)
        states = expected.hidden_states[-1 - skip] if skip else expected.last_hidden_state
        context = model.text_model.final_layer_norm(states) if skip else states
    found = apply(config, load_encoder(stored(model, tmp_path), config), tokens)
    close(found.context, context)
    close(found.pooled, expected.text_embeds)


def test_text_without_projection(tmp_path):
    config = clip.CLIPTextConfig(**TEXT)
    model = randomised(transformers.CLIPTextModel(clip_text(config)))
    tokens = tokens_with_ends(config.length)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long())
    found = apply(config, load_encoder(stored(model, tmp_path), config), tokens)
    close(found.context, expected.last_hidden_state)
    close(found.pooled, expected.pooler_output)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_vision(activation, tmp_path):
    config = clip.CLIPVisionConfig(**VISION, activation=activation)
    foreign = transformers.CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.hidden,
        hidden_act=activation,
        projection_dim=config.projection,
        layer_norm_eps=config.eps,
    )
    model = randomised(transformers.CLIPVisionModelWithProjection(foreign))
    images = np.random.default_rng(1).normal(size=(2, 28, 28, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    found = apply(config, load_encoder(stored(model, tmp_path), config), images)
    close(found.tokens, expected.last_hidden_state)
    close(found.pooled, expected.image_embeds)


@pytest.mark.parametrize("heads", [4, 3])
def test_t5(heads, tmp_path):
    config = t5.T5Config(vocabulary=97, width=48, head_dim=12, heads=heads, hidden=80, layers=3)
    foreign = transformers.T5Config(
        vocab_size=config.vocabulary,
        d_model=config.width,
        d_kv=config.head_dim,
        num_heads=heads,
        d_ff=config.hidden,
        num_layers=config.layers,
        feed_forward_proj="gated-gelu",
    )
    model = randomised(transformers.T5EncoderModel(foreign))
    tokens = np.random.default_rng(0).integers(0, 97, (2, 40)).astype(np.int32)
    mask = np.arange(40)[None] < np.asarray([[40], [17]])
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long(), torch.from_numpy(mask).long()).last_hidden_state
    found = apply(config, load_encoder(stored(model, tmp_path), config), tokens, jnp.asarray(mask))
    close(found, expected)


def test_position_classes_of_t5():
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(300)
    expected = T5Attention._relative_position_bucket(places[None] - places[:, None])
    np.testing.assert_array_equal(t5.position_buckets(300, 32, 128), expected.numpy())


def sizes_of(config):
    if isinstance(config, clip.CLIPTextConfig):
        kind = transformers.CLIPTextModel if config.projection is None else transformers.CLIPTextModelWithProjection
        return kind, clip_text(config)
    if isinstance(config, clip.CLIPVisionConfig):
        return transformers.CLIPVisionModelWithProjection, transformers.CLIPVisionConfig(
            image_size=config.image_size, patch_size=config.patch, hidden_size=config.width,
            num_hidden_layers=config.layers, num_attention_heads=config.heads, intermediate_size=config.hidden,
            projection_dim=config.projection,
        )  # fmt: skip
    return transformers.T5EncoderModel, transformers.T5Config(
        vocab_size=config.vocabulary, d_model=config.width, d_kv=config.head_dim, num_heads=config.heads,
        d_ff=config.hidden, num_layers=config.layers, feed_forward_proj="gated-gelu",
    )  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        clip.CLIP_TEXT_L14,
        dataclasses.replace(clip.CLIP_TEXT_L14, projection=768),
        clip.OPENCLIP_TEXT_H,
        clip.CLIP_VISION_H14,
        clip.CLIP_VISION_L14,
        t5.T5_XL,
        t5.T5_XXL,
    ],
)
def test_names_and_shapes_at_true_size(config):
    kind, foreign = sizes_of(config)
    with torch.device("meta"):
        tensors = {name: tuple(tensor.shape) for name, tensor in kind(foreign).state_dict().items()}
    tensors.pop("encoder.embed_tokens.weight", None)
    entries = encoder_table(config, *detect_layout(tensors, config)).entries
    assert {entry.name: entry.shape for entry in entries.values()} == tensors
