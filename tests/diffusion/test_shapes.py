"""The annotated shapes of `im3d_jax.diffusion` and `im3d_jax.images`: wrong ones are refused, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from im3d_jax import diffusion
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.images import alpha, cutout, files, mattes, metrics, prepare, resize


PROCESS = diffusion.Karras()
X = jnp.ones((2, 3, 4, 4, 5))
LEVEL = PROCESS.level(0.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: diffusion.add_noise(X, X[:1], 0.5, PROCESS),
        lambda: diffusion.add_noise(X, X, "0.5", PROCESS),
        lambda: diffusion.add_noise(X.astype(int), X.astype(int), 0.5, PROCESS),
        lambda: diffusion.add_noise(X, X, 0.5, "karras"),
        lambda: diffusion.initial_sample(X, jnp.ones(2), PROCESS),
        lambda: diffusion.convert_prediction(X, X[..., :3], 0.5, PROCESS, "v", "x0"),
        lambda: diffusion.convert_prediction(X, X, 0.5, PROCESS, "noise", "x0"),
        lambda: diffusion.prediction_target(X, X[0], 0.5, PROCESS, "v"),
        lambda: diffusion.rescale_guidance(X, X[:, 0], 0.7),
        lambda: diffusion.frame_guided_denoiser(lambda x, t, i: x, jnp.ones((3, 1)), PROCESS, "v"),
        lambda: diffusion.guided_denoiser(lambda x, t, i: x, diffusion.Guidance(), PROCESS, "v")(X, jnp.ones(2), 0),
        lambda: diffusion.dpmpp_2m_step(X, X[:1], diffusion.no_history(X), LEVEL, LEVEL),
        lambda: diffusion.euler_step(X, X[..., 0], diffusion.no_history(X), LEVEL, LEVEL),
        lambda: diffusion.Level(jnp.ones(3), jnp.ones(3), jnp.ones(2)),
        lambda: diffusion.schedule(jnp.ones((2, 2)), PROCESS),
        lambda: diffusion.network_input(X, None, PROCESS),
        lambda: diffusion.edm_scalings("1"),
        lambda: conditions.augment_image(X[0, 0], X[0, 0], 0.02),
        lambda: conditions.concatenate_condition(X, X),
        lambda: conditions.sv3d_pose_vector(np.zeros((1, 5)), np.zeros((1, 4))),
        lambda: alpha.composite(np.ones((4, 4, 3), np.float32)),
        lambda: alpha.composite(np.ones((4, 4, 4), np.uint8)),
        lambda: alpha.premultiply(np.ones((4, 5), np.float32)),
        lambda: cutout.cut_out(np.ones((1, 8, 8, 4), np.float32)),
        lambda: files.encode_png(np.ones((8, 8), np.float32)),
        lambda: mattes.cut_out_views(np.ones((2, 8, 8, 4), np.float32)),
        lambda: metrics.psnr(jnp.ones((2, 8, 8, 3)), jnp.ones((2, 8, 4, 3))),
        lambda: metrics.ssim(jnp.ones((16, 16, 3)), jnp.ones((16, 16, 3))),
        lambda: metrics.foreground_psnr(jnp.ones((2, 8, 8, 3)), jnp.ones((2, 8, 8, 3)), jnp.ones((2, 8, 8, 1))),
        lambda: prepare.prepare_image(np.ones((32, 32), np.float32), 16, 0.5),
        lambda: resize.resize(np.ones((2, 8, 8, 4), np.float32), 4, 4),
        lambda: resize.block_mean(np.ones((8, 8), np.float32), 2),
    ],
)
def test_refused(call):
    with pytest.raises(TypeCheckError):
        call()


def test_scalars_arrays_and_traced_values_are_taken():
    kept = np.asarray(X)
    for t in (0.5, 1, np.float32(0.5), np.float64(0.5), jnp.float32(0.5), np.full(2, 0.5), jnp.full(2, 0.5)):
        assert diffusion.add_noise(X, kept, t, PROCESS).shape == X.shape
        assert diffusion.convert_prediction(kept, X, t, PROCESS, "v", "x0").shape == X.shape
        assert diffusion.network_time(t, PROCESS).shape == np.shape(t)
    traced = jax.jit(lambda x, t: diffusion.convert_prediction(x, x, t, PROCESS, "edm_v", "x0"))
    assert traced(X, 0.5).shape == X.shape and traced(X.astype(jnp.bfloat16), 1.0).dtype == jnp.bfloat16
    assert jax.vmap(lambda t: PROCESS.level(t).sigma)(jnp.linspace(0, 1, 4)).shape == (4,)


def test_pytrees_may_hold_other_things_for_a_while():
    """As transformations rebuild them: shapes, nothing, differences of leaves."""
    state = diffusion.init_state(X)
    shapes = jax.eval_shape(lambda state: jax.tree.map(lambda leaf: leaf[None], state), state)
    assert shapes.x.shape == (1, *X.shape)
    assert jax.tree.map(lambda leaf: None, LEVEL) is not None
    assert jax.tree.structure(jax.tree.map(np.shape, LEVEL)) is not None
    rows = jax.device_get(diffusion.schedule(diffusion.time_grid(3), diffusion.Cosine()))
    assert np.shape(jax.tree.map(lambda leaf: leaf[1], rows).source.sigma) == ()


def test_lengths_follow_from_numbers():
    assert diffusion.time_grid(5).shape == (6,) and conditions.svd_vector(3).shape == (3, 3)
    assert diffusion.frame_scales("linear", 4, 1, 3).shape == (4,) and conditions.sv3d_orbit(7).shape == (7,)
