"""Cases of run folders: damaged records, results and states, links, locks, foreign files."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from unittest import mock

import im3d_jax
from im3d_jax.atomic import hold
from im3d_jax.generation import flags as shared
from im3d_jax.generation.captures import CaptureSettings
from im3d_jax.progress import Event
from tests.data.posed import write_capture
from tests.fake_model import FakeModel
from tests.robustness.case import Case, im3d


FIT = ("--steps=4", "--gaussians=100", "--sh_degree=0")
SETTINGS = CaptureSettings(steps=4, gaussians=100, sh_degree=0)
VIEWS = ("views", "--prompt=a mug", "--elevation_deg=10")


def drawn(*arguments: object) -> str:
    """`im3d` with the model without networks."""
    with mock.patch.object(shared, "model_of", lambda values: FakeModel().pipeline):
        return im3d(*arguments)


@functools.cache
def made() -> pathlib.Path:
    """A folder with a capture, a finished fit of it, one that was stopped, and finished views; made once."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="im3d-tests-robustness-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    write_capture(place / "capture")
    im3d("reconstruct", f"--data={place / 'capture'}", f"--out={place / 'fit'}", *FIT)
    drawn(*VIEWS, f"--out={place / 'views'}")

    def stop(event: Event) -> None:
        if event.stage.startswith("fit") and event.done == 3:
            raise KeyboardInterrupt

    try:
        im3d_jax.reconstruct(place / "capture", settings=SETTINGS, out=place / "partial", progress=stop)
    except KeyboardInterrupt:
        pass
    assert (place / "partial/state/fit0.partial.npz").is_file()
    return place


def copied(name: str, folder: pathlib.Path) -> pathlib.Path:
    shutil.copytree(made() / name, folder / "run")
    return folder / "run"


def again(name: str, run: pathlib.Path, *more: str) -> str:
    """The command that made a folder of `made` once more."""
    if name == "views":
        return drawn(*VIEWS, f"--out={run}", *more)
    return im3d("reconstruct", f"--data={made() / 'capture'}", f"--out={run}", *FIT, *more)


