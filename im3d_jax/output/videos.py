"""H.264 files that open everywhere and have the same bytes for the same frames."""

import io

import numpy as np

from im3d_jax.images.files import to_bytes


def encode_mp4(frames: np.ndarray, frames_per_second: int = 16, quality: int = 18) -> bytes:
    """Encodes a video.

    Args:
        frames: float `[T, H, W, 3]` in [0, 1], or uint8; odd sizes get one more row or column (4:2:0 needs even ones).
        frames_per_second: speed of playing.
        quality: x264's constant rate factor, 0 (lossless) to 51; 18 looks lossless.

    Returns:
        The bytes of an MP4 file (H.264, yuv420p), equal in every run: the number of threads is fixed, since
        it changes x264's decisions, and neither time stamps nor the library's version are written.
    """
    # Here, so that what only reads and measures works where there is no video library.
    import av

    pixels = frames if frames.dtype == np.uint8 else to_bytes(frames)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
        raise ValueError(f"frames of shape {pixels.shape}: expected [time, height, width, 3]")
    height, width = pixels.shape[1:3]
    pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libx264", rate=frames_per_second)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "crf": str(quality),
            "preset": "medium",
            "threads": "1",
            "flags": "+bitexact",
            # The lookahead reads memory outside of the picture: what hangs on it changed from call to call.
            "x264-params": "rc-lookahead=0:mbtree=0:b-adapt=0:scenecut=0",
        }
        for frame in pixels:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return buffer.getvalue()
