"""The page in Chromium, from disk and without a network; skipped where there is no Chromium or playwright."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

import splat
from splat.io.files import on_host
from splat.io.frames import to_y_up, transform
from splat.io.spz import decode_spz, encode_spz
from tests.viewer.pages import LARGE, asset, cameras, enlarged, page, rendered


sync_api = pytest.importorskip("playwright.sync_api", reason="the client playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)


class Tab:
    """A tab with a page, and what went wrong in it."""

    def __init__(self, browser, path, width, height):
        self.context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.ready === 'true'", timeout=60_000)

    def picture(self, camera, ground="[1, 1, 1, 1]"):
        """[H, W, 4] of camera `camera` in a larger picture."""
        fields = "fx fy cx cy width height".split()
        larger = ", ".join(f"{field}: {LARGE} * c.{field}" for field in fields)
        url = self.page.evaluate(f"(c => im3d.picture({{...c, {larger}}}, {ground}))(im3d.cameras[{camera}])")
        return decoded(base64.b64decode(url.split(",")[1]))

    def close(self):
        """Nothing went wrong, and no request left."""
        self.context.close()
        assert not self.errors
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32) / 255


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    gaussians, orbit = asset(), cameras()
    path = tmp_path_factory.mktemp("page") / "a page with spaces.html"
    path.write_bytes(page(gaussians, orbit, rendered(gaussians, orbit)))
    return path, {view: enlarged(gaussians, orbit, view) for view in (0, 3)}


@pytest.fixture(scope="module")
def launch():
    """Starts Chromium; its own sandbox needs privileges that containers lack."""
    with sync_api.sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])


@pytest.fixture(scope="module")
def browser(launch):
    return launch("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture
def tab(browser, files):
    opened = Tab(browser, files[0], 1000, 600)
    yield opened
    opened.close()


def on_white(premultiplied):
    return (premultiplied[..., :3] + 1 - premultiplied[..., 3:]).clip(0, 1)


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def test_the_page_shows_what_we_render(tab, files):
    for view in (0, 3):
        ours, theirs = on_white(files[1][view]), tab.picture(view)[..., :3]
        assert theirs.shape == (512, 512, 3)
        assert psnr(theirs, ours) > 40, "30 is asked for; SPZ's rounding leaves 50"
        for wrong in (ours[::-1], ours[:, ::-1], ours[::-1, ::-1]):
            assert psnr(theirs, wrong) < 25, "upright, and not mirrored"
    black = tab.picture(3, "[0, 0, 0, 1]")[..., :3]
    assert psnr(black, files[1][3][..., :3].clip(0, 1)) > 40
    clear = tab.picture(3, "[0, 0, 0, 0]")
    assert np.abs(clear[..., 3] - files[1][3][..., 3]).max() < 0.03


def test_the_page_saves_the_asset(tab, tmp_path):
    turn = to_y_up("z")
    stored = transform(decode_spz(encode_spz(transform(on_host(asset()), turn))), turn.T)
    for kind in ("ply", "spz", "glb"):
        with tab.page.expect_download() as waiting:
            tab.page.click(f"[data-file={kind}]")
        path = tmp_path / f"a.{kind}"
        waiting.value.save_as(path)
        assert waiting.value.suggested_filename == f"a-ball-with-two-arms.{kind}"
        back = on_host(splat.load(path))
        np.testing.assert_allclose(back.means, stored.means, atol=1e-6)
        np.testing.assert_allclose(back.log_scales, stored.log_scales, atol=1e-5)
        np.testing.assert_allclose(back.opacity_logits, stored.opacity_logits, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(np.abs((back.quats * stored.quats).sum(axis=1)), 1, atol=1e-5)
        np.testing.assert_allclose(back.sh, stored.sh, atol=2e-5)
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 400\n")


def canvas_of(tab):
    return decoded(tab.page.screenshot(clip=tab.page.locator("#stage").bounding_box()))


def test_the_object_turns_and_answers_keys_and_wheel(tab):
    tab.page.emulate_media(reduced_motion="no-preference")
    first = canvas_of(tab)
    assert first[..., :3].std() > 0.02, "an object on a dark ground"
    tab.page.wait_for_timeout(1500)
    assert np.abs(canvas_of(tab) - first).max() > 0.2, "it turns by itself"
    tab.page.focus("#stage")
    tab.page.keyboard.press("Space")
    assert tab.page.get_attribute("#turn", "aria-pressed") == "false"
    tab.page.wait_for_timeout(800)
    still = canvas_of(tab)
    tab.page.keyboard.press("ArrowLeft")
    tab.page.wait_for_timeout(300)
    turned = canvas_of(tab)
    assert np.abs(turned - still).max() > 0.2
    box = tab.page.locator("#stage").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.wheel(0, 400)
    tab.page.wait_for_timeout(800)
    assert np.abs(canvas_of(tab) - turned).max() > 0.2


def test_the_toolbar_and_a_finger(tab):
    tab.page.click("#turn")
    assert tab.page.get_attribute("#turn", "aria-pressed") == "false"
    tab.page.click("#home")
    tab.page.wait_for_timeout(1500)
    before = canvas_of(tab)
    box = tab.page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = tab.context.new_cdp_session(tab.page)
    for kind, places in (("touchStart", [0]), ("touchMove", [40]), ("touchMove", [120]), ("touchEnd", [])):
        points = [{"x": x + shift, "y": y} for shift in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    tab.page.wait_for_timeout(800)
    assert np.abs(canvas_of(tab) - before).max() > 0.2, "a finger turns it"
    tab.page.click("#ground")
    assert canvas_of(tab)[..., :3].mean() > 0.6, "on a light ground"


def test_the_strip_and_the_slider(tab):
    views = tab.page.locator("#strip .view")
    assert views.count() == 8 and tab.page.locator("#strip img").count() == 16
    assert tab.page.get_attribute("#strip .view:nth-child(4)", "aria-pressed") == "true", "refinement changed it most"
    views.nth(2).click()
    assert tab.page.inner_text("#compared") == "90°"
    tab.page.wait_for_selector("#strip .view:nth-child(3).near", timeout=30_000)
    tab.page.focus("#slider")
    shown = []
    for key in ("Home", "End"):
        tab.page.keyboard.press(key)
        tab.page.wait_for_timeout(100)
        shown.append(decoded(tab.page.locator("#compare").screenshot()))
    assert shown[1][..., :3].mean() > shown[0][..., :3].mean() + 0.01, "the first drawing is lighter"


@pytest.mark.parametrize("width, height", [(320, 640), (390, 844), (768, 1024), (1920, 1080)])
def test_the_page_fits_every_screen(browser, files, width, height):
    tab = Tab(browser, files[0], width, height)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    stage = tab.page.locator("#stage").bounding_box()
    assert stage["height"] <= height and stage["width"] <= width
    tab.close()


def test_a_browser_without_webgl_shows_a_still_picture(launch, files):
    tab = Tab(launch("--disable-3d-apis"), files[0], 800, 600)
    assert "no WebGL 2, so this is a still picture" in tab.page.inner_text("#note")
    assert tab.page.is_visible("#still") and tab.page.is_enabled("[data-file=ply]")
    assert canvas_of(tab)[..., :3].std() > 0.05
    tab.errors.clear()  # Chromium itself says that it cannot draw
    tab.close()
