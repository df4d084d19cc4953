"""The train step and the sampler lower for TPUs; nothing is compiled or run."""

import jax
import jax.numpy as jnp
import optax

from im3d_jax.diffusion import Cosine, sample_scan, time_grid
from im3d_jax.models import TextConfig, TextEncoder, TinyUNet, TinyUNetConfig
from im3d_jax.models.stable_unet import StableUNet, StableUNetConfig
from im3d_jax.training import create_state, losses, make_train_steps
from im3d_jax.weights import flatten, unflatten


def test_train_step_and_sampler_lower_for_tpu():
    config = TinyUNetConfig(channels=(32, 64), attention=(False, True), layers_per_block=0)
    unet, text = TinyUNet(config, jnp.bfloat16), TextEncoder(TextConfig(layers=1), jnp.bfloat16)
    struct = jax.ShapeDtypeStruct
    latents, tokens = struct((8, 16, 8, 8, 8), jnp.bfloat16), struct((8, 24), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    given = (struct((1,), jnp.float32), struct((1, 24, 128), jnp.float32), struct((1, 24), bool))
    x, first = struct((1, 16, 8, 8, 8), jnp.float32), struct((1, 8, 8, 8), jnp.float32)
    unet_shapes = jax.eval_shape(unet.init, key, x, *given, first, given[0])["params"]
    text_shapes = jax.eval_shape(text.init, key, struct((1, 24), jnp.int32))["params"]

    params_of_text = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), text_shapes)
    loss = losses.video_loss(
        unet, text, lambda flat: (unflatten(flat, unet_shapes), params_of_text), Cosine(), image_weight=0.1
    )
    optimizer = optax.adamw(1e-3)
    steps = make_train_steps(loss, optimizer, batch_size=4, ema=0.999)
    state = jax.eval_shape(lambda k, p: create_state(k, p, optimizer), key, flatten(unet_shapes))
    step = jax.jit(lambda state, data: steps(state, {}, data, 1))
    lowered = step.trace(state, {"latents": latents, "tokens": tokens}).lower(lowering_platforms=("tpu",))
    assert "stablehlo.convolution" in lowered.as_text()

    def sample(params, x, context, mask, first):
        def denoise(x, t, index):
            time = jnp.broadcast_to(t, x.shape[:1])
            return unet.apply({"params": params}, x, time, context, mask, first, jnp.ones(x.shape[:1]))

        return sample_scan(denoise, x, time_grid(4), Cosine())

    lowered = jax.jit(sample).trace(unet_shapes, x, *given[1:], first).lower(lowering_platforms=("tpu",))
    text_of = lowered.as_text()
    assert "stablehlo.while" in text_of and "stablehlo.convolution" in text_of


def test_a_train_step_of_the_large_unet_lowers_for_tpu():
    """Fine-tuning an SVD-like network on its raw v in EDM's preconditioning."""
    config = StableUNetConfig(
        channels=(32, 64), layers_per_block=(1, 1), attention=(True, False), heads=(1, 2), context_dims=(16,),
        vector_dims=(8,), down_eps=(1e-5,) * 2, up_eps=(1e-5,) * 2,
    )  # fmt: skip
    network = StableUNet(config, jnp.bfloat16)
    struct = jax.ShapeDtypeStruct
    data = {"latents": struct((8, 5, 8, 8, 4), jnp.float32), "context": struct((8, 1, 16), jnp.float32)}
    given = struct((1, 5, 8, 8, 8), jnp.float32), struct((1,), jnp.float32)
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), *given, struct((1, 1, 16), jnp.float32), struct((1, 1), jnp.float32)
    )["params"]

    def loss(flat, held, batch, key):
        sigma_key, noise_key = jax.random.split(key)
        clean = batch["latents"]
        sigma = jnp.exp(jax.random.normal(sigma_key, (clean.shape[0], 1, 1, 1, 1)))
        scale = jax.lax.rsqrt(sigma**2 + 1.0)
        noise = jax.random.normal(noise_key, clean.shape)
        inside = jnp.concatenate([(clean + sigma * noise) * scale, jnp.broadcast_to(clean[:, :1], clean.shape)], -1)
        time, vector = 0.25 * jnp.log(sigma[:, 0, 0, 0, 0]), jnp.full((clean.shape[0], 1), 0.02)
        v = network.apply({"params": unflatten(flat, shapes)}, inside, time, batch["context"], vector)
        return jnp.mean(jnp.square(v - (noise - sigma * clean) * scale)), {}

    optimizer = optax.adamw(1e-5)
    steps = make_train_steps(loss, optimizer, batch_size=4, ema=0.999)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k, p: create_state(k, p, optimizer), key, flatten(shapes))
    step = jax.jit(lambda state, data: steps(state, {}, data, 1))
    text = step.trace(state, data).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") > 3 * 20  # forward, and both gradients
