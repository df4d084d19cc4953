"""`render` against golden images of gsplat's CUDA kernels and a dense float64 reference, values and all gradients."""
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import splat

_spec = importlib.util.spec_from_file_location("splat_reference", pathlib.Path(__file__).with_name("reference.py"))
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
    gaussians = splat.Gaussians(*(jnp.asarray(z[n]) for n in ("means", "quats", "scales", "opacities", "coeffs")))
    out = splat.render(gaussians, splat.Cameras(jnp.asarray(w2c)[None], jnp.asarray(k)[None], width, height),
                       tile_size=tile)
    image = np.concatenate([out.rgb[0], out.alpha[0][..., None]], -1)
    np.testing.assert_allclose(image, z["out_img"], atol=2e-6, rtol=0)


def scene(kind):
    """Numpy float64 parameters (means, quats, log_scales, logits, sh), cameras' elevation and distance."""
    rng = np.random.default_rng({"torus": 1, "stack": 2, "inside": 3}[kind])
    if kind == "torus":
        means, quats, scales, opacities, colors = reference.torus(300, seed=1)
        logits = np.log(opacities / (1 - opacities))
        sh = np.concatenate([((colors - 0.5) / 0.2820948)[:, None], rng.normal(0, 0.15, (300, 15, 3))], 1)
        return (means, quats, np.log(scales), logits, sh), 3.44
    if kind == "stack":  # layer behind layer of nearly opaque gaussians: most pixels stop
        n = 80
        means = np.stack([rng.normal(0, 0.15, n), rng.normal(0, 0.15, n), np.linspace(-0.6, 0.6, n)], -1)[:, [2, 0, 1]]
        return (means, rng.normal(size=(n, 4)), rng.normal(math.log(0.25), 0.3, (n, 3)), rng.normal(3.0, 2.0, n),
                rng.normal(0, 1.0, (n, 4, 3))), 3.44
    n = 60  # cameras among the gaussians: some behind, some beside, one over everything
    means = rng.uniform(-1.5, 1.5, (n, 3))
    log_scales = rng.normal(math.log(0.08), 0.5, (n, 3))
    log_scales[0] = math.log(2.0)
    return (means, rng.normal(size=(n, 4)), log_scales, rng.normal(0, 1.5, n), rng.normal(0, 0.6, (n, 1, 3))), 1.0


@pytest.fixture(scope="module", params=["torus", "stack", "inside"])
def both(request):
    """Values and gradients of a fixed random loss, ours in float32 and the reference's in float64."""
    params, distance = scene(request.param)
    params = tuple(np.asarray(p, np.float32) for p in params)
    cameras = splat.orbit_cameras(0.3, views=VIEWS, distance=distance, fov=0.7, width=WIDTH, height=HEIGHT,
                                  azimuth_offset=0.1)
    background = np.array([[0.2, 0.5, 0.9], [1.0, 1.0, 0.3]], np.float32)
    offset = np.zeros((VIEWS, len(params[0]), 2), np.float32)
    rng = np.random.default_rng(0)
    inputs = (params, cameras.world_to_camera, cameras.intrinsics, background, offset)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), inputs)

        def images(params, w2c, k, background, offset):
            view = [reference.render_view(params, w2c[v], k[v], background[v], WIDTH, HEIGHT, offset[v])
                    for v in range(VIEWS)]
            return tuple(jnp.stack(part) for part in zip(*view, strict=True))

        rgb, alpha, depth, margin = jax.jit(images)(*wide)
        clear = np.asarray(margin) > NEAR_CUT
        weights = [rng.normal(size=np.shape(a)) for a in (rgb, alpha, depth)]
        weights = [w * clear.reshape(clear.shape + (1,) * (w.ndim - 3)) for w in weights]
        weights[2] *= np.asarray(alpha) > 0.05  # a depth is a quotient by alpha: float32 has no digits to spare there

        def loss(*inputs):
            return sum(jnp.sum(jnp.asarray(w) * image) for w, image in zip(weights, images(*inputs)[:3], strict=True))

        expected_grads = jax.tree.map(np.asarray, jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))(*wide))
        expected = [np.asarray(a) for a in (rgb, alpha, depth)]

    def ours(params, w2c, k, background, offset):
        return splat.render(splat.Gaussians(*params), cameras.replace(world_to_camera=w2c, intrinsics=k),
                            background=background, mean2d_offset=offset, capacity=4096)

    small = [jnp.asarray(w, jnp.float32) for w in weights]

    @jax.jit
    def value_and_grads(*inputs):
        def loss(*inputs):
            out = ours(*inputs)
            parts = zip(small, (out.rgb, out.alpha, out.depth), strict=True)
            return sum(jnp.sum(w * image) for w, image in parts), out

        return jax.grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)(*inputs)

    inputs = jax.tree.map(jnp.asarray, inputs)
    grads, out = value_and_grads(*inputs)
    return request.param, expected, expected_grads, clear, out, grads, lambda: value_and_grads(*inputs)


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
    names = ["means", "quats", "log_scales", "opacity_logits", "sh", "world_to_camera", "intrinsics", "background",
             "mean2d_offset"]
    for name, ours, truth in zip(names, jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        scale = np.abs(truth).max()
        assert scale > 0, name
        np.testing.assert_allclose(np.asarray(ours) / scale, truth / scale, atol=2e-5, rtol=0, err_msg=name)


def test_gradients_are_bitwise_repeatable(both):
    *_, grads, again = both
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(again()[0]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
