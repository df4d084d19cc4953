"""The guides: their Python blocks run, commands parse, links and names resolve, and the code keeps the import rule."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import importlib
import os
import pathlib
import re
import shlex

import numpy as np
import pytest
from absl import flags

import splat
from im3d_jax.cli.main import COMMANDS
from im3d_jax.data.camera_files import encode_cameras
from im3d_jax.images.files import encode_png
from im3d_jax.pipelines import bundle
from im3d_jax.reconstruction.presets import HullStart
from tests import tiny


ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("im3d_jax", "splat", "experiments")
PAGES = sorted(
    page
    for name in (".", *PACKAGES, "docs", "tests")
    for page in ROOT.glob("*.md" if name == "." else f"{name}/**/*.md")
    if "node_modules" not in page.parts
)
GUIDES = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs") and page.name != "CHANGELOG.md"]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")


def of_page(page):
    return str(page.relative_to(ROOT))


def fences(page, info):
    """Contents of a page's fenced blocks with this info string."""
    return [content for found, content in FENCE.findall(page.read_text()) if found == info]


def prose(page):
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def spans(page):
    """Inline code of a page."""
    return SPAN.findall(prose(page))


# Python blocks.


def run_blocks(name, folder, monkeypatch, **replaced):
    """Runs the blocks of a page in order, in one namespace and in a folder; returns the namespace."""
    monkeypatch.chdir(folder)
    namespace = {"__name__": name}
    for number, block in enumerate(fences(ROOT / name, "python"), 1):
        for before, after in replaced.items():
            block = block.replace(before, after)
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)
    return namespace


