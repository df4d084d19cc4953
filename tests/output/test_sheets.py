"""Contact sheets."""

import io

import numpy as np
from PIL import Image

from im3d_jax.images.files import encode_png
from im3d_jax.output import sheets
from tests.output.test_videos import moving_square


def test_sheet_reads_row_by_row_on_white():
    views = np.zeros((5, 3, 3, 4), np.float32)
    views[..., 3] = 1.0
    views[1, ..., 0] = 1.0
    views[4, ..., 3] = 0.0
    sheet = sheets.contact_sheet(views, columns=4, gap=1)
    assert sheet.shape == (7, 15, 3)
    np.testing.assert_array_equal(sheet[1, 5], [1, 0, 0])
    np.testing.assert_array_equal(sheet[5, 1], [1, 1, 1])
    np.testing.assert_array_equal(sheet[1, 9], [0, 0, 0])


def test_sheet_is_a_png_of_the_same_pixels():
    sheet = sheets.contact_sheet(moving_square())
    reread = np.asarray(Image.open(io.BytesIO(encode_png(sheet))), np.float32) / 255
    np.testing.assert_allclose(reread, sheet, atol=0.5 / 255 + 1e-6)
