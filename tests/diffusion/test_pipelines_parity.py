"""Whole sampling loops against diffusers' pipelines, from picture or prompt on, with small random networks."""

import json

import jax
import numpy as np
import PIL.Image
import pytest

from im3d_jax.diffusion import (
    DiscreteScaledLinear,
    Guidance,
    Karras,
    euler_step,
    frame_guided_denoiser,
    frame_scales,
    guided_denoiser,
    initial_sample,
    precondition,
    sample_scan,
    stack_conditions,
    time_grid,
    timestep_grid,
)
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.models import clip, clip_images
from im3d_jax.models.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from im3d_jax.models.stable_unet import StableUNet, StableUNetConfig
from im3d_jax.weights.encoders import encoder_network, load_encoder
from im3d_jax.weights.prompt_tokenizers import load_clip_tokenizer


pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

torch_weights = pytest.importorskip("tests.models.torch_weights")

FRAMES, HEIGHT, WIDTH = 3, 16, 24
UNET = dict(channels=(32, 64), layers_per_block=(1, 1), attention=(True, False), context_dims=(24,))
DDPM = dict(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=1.2e-2)


def tiny_unet(scalars):
    """SVD's network with any number of scalar conditions, theirs and ours."""
    theirs = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), num_attention_heads=(2, 4), cross_attention_dim=24, num_frames=FRAMES,
        addition_time_embed_dim=16, projection_class_embeddings_input_dim=16 * scalars, layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip
    config = StableUNetConfig(
        **UNET, heads=(2, 4), vector_dims=(16,) * scalars, down_eps=(1e-6, 1e-5), up_eps=(1e-6, 1e-6)
    )
    return torch_weights.randomise(theirs), StableUNet(config)


def parameters(model, network, *inputs, **arguments):
    template = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return {"params": torch_weights.parameters_from(model, template, **arguments)}


def loaded(model, config, folder):
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors_torch.save_file(tensors, folder / "model.safetensors")
    return encoder_network(config), {"params": load_encoder(folder, config)}


def video_denoiser(network, params, context, latent, vector, scales):
    """Guided denoiser of SVD's and SV3D's network; without condition context and latent are zero."""
    given = dict(context=context, latent=latent, vector=vector)
    absent = dict(context=0 * context, latent=0 * latent, vector=vector)
    stacked, _ = stack_conditions(Guidance(image=2.0), image=given, no_image=absent)

    def unet(x, time):
        x = conditions.concatenate_condition(x, stacked["latent"])
        times = np.ones(x.shape[0], np.float32) * time
        return network.apply(params, x, times, stacked["context"], stacked["vector"])

    return frame_guided_denoiser(precondition(unet, Karras()), scales, Karras(), "edm_v")


