"""`render` against golden images of gsplat's CUDA kernels and a dense float64 reference, gradients too."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import splat


_path = pathlib.Path(__file__).with_name("reference.py")
_spec = importlib.util.spec_from_file_location("splat_reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

WIDTH, HEIGHT, VIEWS = 37, 29, 2
NEAR_CUT = 1e-6


@pytest.mark.parametrize("case", ["tiny", "basic"])
@pytest.mark.parametrize("tile", [8, 16])
def test_golden_images_of_gsplat(shared_data, case, tile):
    load_file = pytest.importorskip("safetensors.numpy").load_file
    z = load_file(str(shared_data / "golden" / f"gsplat_cuda_{case}.safetensors"))
    height, width = z["out_img"].shape[:2]
    w2c = np.eye(4, dtype=np.float32)
    w2c[:3, 3] = [-0.123, -0.456, 8.0]
    k = np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]], np.float32)
    fields = [z[name] for name in ("means", "quats", "scales", "opacities", "coeffs")]
    active = jnp.arange(16) < len(fields[0])
    fields = [np.concatenate([f, np.full((16 - len(f), *f.shape[1:]), np.nan, f.dtype)]) for f in fields]
    cameras = splat.Cameras(jnp.asarray(w2c)[None], jnp.asarray(k)[None], width, height)
    gaussians = splat.Gaussians(*map(jnp.asarray, fields))
    options = splat.RenderOptions(tile_size=tile)
    out = splat.render(gaussians, cameras, capacity=512, active=active, options=options)
    assert int(out.pairs) <= 512 and int(out.invalid) == 0
    image = np.concatenate([out.rgb[0], out.alpha[0][..., None]], -1)
    np.testing.assert_allclose(image, z["out_img"], atol=2e-6, rtol=0)


def scene(kind):
    """Float32 parameters (means, quats, log_scales, logits, sh) of 90 gaussians and the cameras' distance."""
    n = 90  # one size for all scenes: one compilation
    rng = np.random.default_rng({"torus": 1, "stack": 2, "inside": 3}[kind])
    sh = rng.normal(0, 0.15, (n, 16, 3))
    if kind == "torus":
        means, quats, scales, opacities, colors = reference.torus(n, seed=1)
        sh[:, 0] = (colors - 0.5) / 0.2820948
        params, distance = (means, quats, np.log(scales), np.log(opacities / (1 - opacities)), sh), 3.44
    elif kind == "stack":  # layer behind layer of nearly opaque gaussians: most pixels stop
        means = np.stack([np.linspace(-0.6, 0.6, n), rng.normal(0, 0.15, n), rng.normal(0, 0.15, n)], -1)
        log_scales = rng.normal(math.log(0.25), 0.3, (n, 3))
        params, distance = (means, rng.normal(size=(n, 4)), log_scales, rng.normal(3.0, 2.0, n), sh), 3.44
    else:  # cameras among the gaussians: some behind, some beside, one over everything
        log_scales = rng.normal(math.log(0.08), 0.5, (n, 3))
        log_scales[0] = math.log(2.0)
        means = rng.uniform(-1.5, 1.5, (n, 3))
        params, distance = (means, rng.normal(size=(n, 4)), log_scales, rng.normal(0, 1.5, n), sh), 1.0
    return tuple(np.asarray(p, np.float32) for p in params), distance


@jax.jit
def true_gradients(noise, inputs):
    """Gradients of the sum of weights * images, the images, and the weights: noise, but 0 at cut-offs."""

    def loss(inputs):
        params, *cameras = inputs

        def view(w2c, k, background, offset):
            return reference.render_view(params, w2c, k, background, WIDTH, HEIGHT, offset)

        *images, margin = jax.vmap(view)(*cameras)
        clear = jax.lax.stop_gradient(margin) > NEAR_CUT
        masks = [clear[..., None], clear, clear & (images[1] > 0.05)]  # depth is a quotient by alpha
        weights = [w * mask for w, mask in zip(noise, masks, strict=True)]
        total = sum(jnp.sum(w * image) for w, image in zip(weights, images, strict=True))
        return total, (images, weights, clear)

    return jax.grad(loss, has_aux=True)(inputs)


@jax.jit
def our_gradients(weights, inputs):
    def loss(inputs):
        params, w2c, k, background, offset = inputs
        cameras = splat.Cameras(w2c, k, WIDTH, HEIGHT)
        out = splat.render(
            splat.Gaussians(*params), cameras, background=background, mean2d_offset=offset, capacity=4096
        )
        images = (out.rgb, out.alpha, out.depth)
        return sum(jnp.sum(w * image) for w, image in zip(weights, images, strict=True)), out

    return jax.grad(loss, has_aux=True)(inputs)


@pytest.fixture(scope="module", params=["torus", "stack", "inside"])
def both(request):
    """Images and gradients of a fixed random loss, ours in float32 and the reference's in float64."""
    params, distance = scene(request.param)
    cameras = splat.orbit_cameras(
        0.3, views=VIEWS, distance=distance, fov=0.7, width=WIDTH, height=HEIGHT, azimuth_offset=0.1
    )
    background = np.array([[0.2, 0.5, 0.9], [1.0, 1.0, 0.3]], np.float32)
    offset = np.zeros((VIEWS, len(params[0]), 2), np.float32)
    inputs = (params, np.asarray(cameras.world_to_camera), np.asarray(cameras.intrinsics), background, offset)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), inputs)
        noise = [rng.normal(size=(VIEWS, HEIGHT, WIDTH) + rest) for rest in ((3,), (), ())]
        answer = true_gradients([jnp.asarray(w) for w in noise], wide)
        expected_grads, (expected, weights, clear) = jax.tree.map(np.asarray, answer)
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    inputs = jax.tree.map(jnp.asarray, inputs)
    grads, out = our_gradients(weights, inputs)
    return request.param, expected, expected_grads, clear, out, grads, lambda: our_gradients(weights, inputs)


def test_images_match_the_reference(both):
    kind, expected, _, clear, out, _, _ = both
    assert int(out.pairs) <= 4096 and int(out.invalid) == 0
    assert np.mean(~clear) < 0.02, "too many pixels at a cut-off to judge anything"
    stopped = np.mean((expected[1] > 0.998) & clear)
    assert kind != "stack" or stopped > 0.2
    for image, truth in zip((out.rgb, out.alpha, out.depth), expected, strict=True):
        np.testing.assert_allclose(np.asarray(image)[clear], truth[clear], atol=3e-6, rtol=3e-6)


def test_all_gradients_match_the_reference(both):
    _, _, expected, _, _, grads, _ = both
    names = [
        "means",
        "quats",
        "log_scales",
        "opacity_logits",
        "sh",
        "world_to_camera",
        "intrinsics",
        "background",
        "mean2d_offset",
    ]
    for name, ours, truth in zip(names, jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        scale = np.abs(truth).max()
        assert scale > 0, name
        np.testing.assert_allclose(np.asarray(ours) / scale, truth / scale, atol=2e-5, rtol=0, err_msg=name)


def test_gradients_are_bitwise_repeatable(both):
    *_, grads, again = both
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(again()[0]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