def thing():
    """A few gaussians on a small sphere."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(200, 3)).astype(np.float32)
    means *= 0.5 / np.linalg.norm(means, axis=-1, keepdims=True)
    ones = np.ones((200, 1), np.float32)
    return splat.Gaussians(
        means=means,
        quats=np.concatenate([ones, 0 * means], axis=-1),
        log_scales=np.full((200, 3), np.log(0.1), np.float32),
        opacity_logits=np.full(200, 3.0, np.float32),
        sh=rng.uniform(-1, 1, (200, 1, 3)).astype(np.float32),
    )


def write_views(folder, count=8, side=32):
    """A NeRF-synthetic capture of `thing`."""
    folder.mkdir()
    cameras = splat.orbit_cameras(0.3, views=count, width=side, height=side)
    out = splat.render(thing(), cameras)
    alpha = np.asarray(out.alpha)[..., None]
    images = np.concatenate([np.clip(np.asarray(out.rgb) / np.maximum(alpha, 1e-6), 0, 1), alpha], axis=-1)
    for index, image in enumerate(images):
        (folder / f"{index}.png").write_bytes(encode_png(image))
    (folder / "transforms_train.json").write_bytes(encode_cameras(cameras, [str(index) for index in range(count)]))
    return images[0]


def shorten_fits(monkeypatch, steps, count):
    """Fits of draft quality with fewer steps and gaussians."""
    draft, part = bundle.QUALITIES["draft"], steps // 3
    fit = dataclasses.replace(
        draft.fit,
        steps=steps,
        densify_every=part,
        densify_from=part,
        densify_until=2 * part,
        capacity=count,
        initial=count // 2,
        hull=HullStart(count=count),
    )
    monkeypatch.setitem(bundle.QUALITIES, "draft", dataclasses.replace(draft, fit=fit))


@pytest.mark.slow
def test_readme_makes_its_asset(tmp_path, monkeypatch, capsys):
    """With the bundled model; the fit is shorter than in a real draft."""
    shorten_fits(monkeypatch, 24, 1500)
    made = run_blocks("README.md", tmp_path, monkeypatch)
    images = made["images"]
    assert images.shape == (16, 128, 128, 4) and np.isfinite(images).all()
    assert 0.02 < images[..., 3].mean() < 0.6
    assert len(splat.load(tmp_path / "mug.ply").means) == len(made["asset"].gaussians.means) > 1000
    assert "refinement 2: done" in capsys.readouterr().out


@pytest.mark.slow
def test_api_page(tmp_path, monkeypatch, capsys):
    """With the smallest model that has every part of the bundled one, and short fits."""
    folder = tiny.write_bundle(tmp_path / "bundle")
    picture = write_views(tmp_path / "capture")
    (tmp_path / "mug.png").write_bytes(encode_png(picture))
    shorten_fits(monkeypatch, 12, 300)
    smaller = {'"tiny"': repr(folder), "steps=200": "steps=40", "5_000": "500"}
    made = run_blocks("docs/api.md", tmp_path, monkeypatch, **smaller)
    assert len(made["assets"]) == 2
    assert sorted(os.listdir("views")) == [f"{index:02d}.png" for index in range(tiny.FRAMES)]
    for name in ("run.json", "asset.ply", "views/00.png", "cameras.json", "turntable.mp4"):
        assert (tmp_path / "runs/mug" / name).is_file(), name
    capture = made["capture"]
    assert len(capture.images) == 6 and len(capture.test.images) == 2
    assert made["squared"] < np.mean(capture.test.images[..., 3] ** 2)
    np.testing.assert_array_equal(made["again"].targets.shape, (tiny.FRAMES, tiny.SIDE, tiny.SIDE, 4))
    assert made["out"].rgb.shape == (8, 64, 64, 3)
    said = capsys.readouterr().out
    assert "the prompt is empty" in said and "views: step" in said


def test_diffusion_page(tmp_path, monkeypatch):
    made = run_blocks("docs/diffusion.md", tmp_path, monkeypatch)
    assert made["videos"].shape == made["refined"].shape == (2, 16, 8, 8, 4)
    np.testing.assert_allclose(made["x0"], made["videos"], rtol=1e-4, atol=1e-5)


def test_toybox_page(tmp_path, monkeypatch):
    made = run_blocks("docs/toybox.md", tmp_path, monkeypatch)
    assert made["rgba"].shape == (16, 128, 128, 4)
    assert made["caption"] == "a blue teapot with white stripes on a wooden table"


def test_formats_page(tmp_path, monkeypatch):
    save_in = tmp_path / "asset.ply"
    splat.save(save_in, thing())
    run_blocks("docs/formats.md", tmp_path, monkeypatch)
    assert {path.name for path in tmp_path.iterdir()} == {
        "asset.ply",
        "asset.spz",
        "capture.glb",
        "small.ply",
        "packed.ply",
        "new.spz",
        "fine.spz",
    }


@pytest.mark.parametrize("page", GUIDES, ids=of_page)
def test_blocks_that_do_not_run_are_python(page):
    """They say so, their imports exist, and the page says why; `python` is the only other info string of Python."""
    for info in re.findall(r"^```(py.*)$", page.read_text(), re.MULTILINE):
        assert info in ("python", "python no-run")
    for block in fences(page, "python no-run"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), of_page(page), "exec"), {})


# Text.


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_lines_fit(page):
    long = {number: line for number, line in enumerate(page.read_text().split("\n"), 1) if len(line) > 120}
    assert not long


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        repeats = sum(re.fullmatch(rf"{re.escape(text)}(-\d+)?", other) is not None for other in found)
        found.append(f"{text}-{repeats}" if repeats else text)
    return found


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", SPAN.sub("", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


# Commands and names.


def commands_of(page):
    """Commands of `im3d` in a page: [(command, rest)], lines that go on joined."""
    texts = [content for info, content in FENCE.findall(page.read_text()) if not info.startswith(("python", "mermaid"))]
    lines: list[str] = []
    for text in texts:
        for line in text.split("\n"):
            goes_on = lines and (lines[-1].endswith("\\") or re.match(r" +[\[-]", line))
            if goes_on:
                lines[-1] = f"{lines[-1].removesuffix(chr(92))} {line.strip()}"
            else:
                lines.append(line)
    found = []
    for text in [*lines, *spans(page)]:
        for part in re.split(r"&&| # ", text):
            match = re.fullmatch(r"\s*(?:\.venv/bin/)?im3d ([a-z]+(?:-[a-z]+)*)\b(.*)", part)
            if match:
                found.append(match.groups())
    return found


def flags_of(command):
    values = flags.FlagValues()
    importlib.import_module(f"im3d_jax.cli.{command.replace('-', '_')}").register(values)
    return values


@pytest.mark.parametrize("page", GUIDES, ids=of_page)
def test_commands_parse(page):
    """Whole commands are parsed; of synopses, with brackets or letters for values, every flag exists."""
    for command, rest in commands_of(page):
        assert command in COMMANDS, f"im3d {command}"
        values = flags_of(command)
        for name in re.findall(r"--(\w+)", rest):
            assert name in values or (name.startswith("no") and name[2:] in values), f"im3d {command} --{name}"
        if not re.search(r"[\[|…]|=[A-Z]\b", rest):
            left = values([command, *shlex.split(rest)])[1:]
            taken = len(left) == 1 and not left[0].startswith("-") and command in ("view", "export")
            assert not left or taken, rest


def test_synopses_name_every_flag():
    """The guides show every flag of every command."""
    shown = {name: set() for name in COMMANDS}
    for page in GUIDES:
        for command, rest in commands_of(page):
            shown[command] |= set(re.findall(r"--(\w+)", rest))
    shown["views"] |= shown["generate"]  # "the same flags"
    for command, seen in shown.items():
        assert set(flags_of(command)) <= seen, command


@pytest.mark.parametrize("page", GUIDES, ids=of_page)
def test_flags_named_alone_exist(page):
    """Those of `im3d`, or of programs in `experiments`, where each name is a literal."""
    known = {name for command in COMMANDS for name in flags_of(command)} | {"help"}
    for file in (ROOT / "experiments").rglob("*.py"):
        known |= {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
    for span in spans(page):
        if span.startswith("--"):
            names = re.findall(r"--(\w+)", span)
            assert all(name in known for name in names), span


@pytest.mark.parametrize("page", GUIDES, ids=of_page)
def test_modules_and_attributes_exist(page):
    """Programs of `experiments`, and dotted names of the packages in inline code."""
    text = page.read_text()
    names = set(re.findall(r"python -m (experiments(?:\.\w+)+)", text))
    names |= {span for span in spans(page) if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", span)}
    for name in names:
        parts = name.split(".")
        depth = len(parts)
        while not (
            ROOT.joinpath(*parts[:depth]).is_dir() or ROOT.joinpath(*parts[:depth]).with_suffix(".py").is_file()
        ):
            depth -= 1
        assert depth > 1 or parts[0] != "experiments", name
        value = None if depth == len(parts) else importlib.import_module(".".join(parts[:depth]))
        for attribute in parts[depth:]:
            assert hasattr(value, attribute), name
            value = getattr(value, attribute)


# The architecture page.


def sources(path):
    """Text of a module or package that the page names, relative to the repository or to im3d_jax."""
    for base in (ROOT, ROOT / "im3d_jax"):
        if (base / path).is_file():
            return (base / path).read_text()
        if (base / path).is_dir():
            return "".join(file.read_text() for file in (base / path).rglob("*.py"))
    raise AssertionError(f"{path} does not exist")


def test_places_exist_and_hold_what_the_page_says():
    """In each row, item or paragraph, names beside paths occur in one of these files."""
    text = prose(ARCHITECTURE).replace("\n   ", " ")
    checked = 0
    for line in text.split("\n"):
        code = SPAN.findall(line)
        paths = [span for span in code if re.fullmatch(r"[\w/.]+\.py|[\w]+/[\w/]+", span)]
        names = [span for span in code if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", span) and span not in paths]
        held = [sources(path) for path in paths]
        for name in names:
            if held and name.split(".")[-1] not in (*COMMANDS, *PACKAGES, "tiny", "standard", "best", "draft"):
                assert any(re.search(rf"\b{name.split('.')[-1]}\b", each) for each in held), f"{name} in {paths}"
                checked += 1
    assert checked > 15


def import_rule():
    """{package: packages it may import} from the page's table."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", ARCHITECTURE.read_text(), re.MULTILINE)
    allowed = {name: set() if cell.startswith("nothing") else set(SPAN.findall(cell)) for name, cell in rows}
    allowed["experiments"] = {name for name, _ in rows} - {"cli", "experiments"}
    for name in graphlib.TopologicalSorter(allowed).static_order():
        if "import" in dict(rows)[name]:
            allowed[name] |= {deeper for each in allowed[name] for deeper in allowed[each]}
    return allowed