def results(folder: pathlib.Path) -> dict[str, bytes]:
    """Files of a run without those that hold seconds."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = {name: path.read_bytes() for name, path in names.items() if name != "timings.json"}
    if "metrics.json" in found:
        metrics = json.loads(found["metrics.json"])
        metrics.pop("seconds")
        found["metrics.json"] = json.dumps(metrics).encode()
    json.loads(names["timings.json"].read_bytes())
    return found


def damaged(name: str, file: str, change: Callable[[bytes], bytes | None]) -> Callable[[pathlib.Path], None]:
    """One file of a finished run is damaged: the command mends the folder, which ends as it was."""

    def act(folder: pathlib.Path) -> None:
        run = copied(name, folder)
        content = change((run / file).read_bytes())
        if content is None:
            (run / file).unlink()
        else:
            (run / file).write_bytes(content)
        again(name, run)
        assert results(run) == results(made() / ("fit" if name == "partial" else name))

    return act


def flipped(share: float, bit: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        found = bytearray(content)
        found[int(share * (len(found) - 1))] ^= 1 << bit
        return bytes(found)

    return change


def damages() -> Iterator[Case]:
    changes: dict[str, Callable[[bytes], bytes | None]] = {
        "cut": lambda content: content[: len(content) // 2],
        "empty": lambda content: b"",
        "missing": lambda content: None,
    }
    json_changes = changes | {
        "zero bytes": lambda content: bytes(len(content)),
        "a list": lambda content: b"[]",
        "null": lambda content: b"null",
        "not UTF-8": lambda content: b"\xff" + content,
        "nested deeply": lambda content: b"[" * 100_000,
    }
    for name, files in (
        ("fit", ("run.json", "timings.json", "state/stages.json")),
        ("views", ("run.json", "state/stages.json")),
    ):
        for file, (what, change) in itertools.product(files, json_changes.items()):
            yield Case(6, f"{name}: {file} {what}", damaged(name, file, change))
    for name, files in (
        ("fit", ("metrics.json", "asset.ply", "state/fit0.npz", "turntable.mp4")),
        ("views", ("input.png", "views/03.png", "cameras.json", "views.mp4", "sheet.png")),
    ):
        for file, (what, change) in itertools.product(files, changes.items()):
            yield Case(6, f"{name}: {file} {what}", damaged(name, file, change))
    for share, bit in itertools.product((0.0, 0.002, 0.01, 0.05, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 1.0), (0, 5)):
        yield Case(
            6, f"partial fit, bit {bit} at {share}", damaged("partial", "state/fit0.partial.npz", flipped(share, bit))
        )
    for what, change in changes.items():
        yield Case(6, f"partial fit {what}", damaged("partial", "state/fit0.partial.npz", change))
    for share in (0.0, 0.1, 0.5, 0.9):
        yield Case(6, f"state, bit at {share}", damaged("fit", "state/fit0.npz", flipped(share, 3)))


def _held(name: str, lock: str = ".lock") -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        run = copied(name, folder)
        with hold(run, lock):
            before = results(run)
            try:
                again(name, run, *(["--overwrite"] if name == "views" else []))
            finally:
                after = results(run)
                after.pop(lock, None)
                before.pop(lock, None)
                assert after == before

    return act


def _stale(content: bytes) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        run = copied("views", folder)
        (run / ".lock").write_bytes(content)
        (run / ".partial-123-abc.png").write_bytes(b"left over")
        again("views", run)
        assert results(run) == results(made() / "views")

    return act


def locks() -> Iterator[Case]:
    for name in ("fit", "views", "partial"):
        yield Case(5, f"{name}: held by another process", _held_partial(name), r"another process \(\d+\) works in")
    for content in (b"", b"4711", b"not a number", bytes(100)):
        yield Case(5, f"a lock left over with {content[:8]!r}", _stale(content))

    def held_fifo(folder: pathlib.Path) -> None:
        run = copied("views", folder)
        os.mkfifo(run / ".lock")
        again("views", run)

    yield Case(5, "the lock is a pipe", held_fifo, r"cannot write .*\.lock")

    def a_folder(folder: pathlib.Path) -> None:
        run = copied("views", folder)
        (run / ".lock").mkdir()
        again("views", run)

    yield Case(5, "the lock is a folder", a_folder, r"cannot write .*\.lock")

    def a_link(folder: pathlib.Path) -> None:
        run = copied("views", folder)
        (folder / "precious").write_text("keep")
        (run / ".lock").symlink_to(folder / "precious")
        try:
            again("views", run)
        finally:
            assert (folder / "precious").read_text() == "keep"

    yield Case(7, "the lock is a link", a_link, r"cannot write .*\.lock")


def _held_partial(name: str) -> Callable[[pathlib.Path], None]:
    if name != "partial":
        return _held(name)

    def act(folder: pathlib.Path) -> None:
        run = copied("partial", folder)
        with hold(run):
            again("partial", run)

    return act


def _linked(name: str, more: tuple[str, ...] = ()) -> Callable[[pathlib.Path], None]:
    """A file of the run is a link to one outside, which stays as it is."""

    def act(folder: pathlib.Path) -> None:
        run = folder / "run"
        run.mkdir()
        (folder / "precious").write_text("keep")
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to(folder / "precious")
        again("views", run, *more)
        assert (folder / "precious").read_text() == "keep"
        if "partial" not in name:
            assert not (run / name).is_symlink()

    return act


def _linked_folder(name: str, more: tuple[str, ...] = ()) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        (folder / "outside").mkdir()
        for file in ("00.png", ".partial-1.png", "stages.json"):
            (folder / "outside" / file).write_text("keep")
        run = folder / "run"
        run.mkdir()
        (run / name).symlink_to(folder / "outside")
        try:
            again("views", run, *more)
        finally:
            kept = {path.name: path.read_text() for path in (folder / "outside").iterdir()}
            assert kept == dict.fromkeys(("00.png", ".partial-1.png", "stages.json"), "keep")

    return act


def links() -> Iterator[Case]:
    overwrite = ("--overwrite",)
    for name in ("run.json", "timings.json", "input.png", "cameras.json", "views/00.png", "state/stages.json"):
        yield Case(7, f"{name} is a link, overwritten", _linked(name, overwrite))
    for name in (".writable.partial", ".partial-run.json", ".partial-1-2.png"):
        yield Case(7, f"{name} is a link", _linked(name))
    for name in ("views", "state"):
        yield Case(7, f"{name} is a link to a folder", _linked_folder(name), "is a symbolic link")
        yield Case(7, f"{name} is a link to a folder, overwritten", _linked_folder(name, overwrite))

    def foreign(folder: pathlib.Path) -> None:
        run = copied("views", folder)
        mine = (
            "notes.txt",
            "views/mine.png",
            "views/00.jpg",
            "state/notes.txt",
            "asset.spz",
            "deep/er/a.png",
            "views/00.png.bak",
        )
        for name in mine:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text("keep")
        again("views", run, "--overwrite")
        assert all((run / name).read_text() == "keep" for name in mine)

    yield Case(7, "--overwrite keeps files of the user", foreign)

    def records_elsewhere(folder: pathlib.Path) -> None:
        run = copied("views", folder)
        (folder / "precious").write_text("keep")
        records = json.loads((run / "state/stages.json").read_bytes())
        for record in records.values():
            record["outputs"] |= {"../precious": None, str(folder / "precious"): None}
        (run / "state/stages.json").write_text(json.dumps(records))
        again("views", run, "--overwrite")
        assert (folder / "precious").read_text() == "keep"

    yield Case(7, "records that name files elsewhere", records_elsewhere)
    for name in ("asset.ply", "views", "input.png"):

        def no_run(folder: pathlib.Path, name: str = name) -> None:
            (folder / "run" / name).mkdir(parents=True)
            again("views", folder / "run")

        yield Case(7, f"a folder that holds {name} of something else", no_run, f"holds {name} but no run.json")


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (damages, locks, links):
        yield from part()
