"""Captures as people have them: pictures missing, of several sizes, with masks, named in other ways, too large."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from im3d_jax.data import views
from im3d_jax.data.captures import find_camera_file, load_capture
from im3d_jax.errors import CaptureError, ImageError
from tests.data.posed import frames_of, write_capture, write_json, write_picture


def save_mask(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(file)
    return file


def half_mask(value=255):
    """The left half counts."""
    mask = np.zeros((16, 24), np.uint8)
    mask[:, :12] = value
    return mask


def test_missing_pictures_are_left_out_with_one_count(tmp_path):
    """As instant-ngp's fox, whose file lists 67 frames and whose folder holds 50."""
    names = [f"images/{place:04d}.jpg" for place in range(67)]
    for place in range(67):
        if place % 4 or place > 64:
            write_picture(tmp_path / names[place], grey=3 * place)
    write_json(tmp_path, {"camera_angle_x": 0.7, "k1": 0.1, "frames": frames_of(names)})
    capture = load_capture(tmp_path)
    assert len(capture.images) == len(capture.names) == len(capture.cameras) == 50
    assert capture.remarks == (
        "transforms.json: 17 of 67 pictures are missing and left out, 'images/0000.jpg' for instance",
    )
    assert capture.images[0, 0, 0, 0] == pytest.approx(3 / 255)
    # The second frame's camera belongs to the first picture that is there.
    expected = np.array(frames_of(names)[1]["transform_matrix"])[:3, 3]
    np.testing.assert_allclose(capture.cameras.positions[0], expected, atol=1e-5)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(CaptureError, match="missing image 'images/0000.jpg'.* all 67 views"):
        load_capture(tmp_path)


def test_a_run_folder_without_a_view_is_refused(tmp_path):
    write_picture(tmp_path / "views/00.png")
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(["views/00.png", "views/01.png"])}, "cameras.json")
    with pytest.raises(CaptureError, match="frame 1: missing image"):
        load_capture(tmp_path)
    # Nor are its views padded: a model draws views of one size.
    write_picture(tmp_path / "views/01.png", 24, 17)
    with pytest.raises(CaptureError, match="mismatched image sizes"):
        load_capture(tmp_path)


def test_pictures_of_several_sizes_are_padded(tmp_path):
    names = ["images/a.png", "images/b.png", "images/c.png"]
    for name, size in zip(names, ((24, 16), (24, 17), (20, 16)), strict=True):
        write_picture(tmp_path / name, *size, grey=200)
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(names)})
    capture = load_capture(tmp_path)
    assert capture.images.shape == (3, 17, 24, 4) and (capture.cameras.width, capture.cameras.height) == (24, 17)
    sizes = [(16, 24), (17, 24), (16, 20)]
    for image, valid, (rows, columns) in zip(capture.images, capture.valid, sizes, strict=True):
        assert valid[:rows, :columns].all() and valid.sum() == rows * columns
        np.testing.assert_allclose(image[:rows, :columns, 0], 200 / 255)
        assert not image[~valid].any()
    # Angles of view are those of each picture itself.
    expected = [0.5 * width / math.tan(0.35) for width in (24, 24, 20)]
    np.testing.assert_allclose(capture.cameras.intrinsics[:, 0, 0], expected, rtol=1e-6)
    held = load_capture(tmp_path, hold_out=2)
    assert held.valid.shape == (1, 17, 24) and held.test.valid.shape == (2, 17, 24)
    assert held.digest() != capture.digest()
    half = load_capture(tmp_path, downscale=2)
    assert half.valid.shape == (3, 8, 12) and half.valid.sum(axis=(1, 2)).tolist() == [96, 96, 80]


@pytest.mark.parametrize(
    ("place", "frame"),
    [
        ("else/where.png", {"mask_path": "else/where.png"}),
        ("masks/0000.jpg.png", {}),
        ("masks/0000.png", {}),
        ("masks/images/0000.png", {}),
        ("masks/0000.PNG", {}),
    ],
)
@pytest.mark.parametrize("value", [255, 1])
def test_masks(tmp_path, place, frame, value):
    write_picture(tmp_path / "images/0000.jpg", grey=200)
    write_picture(tmp_path / "images/0001.jpg", grey=200)
    frames = frames_of(["images/0000.jpg", "images/0001.jpg"])
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": [frames[0] | frame, frames[1]]})
    save_mask(tmp_path / place, half_mask(value))
    capture = load_capture(tmp_path)
    np.testing.assert_array_equal(capture.valid[0], half_mask() > 0)
    np.testing.assert_array_equal(capture.images[0, ..., 3], half_mask() / 255)
    assert capture.valid[1].all() and (capture.images[1, ..., 3] == 1).all()
    assert capture.remarks == (f"masks of 1 of 2 views are applied, from {(tmp_path / place).parent}",)
    small = load_capture(tmp_path, downscale=5)
    # Of the third block of columns only half counts.
    np.testing.assert_array_equal(small.valid[0, 0], [True, True, False, False])


