"""Videos: their frames come back, and their bytes are always the same."""

import io

import av
import numpy as np
import pytest

from im3d_jax.output import videos


def moving_square(count=5, height=36, width=50):
    frames = np.ones((count, height, width, 3), np.float32)
    for index in range(count):
        frames[index, 8:24, 4 * index : 4 * index + 16] = (0.8, 0.1, 0.2)
    return frames


def test_video_decodes_to_its_frames_and_is_reproducible():
    frames = moving_square(height=35)
    encoded = videos.encode_mp4(frames)
    with av.open(io.BytesIO(encoded)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and float(stream.average_rate) == 16
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert decoded.shape == (5, 36, 50, 3)
    assert np.abs(decoded[:, :35] / 255.0 - frames).mean() < 0.02
    assert videos.encode_mp4(np.rint(255 * frames).astype(np.uint8)) == encoded
    with pytest.raises(ValueError, match="expected"):
        videos.encode_mp4(frames[0])


@pytest.mark.parametrize("size", [24, 32, 50])
def test_video_bytes_do_not_depend_on_what_was_in_memory(size):
    rng = np.random.default_rng(0)
    frames = rng.random((8, size, size, 3), np.float32)
    first = videos.encode_mp4(frames)
    for _ in range(20):
        rubbish = [rng.bytes(int(rng.integers(1, 200_000))) for _ in range(5)]
        assert videos.encode_mp4(frames) == first
        del rubbish
