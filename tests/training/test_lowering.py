"""The train step and the sampler lower for TPUs; nothing is compiled or run."""

import jax
import jax.numpy as jnp
import optax

from im3d_jax.diffusion import Cosine, sample_scan, time_grid
from im3d_jax.models import TextConfig, TextEncoder, VideoUNet, VideoUNetConfig
from im3d_jax.training import create_state, losses, make_train_steps
from im3d_jax.weights import flatten, unflatten


def test_train_step_and_sampler_lower_for_tpu():
    config = VideoUNetConfig(channels=(32, 64), attention=(False, True), layers_per_block=0)
    unet, text = VideoUNet(config, jnp.bfloat16), TextEncoder(TextConfig(layers=1), jnp.bfloat16)
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
