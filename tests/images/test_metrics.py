"""SSIM, MS-SSIM and PSNR against float64 numpy, PyTorch and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.images import metrics as module


def numpy_ssim_maps(a, b):
    """Float64 reference for one channel [H, W]: explicit 11x11 windows."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def blur(x):
        view = np.lib.stride_tricks.sliding_window_view(x, (11, 11))
        return np.einsum("ijkl,kl->ij", view, window)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    contrast = (2 * (blur(a * b) - mean_a * mean_b) + 0.03**2) / (variance_a + variance_b + 0.03**2)
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return luminance * contrast, contrast


def numpy_ms_ssim(a, b, scales):
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights *= 1.0001 / weights.sum()
    values = []
    for channel in range(a.shape[-1]):
        x, y, value = a[..., channel].astype(np.float64), b[..., channel].astype(np.float64), 1.0
        for scale in range(scales):
            full, contrast = numpy_ssim_maps(x, y)
            value *= max((full if scale == scales - 1 else contrast).mean(), 0.0) ** weights[scale]
            x = 0.25 * (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2])
            y = 0.25 * (y[::2, ::2] + y[1::2, ::2] + y[::2, 1::2] + y[1::2, 1::2])
        values.append(value)
    return np.mean(values)


def image_pair(height, width, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 20.0
    base = 0.5 + 0.4 * np.sin(rows[..., None] + np.arange(3)) * np.cos(columns[..., None] * 1.3)
    other = np.clip(base + rng.normal(0, noise, base.shape), 0, 1)
    return base[None].astype(np.float32), other[None].astype(np.float32)


def test_ssim_equals_a_float64_reference():
    a, b = image_pair(24, 31)
    expected = np.mean([numpy_ssim_maps(a[0, ..., c], b[0, ..., c])[0].mean() for c in range(3)])
    np.testing.assert_allclose(module.ssim(a, b), [expected], atol=2e-6)


def test_ms_ssim_uses_four_renormalised_scales_at_128():
    assert [module.scales_that_fit(side, 512) for side in (11, 21, 41, 80, 81, 128, 160, 161, 512)] == [
        1, 2, 3, 3, 4, 4, 4, 5, 5,
    ]  # fmt: skip
    a, b = image_pair(128, 128)
    np.testing.assert_allclose(module.ms_ssim(a, b), [numpy_ms_ssim(a[0], b[0], 4)], atol=5e-6)


def test_equal_images_score_one_and_the_gradient_there_is_zero():
    a, _ = image_pair(32, 32)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(module.ms_ssim(x, a))))(a)
    np.testing.assert_allclose(value, 1.0, atol=1e-6)
    assert np.abs(gradient).max() < 1e-4


def test_gradient_equals_finite_differences():
    a, b = image_pair(24, 24, noise=0.3)
    direction = np.random.default_rng(1).normal(size=a.shape).astype(np.float32)
    value = jax.jit(lambda x: jnp.sum(module.ms_ssim(x, b)))
    slope = np.sum(jax.grad(value)(a) * direction)
    step = 2e-3
    estimate = (value(a + step * direction) - value(a - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, estimate, rtol=1e-2)


def test_blank_and_opposite_images_have_finite_gradients():
    a, _ = image_pair(24, 24)
    gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(module.ms_ssim(x, y))))
    for x, y in ((np.ones_like(a), a), (np.zeros_like(a), np.zeros_like(a)), (1 - a, a)):
        assert np.isfinite(gradient(x, y)).all()
    assert float(module.ms_ssim(1 - a, a)[0]) == 0.0


def test_wrong_shapes_are_explained(unchecked):
    with pytest.raises(ValueError, match="at least 11x11"):
        module.ssim(jnp.zeros((1, 10, 20, 3)), jnp.zeros((1, 10, 20, 3)))
    with pytest.raises(ValueError, match="equal"):
        module.ms_ssim(jnp.zeros((1, 20, 20, 3)), jnp.zeros((2, 20, 20, 3)))


def test_psnr_closed_forms():
    a = jnp.full((2, 4, 4, 3), 0.5)
    np.testing.assert_allclose(module.psnr(a, a + 0.1), [20.0, 20.0], atol=1e-4)
    np.testing.assert_allclose(module.psnr(a, a), [100.0, 100.0])
    mask = jnp.zeros((2, 4, 4)).at[:, :2].set(1.0)
    error = jnp.where(mask[..., None] > 0, 0.01, 0.9)
    np.testing.assert_allclose(module.foreground_psnr(a, a + error, mask), [40.0, 40.0], atol=1e-3)


@pytest.mark.parity
def test_equals_pytorch_msssim():
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("pytorch_msssim")
    for height, width in ((176, 192), (181, 203)):
        a, b = image_pair(height, width, noise=0.2)
        x, y = (torch.from_numpy(image.transpose(0, 3, 1, 2)) for image in (a, b))
        expected = reference.ms_ssim(x, y, data_range=1.0, size_average=False).numpy()
        np.testing.assert_allclose(module.ms_ssim(a, b), expected, atol=4e-6)
        expected = reference.ssim(x, y, data_range=1.0, size_average=False).numpy()
        np.testing.assert_allclose(module.ssim(a, b), expected, atol=2e-6)
