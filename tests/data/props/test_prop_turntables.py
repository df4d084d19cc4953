"""Turntables of props: named colours are drawn, examples repeat exactly, processes draw the same."""

import colorsys
import pickle

import numpy as np
import pytest

from im3d_jax.data.props.measuring import colour_word, has_flat_top, main_colour, stands
from im3d_jax.data.props.paints import SURFACES, Paint, draw_colour
from im3d_jax.data.props.processes import PropProcesses
from im3d_jax.data.props.turntables import PropTurntables, open_props
from im3d_jax.data.toybox.palette import COLOURS
from im3d_jax.errors import InputError
from tests.data.props import objects


SIZE, FRAMES = 32, 3


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return objects.write(tmp_path_factory.mktemp("props") / "few.meshpack")


@pytest.fixture(scope="module")
def renderer():
    pytest.importorskip("moderngl")
    from im3d_jax.data.props.renderer import PropRenderer

    try:
        made = PropRenderer(SIZE, FRAMES)
    except InputError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def box(pack, renderer):
    return PropTurntables(pack, "train", size=SIZE, frames=FRAMES, objects=40, props=objects.PROPS)


def hue(rgb):
    return 360.0 * colorsys.rgb_to_hsv(*(np.asarray(rgb, float) / 255.0))[0]


def draw(renderer, key, paint, main=objects.BROWN):
    from im3d_jax.data.props.renderer import Item

    number = [each.id for each in objects.PROPS].index(key)
    item = Item(number, objects.mesh(key), 0.8 * np.eye(4) + np.diag([0, 0, 0, 0.2]), paint, main)
    return renderer.render([item], np.array([0.3, 2.0]), np.array([0.4, 0.4]))


@pytest.mark.parametrize("word", [word for word in COLOURS if word not in ("black", "gray", "white")])
def test_named_colours_are_those_drawn(renderer, word):
    """Mean hue inside the mask, over all of a plain mesh and over the main colour of another."""
    rng = np.random.default_rng(3)
    for key, scope in (("bell", "all"), ("barrel", "main")):
        for plastic in (False, True):
            paint = draw_colour(rng, scope, plastic=plastic)
            while word not in paint.words:
                paint = draw_colour(rng, scope, plastic=plastic)
            frames = draw(renderer, key, paint)
            mean = frames[frames[..., 3] > 250][:, :3].mean(0)
            away = (hue(mean) - hue(255 * np.array(COLOURS[word])) + 180.0) % 360.0 - 180.0
            assert abs(away) < 12.0, (word, scope, mean)


def test_shades_without_hue(renderer):
    light = {}
    for word in ("black", "gray", "white"):
        frames = draw(renderer, "bell", Paint(word, COLOURS[word], "matte", "all"))
        mean = frames[frames[..., 3] > 250][:, :3].mean(0)
        assert np.ptp(mean) < 8.0
        light[word] = mean.mean()
    assert light["black"] < 45 < 80 < light["gray"] < 140 < 160 < light["white"]


def test_main_colour_alone_is_painted(renderer):
    """The flag stays green where its post turns red."""
    red = draw(renderer, "flag", Paint("red", COLOURS["red"], "matte", "main"))
    own = draw(renderer, "flag", Paint())
    redness = own[..., 0].astype(int) - own[..., 1]  # pixels of both lie between
    green, brown = (redness < -60) & (own[..., 3] == 255), (redness > 12) & (own[..., 3] == 255)
    assert green.sum() > 20 and brown.sum() > 10
    np.testing.assert_allclose(red[green].astype(int), own[green], atol=2)
    assert np.median(red[brown][:, 0].astype(int) - red[brown][:, 1]) > 60


@pytest.mark.parametrize("surface", SURFACES)
def test_surfaces_keep_the_outline_and_differ(renderer, surface):
    plain = draw(renderer, "bell", Paint("gray", (0.5, 0.5, 0.5), "matte", "all"))
    frames = draw(renderer, "bell", Paint("", (0.5, 0.5, 0.5), surface, "all"))
    np.testing.assert_array_equal(frames[..., 3], plain[..., 3])
    assert 70 < frames[frames[..., 3] == 255][:, :3].mean() < 190
    if surface in ("wood", "stone", "marble", "metal"):
        assert np.abs(frames.astype(int) - plain).max() > 12


