"""CLIP's image preparation: against diffusers' resizing, Pillow's, and known values."""

import numpy as np
import PIL.Image
import pytest

from im3d_jax.models import clip_images


@pytest.mark.parity
@pytest.mark.parametrize("height, width", [(288, 512), (577, 300), (224, 224), (100, 80)])
def test_resizing_equals_that_of_svd(height, width):
    torch = pytest.importorskip("torch")
    pipeline = pytest.importorskip("diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion")
    images = np.random.default_rng(0).uniform(0, 1, (1, height, width, 3)).astype(np.float32)
    signed = torch.from_numpy(images.transpose(0, 3, 1, 2)) * 2 - 1
    expected = (pipeline._resize_with_antialiasing(signed, (224, 224)) + 1) / 2
    found = clip_images.resize_antialiased(images, 224)
    # PyTorch computes sample positions in float32, which white noise shows.
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=4e-5)
    extractor = pytest.importorskip("transformers").CLIPImageProcessor()
    pixels = (expected - torch.tensor(extractor.image_mean)[:, None, None]) / torch.tensor(extractor.image_std)[
        :, None, None
    ]
    found = clip_images.condition_pixels(images)
    np.testing.assert_allclose(found, pixels.numpy().transpose(0, 2, 3, 1), atol=2e-4)


@pytest.mark.parametrize("height, width", [(90, 131), (60, 40), (20, 17)])
def test_cropping_equals_pillow(height, width):
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = 32
    scale = size / min(height, width)
    resized = PIL.Image.fromarray(picture).resize(
        (int(width * scale), int(height * scale)), PIL.Image.Resampling.BICUBIC
    )
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    expected = np.asarray(resized.crop((left, top, left + size, top + size))) / 255
    found = clip_images.resize_and_crop(picture / np.float32(255), size)
    assert found.shape == (size, size, 3)
    # Pillow rounds to 8 bits after each of its two passes.
    np.testing.assert_allclose(found, expected, atol=1.6 / 255)


def test_constants_stay_and_are_normalised():
    grey = np.broadcast_to(np.float32(clip_images.CLIP_MEAN), (2, 50, 70, 3))
    np.testing.assert_allclose(clip_images.condition_pixels(grey, 28), np.zeros((2, 28, 28, 3)), atol=1e-5)
    np.testing.assert_allclose(clip_images.similarity_pixels(grey, 28), np.zeros((2, 28, 28, 3)), atol=1e-5)
    white = clip_images.normalize(np.ones((1, 3), np.float32))
    np.testing.assert_allclose(white, [[1.930336, 2.0748837, 2.1458963]], rtol=1e-5)


def test_images_too_small_for_the_blur_are_refused():
    with pytest.raises(ValueError, match="1 pixels is too short"):
        clip_images.resize_antialiased(np.zeros((1, 1, 40, 3), np.float32), 20)