def test_masks_of_pictures_whose_suffix_is_in_another_case(tmp_path):
    write_picture(tmp_path / "images/0000.JPG", grey=200)
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(["images/0000.jpg"])})
    save_mask(tmp_path / "masks/0000.png", half_mask(255))
    np.testing.assert_array_equal(load_capture(tmp_path).valid[0], half_mask() > 0)


def test_kinds_of_masks(tmp_path):
    write_capture(tmp_path, count=5)
    alpha = np.full((16, 24, 4), 255, np.uint8)
    alpha[..., 3] = half_mask()
    save_mask(tmp_path / "masks/0000.png", alpha)
    Image.fromarray(half_mask()).convert("1").save(tmp_path / "masks/0001.png")
    Image.fromarray(half_mask()).save(tmp_path / "masks/0002.jpg", quality=60)
    save_mask(tmp_path / "masks/0003.png", half_mask().astype(np.uint16) * 257)
    # instant-ngp's dynamic masks mark what does not count.
    save_mask(tmp_path / "images/dynamic_mask_0004.png", 255 - half_mask())
    capture = load_capture(tmp_path)
    np.testing.assert_array_equal(capture.valid, np.stack([half_mask() > 0] * 5))
    save_mask(tmp_path / "masks/0001.png", np.zeros((16, 23), np.uint8))
    with pytest.raises(ImageError, match="23x16 pixels, its picture has 24x16"):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/a b.png", "images/a b.png"),
        ("images/a", "images/a.JPG"),
        ("images/a.jpg", "images/a.JPG"),
        ("images/A.png", "images/a.png"),
        ("images\\a.png", "images/a.png"),
        ("./images/ü.png", "images/ü.png"),
        ("images/a.tif", "images/a.tif"),
        ("images/a.v2", "images/a.v2.png"),
    ],
)
def test_names_of_pictures(tmp_path, name, file):
    write_picture(tmp_path / file, grey=77)
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of([name])})
    capture = load_capture(tmp_path)
    assert capture.names == (name,) and capture.images[0, 0, 0, 0] == pytest.approx(77 / 255, abs=0.01)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_byte_order_marks(tmp_path, encoding):
    made = write_capture(tmp_path)
    write_json(tmp_path, made, encoding=encoding)
    assert len(load_capture(tmp_path).images) == 4


def test_the_camera_file_itself(tmp_path):
    made = write_capture(tmp_path)
    whole = load_capture(tmp_path)
    assert load_capture(tmp_path / "transforms.json").digest() == whole.digest()
    assert find_camera_file(tmp_path / "transforms.json") == tmp_path / "transforms.json"
    # Not the one that its folder would mean.
    write_json(tmp_path, made | {"frames": made["frames"][:2]}, "transforms_train.json")
    assert len(load_capture(tmp_path).images) == 2 and len(load_capture(tmp_path / "transforms.json").images) == 4
    write_json(tmp_path, made | {"frames": made["frames"][3:]}, "transforms_test.json")
    alone = load_capture(tmp_path / "transforms_test.json")
    assert len(alone.images) == 1 and alone.test is None
    with pytest.raises(CaptureError, match="not a camera file"):
        load_capture(tmp_path / "images/0000.png")