def imports(file):
    """Dotted names that a file imports, those for type checking included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(name):
    """The row of the table that a dotted name belongs to, or None."""
    first, *rest = name.split(".")
    if first == "im3d_jax":
        return rest[0] if rest and (ROOT / "im3d_jax" / rest[0]).is_dir() else None
    return first if first in PACKAGES else None


def test_import_rule_holds():
    allowed = import_rule()
    packages = {"splat", "experiments"} | {path.parent.name for path in (ROOT / "im3d_jax").glob("*/__init__.py")}
    assert set(allowed) == packages
    graphlib.TopologicalSorter(allowed).prepare()  # raises on a cycle
    broken = []
    for package in allowed:
        folder = ROOT / package if package in PACKAGES else ROOT / "im3d_jax" / package
        for file in folder.rglob("*.py"):
            for name in imports(file):
                target = package_of(name)
                if package == "splat" and name.split(".")[0] == "im3d_jax":
                    broken.append(f"{file.relative_to(ROOT)} imports {name}")
                elif target not in (None, package) and target not in allowed[package]:
                    broken.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not broken


def test_modules_beside_the_packages_import_none():
    """What every package may import depends on no package."""
    beside = [file for file in (ROOT / "im3d_jax").glob("*.py") if not file.name.startswith("__")]
    sentence = re.search(
        r"modules beside them, which import no package: (.*?) and others", prose(ARCHITECTURE), re.DOTALL
    )
    assert sentence is not None and set(SPAN.findall(sentence[1])) <= {file.stem for file in beside}
    for file in beside:
        assert not [name for name in imports(file) if package_of(name)], file