def test_stable_video_diffusion(tmp_path):
    unet, our_unet = tiny_unet(3)
    types = ("DownEncoderBlock2D",) * 2
    vae = torch_weights.randomise(
        diffusers.AutoencoderKLTemporalDecoder(block_out_channels=(32, 64), layers_per_block=2, down_block_types=types)
    )
    vision = clip.CLIPVisionConfig(patch=56, width=32, layers=2, heads=2, hidden=48, projection=24)
    image_encoder = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            image_size=224, patch_size=56, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, hidden_act="gelu", projection_dim=24,
        )
    )  # fmt: skip
    torch_weights.randomise(image_encoder)
    scheduler = diffusers.EulerDiscreteScheduler(
        **DDPM, prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
        sigma_max=700.0, timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    pipeline = diffusers.StableVideoDiffusionPipeline(
        vae, image_encoder, unet, scheduler, transformers.CLIPImageProcessor()
    )
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    noise = rng.normal(size=(1, FRAMES, HEIGHT // 2, WIDTH // 2, 4)).astype(np.float32)
    with torch.no_grad():
        expected = pipeline(
            PIL.Image.fromarray(picture), height=HEIGHT, width=WIDTH, num_frames=FRAMES, num_inference_steps=5,
            max_guidance_scale=3.0, fps=7, generator=torch.Generator().manual_seed(3), output_type="latent",
            latents=torch.tensor(noise.transpose(0, 1, 4, 2, 3)),
        ).frames  # fmt: skip
        pictures = pipeline.decode_latents(expected, FRAMES, FRAMES).permute(0, 2, 3, 4, 1).numpy()

    image = picture[None] / np.float32(255)
    augment = torch.randn((1, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(3))
    autoencoder = KLAutoencoder(KLAutoencoderConfig(channels=(32, 64), temporal_decoder=True, post_quant_conv=False))
    encoder, encoder_params = loaded(image_encoder, vision, tmp_path)
    process, grid = Karras(), time_grid(5, last=0.0)
    vae_params = parameters(vae, autoencoder, image[:, None])
    unet_params = parameters(
        unet, our_unet, np.zeros((1, FRAMES, 8, 12, 8)), np.zeros(1), np.zeros((1, 1, 24)), np.zeros((1, 3))
    )

    @jax.jit
    def sample(params, image, augment, noise):
        context = encoder.apply(params["encoder"], clip_images.condition_pixels(image)).pooled[:, None]
        noised = conditions.augment_image(image, augment, 0.02)
        latent = autoencoder.apply(params["vae"], noised, method="encode")
        vector = conditions.svd_vector(1, fps=7)
        scales = frame_scales("linear", FRAMES, 1.0, 3.0)
        denoise = video_denoiser(our_unet, params["unet"], context, latent, vector, scales)
        x = initial_sample(noise, grid[0], process)
        latents = sample_scan(denoise, x, grid, process, solver=euler_step)
        scaled = latents / autoencoder.config.scaling_factor
        return latents, autoencoder.apply(params["vae"], scaled, method="decode")

    params = dict(encoder=encoder_params, vae=vae_params, unet=unet_params)
    latents, found = sample(params, image, augment.permute(0, 2, 3, 1).numpy(), noise)
    assert torch_weights.relative(latents, expected.permute(0, 1, 3, 4, 2).numpy()) < 3e-5
    assert torch_weights.relative(found, 0.5 * pictures + 0.5) < 3e-5


def test_sv3d_by_an_independent_reading():
    """Stability AI's loop (EulerEDMSampler, VScalingWithEDMcNoise, TrianglePredictionGuider) written out in PyTorch."""
    unet, our_unet = tiny_unet(1)
    rng = np.random.default_rng(0)
    noise, latent = (rng.normal(size=(2, FRAMES, 8, 12, 4)).astype(np.float32) for _ in range(2))
    latent, context = latent[:, 0], rng.normal(size=(2, 1, 24)).astype(np.float32)
    steps = 4

    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (700 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7
    sigmas = torch.cat([sigmas, torch.zeros(1)]).float()
    places = torch.linspace(0, 1, FRAMES)
    scales = (2 * (places - torch.floor(places + 0.5)).abs() * 1.5 + 1)[None, :, None, None, None]
    x = torch.tensor(noise.transpose(0, 1, 4, 2, 3)) * torch.sqrt(1 + sigmas[0] ** 2)
    behind = torch.tensor(latent.transpose(0, 3, 1, 2))[:, None].expand(-1, FRAMES, -1, -1, -1)
    vector = torch.full((2, 1), 1e-5)
    with torch.no_grad():
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            denoised = []
            for on in (0.0, 1.0):
                inside = torch.cat([x / torch.sqrt(sigma**2 + 1), on * behind], dim=2)
                output = unet(inside, 0.25 * sigma.log(), on * torch.tensor(context), vector).sample
                denoised.append(x / (sigma**2 + 1) - output * sigma / torch.sqrt(sigma**2 + 1))
            guided = denoised[0] + scales * (denoised[1] - denoised[0])
            x = x + (x - guided) / sigma * (following - sigma)

    process, grid = Karras(), time_grid(steps, last=0.0)
    vector = conditions.sv3d_vector(2)
    params = parameters(
        unet, our_unet, np.zeros((2, FRAMES, 8, 12, 8)), np.zeros(2), np.zeros((2, 1, 24)), np.zeros((2, 1))
    )

    @jax.jit
    def sample(params, noise, context, latent):
        scales = frame_scales("triangle", FRAMES, 1.0, 2.5)
        denoise = video_denoiser(our_unet, params, context, latent, vector, scales)
        return sample_scan(denoise, initial_sample(noise, grid[0], process), grid, process, solver=euler_step)

    assert torch_weights.relative(sample(params, noise, context, latent), x.permute(0, 1, 3, 4, 2).numpy()) < 3e-5


def test_stable_diffusion(tmp_path):
    unet = torch_weights.randomise(
        diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64), cross_attention_dim=24, layers_per_block=1, attention_head_dim=(2, 2),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )  # fmt: skip
    # Decoding has its own parity test; the pipeline asks this one for its factor of 2 only.
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(c + "</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = {token: i for i, token in enumerate(tokens)}, [("r", "e"), ("re", "d</w>")]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary, "merges": merges}}))
    text = clip.CLIPTextConfig(
        vocabulary=len(tokens), length=16, width=24, layers=2, heads=2, hidden=48, end_token=len(tokens) - 1
    )
    text_encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            max_position_embeddings=16, eos_token_id=text.end_token,
        )
    )  # fmt: skip
    torch_weights.randomise(text_encoder)
    scheduler = diffusers.EulerDiscreteScheduler(**DDPM, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(
        vae, text_encoder, transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16), unet,
        scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(0).normal(size=(1, 1, 8, 12, 4)).astype(np.float32)
    with torch.no_grad():
        expected = pipeline(
            "a red mug", height=HEIGHT, width=WIDTH, num_inference_steps=6, guidance_scale=7.5, output_type="latent",
            latents=torch.tensor(noise[:, 0].transpose(0, 3, 1, 2)),
        ).images  # fmt: skip

    network = StableUNet(
        StableUNetConfig(
            **UNET,
            in_channels=4,
            heads=(2, 2),
            temporal="none",
            vector_dims=(),
            down_eps=(1e-5,) * 2,
            up_eps=(1e-5,) * 2,
        )
    )
    process = DiscreteScaledLinear()
    grid = timestep_grid(6, process, spacing="linspace")
    encoder, encoder_params = loaded(text_encoder, text, tmp_path)
    rows, _ = load_clip_tokenizer(tmp_path, 16)(["a red mug", ""])
    inputs = np.zeros((1, 1, 8, 12, 4)), np.zeros(1), np.zeros((1, 16, 24))
    params = dict(
        encoder=encoder_params,
        unet=parameters(unet, network, *inputs, pointwise=r"\.proj_(in|out)$"),
    )
    guidance = Guidance(prompt=7.5)

    @jax.jit
    def sample(params, rows, noise):
        context = encoder.apply(params["encoder"], rows).context
        _, stacked = stack_conditions(guidance, prompt=context[:1], no_prompt=context[1:])

        def unet(x, time):
            return network.apply(params["unet"], x, np.ones(x.shape[0], np.float32) * time, stacked)

        denoise = guided_denoiser(precondition(unet, process), guidance, process, "eps")
        x = initial_sample(noise, grid[0], process, unit_data=False)
        return sample_scan(denoise, x, grid, process, solver=euler_step)

    latents = sample(params, rows, noise)
    assert torch_weights.relative(latents[:, 0], expected.permute(0, 2, 3, 1).numpy()) < 3e-5