def test_large_pictures_are_scaled_down_in_strips(tmp_path):
    """60 million pixels, and no more than 1 GB beside the 8-bit picture, which Pillow keeps outside of Python."""
    Image.new("RGB", (10_000, 6_000), (51, 102, 204)).save(tmp_path / "a.png", compress_level=1)
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(["a.png"])})
    with pytest.raises(ImageError, match="10000x6000 pixels are more than 50 million; give --downscale=2"):
        load_capture(tmp_path)
    tracemalloc.start()
    capture = load_capture(tmp_path, downscale=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert capture.images.shape == (1, 300, 500, 4) and peak < 4e8
    np.testing.assert_allclose(capture.images[0], np.broadcast_to([0.2, 0.4, 0.8, 1.0], (300, 500, 4)), atol=1e-5)


def test_strips_give_what_the_whole_picture_gives(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (67, 50, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(["a.png"])})
    whole = load_capture(tmp_path, downscale=3)
    monkeypatch.setattr("im3d_jax.data.pictures._STRIP", 400)
    strips = load_capture(tmp_path, downscale=3)
    assert strips.images.shape == (1, 22, 16, 4)
    np.testing.assert_allclose(strips.images, whole.images, atol=1e-6)


def test_memory_is_named_before_it_is_taken(tmp_path, monkeypatch):
    """One file of 36 million pixels, named by 40 frames."""
    Image.new("1", (6000, 6000)).save(tmp_path / "a.png")
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(["a.png"] * 40)})
    monkeypatch.setattr(views, "available_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(views, "FREE", 10**15)
    with pytest.raises(CaptureError) as caught:
        load_capture(tmp_path)
    line = str(caught.value)
    # 36 bytes a pixel: 1.3 GB a view, beside the decoding.
    assert "40 pictures of 6000x6000 pixels take 52.1 GB of memory, 7.2 GB can be had" in line
    assert "--downscale=3 fits, or at most 5 of the pictures" in line and "\n" not in line
    assert views.available_memory() == 8 * 10**9


@pytest.mark.parametrize(
    ("side", "kind", "frames", "words"),
    [
        # Files of 19 KB and 4 KB, and one of 1.1 MB, whose 9 million pixels count once.
        (
            7000,
            "PNG",
            1,
            "2.1 GB of memory, 0.9 GB is the most for 0.0193 MB of files: --downscale=2 fits, or at most 0",
        ),
        (7000, "PNG", 30, "53.3 GB of memory, 0.9 GB .*: --downscale=10 fits, or at most 0 of the pictures"),
        (3000, "PNG", 30, "9.9 GB of memory, 0.9 GB .*: --downscale=4 fits, or at most 2 of the pictures"),
        (3000, "TIFF", 30, "9.9 GB of memory, 0.9 GB .*: --downscale=4 fits, or at most 2 of the pictures"),
    ],
)
def test_small_files_cannot_take_all_memory(tmp_path, monkeypatch, side, kind, frames, words):
    """By headers, before anything is decoded, however much memory there is."""
    Image.new("1", (side, side), 1).save(tmp_path / "a.img", kind)
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames_of(["a.img"] * frames)})
    monkeypatch.setattr(views, "read_raw", lambda *_: pytest.fail("decoded"))
    for memory in (None, 10**15):
        monkeypatch.setattr(views, "available_memory", lambda memory=memory: memory)
        with pytest.raises(CaptureError, match=words):
            load_capture(tmp_path)


def test_shared_pictures_and_masks_are_decoded_once(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", grey=100)
    save_mask(tmp_path / "left.png", half_mask())
    frames = frames_of(["a.png"] * 4)
    for frame in frames[1:3]:
        frame["mask_path"] = "left.png"
    write_json(tmp_path, {"camera_angle_x": 0.7, "frames": frames})
    read, masks = [], []
    read_raw, read_mask = views.read_raw, views.read_mask
    monkeypatch.setattr(views, "read_raw", lambda *given: read.append(given) or read_raw(*given))
    monkeypatch.setattr(views, "read_mask", lambda *given: masks.append(given) or read_mask(*given))
    capture = load_capture(tmp_path)
    assert len(read) == len(masks) == 1
    assert [int(valid.sum()) for valid in capture.valid] == [384, 192, 192, 384]
    np.testing.assert_allclose(capture.images[..., 0].sum(axis=(1, 2)) / 100 * 255, [384, 192, 192, 384], rtol=1e-5)


def test_masks_that_leave_nothing(tmp_path):
    write_capture(tmp_path)
    save_mask(tmp_path / "masks/0002.png", np.zeros((16, 24), np.uint8))
    assert load_capture(tmp_path).remarks[1] == "masks leave no pixel of 1 of 4 views, 'images/0002.png' for instance"
    for place in range(4):
        save_mask(tmp_path / f"masks/{place:04d}.png", np.zeros((16, 24), np.uint8))
    with pytest.raises(
        CaptureError, match="masks leave no pixel of any view, .*0000.png for instance; expected values"
    ):
        load_capture(tmp_path)


def test_available_memory_is_a_number_on_linux():
    found = views.available_memory()
    assert found is None or 0 <= found < 2**60


def test_frames_may_name_other_fields_than_text(tmp_path):
    made = write_capture(tmp_path)
    write_json(tmp_path, made | {"frames": [made["frames"][0] | {"mask_path": 3}]})
    with pytest.raises(CaptureError, match="missing mask '3'"):
        load_capture(tmp_path)
    (tmp_path / "transforms.json").write_bytes(json.dumps(made).encode("utf-8") + b"\xff")
    with pytest.raises(CaptureError, match="not a readable JSON"):
        load_capture(tmp_path)