def test_examples(box):
    item = box[7]
    assert item.rgba.shape == (FRAMES, SIZE, SIZE, 4) and item.rgba.dtype == np.uint8
    assert item.key == "train-0-7" and item.caption == box.caption(7)
    assert item.elevations.dtype == item.azimuths.dtype == np.float32
    np.testing.assert_allclose(item.azimuths, np.arange(FRAMES) * 2 * np.pi / FRAMES, rtol=1e-6)
    np.testing.assert_allclose(item.elevations, box.scenes.scene(7).elevation, rtol=1e-6)
    assert (item.rgba[..., 3] > 127).mean() > 0.02
    assert not item.rgba[item.rgba[..., 3] == 0].any()
    assert not item.rgba[:, [0, -1]].any() and not item.rgba[:, :, [0, -1]].any()  # nothing is cut
    for index in (40, -1):
        with pytest.raises(IndexError):
            box[index]


def test_examples_repeat_whatever_was_drawn_before(box, pack):
    first = [box[index].rgba for index in (3, 4)]
    fresh = PropTurntables(pack, "train", size=SIZE, frames=FRAMES, objects=40, props=objects.PROPS)
    np.testing.assert_array_equal(fresh[4].rgba, first[1])
    for index in (9, 3):
        again = pickle.loads(pickle.dumps(box))[index]
    np.testing.assert_array_equal(again.rgba, first[0])
    other = PropTurntables(pack, "train", size=SIZE, frames=FRAMES, seed=5, props=objects.PROPS)
    assert (other[4].rgba != first[1]).any()


def test_sets_of_one_thread_keep_apart(box, pack, renderer):
    """Each has a context; what is drawn does not depend on which was used last."""
    first = box[2].rgba
    test = PropTurntables(pack, "test", size=16, frames=2, props=objects.PROPS)
    assert test[0].rgba[..., 3].any()
    bell = draw(renderer, "bell", Paint())
    np.testing.assert_array_equal(box[2].rgba, first)
    np.testing.assert_array_equal(draw(renderer, "bell", Paint()), bell)


def test_processes_draw_the_same(box):
    with PropProcesses(box, 2) as drawn:
        assert (len(drawn), drawn.size, drawn.frames, drawn.caption(3)) == (40, SIZE, FRAMES, box.caption(3))
        for index in (5, 6, 5):
            np.testing.assert_array_equal(drawn[index].rgba, box[index].rgba)
            assert (drawn[index].caption, drawn[index].key) == (box[index].caption, box[index].key)
        with pytest.raises(IndexError):
            drawn[40]
        for worker in drawn._workers:
            worker.kill()
        with pytest.raises(InputError, match="a drawing process ended"):
            drawn[5]


def test_measures(renderer):
    from im3d_jax.data.props.renderer import ALBEDO, Item

    frames = renderer.render([Item(77, objects.mesh("flag"), np.eye(4))], np.zeros(2), np.zeros(2), ALBEDO)
    main, share = main_colour(frames)
    assert 0.4 < share < 0.95 and (
        np.allclose(main, objects.BROWN, atol=0.02) or np.allclose(main, objects.GREEN, atol=0.02)
    )
    assert [colour_word(objects.BROWN), colour_word(objects.GREEN), colour_word((0.5, 0.5, 0.5))] == [
        "brown",
        "green",
        "gray",
    ]
    assert colour_word((0.6, 0.5, 0.42)) == ""
    assert stands(objects.mesh("table")) and has_flat_top(objects.mesh("table"))
    flag = objects.mesh("flag")
    assert not has_flat_top(flag) and not stands(flag)


def test_a_pack_without_the_props_is_refused(pack, tmp_path):
    with pytest.raises(InputError, match="lacks .* props"):
        PropTurntables(pack, "train")
    with pytest.raises(InputError, match="cannot be read"):
        PropTurntables(tmp_path / "none.meshpack", "train")
    for spec in ("props:", "props:x:0", "props:x:1:2:3:4", "props:x:one"):
        with pytest.raises(InputError, match="expected props:PACK"):
            open_props(spec, spec.split(":")[1:])
    with pytest.raises(ValueError, match="has 1000000 objects"):
        PropTurntables(pack, "train", objects=2_000_000, props=objects.PROPS)
