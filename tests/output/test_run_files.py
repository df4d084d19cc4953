"""Whose files a run touches: its own, while no other process works there."""

import contextlib
import multiprocessing
import os
import socket
import stat

import pytest

from im3d_jax.atomic import check_replaceable, hold, replacing, replacing_folder, write_whole
from im3d_jax.errors import RunFolderError
from im3d_jax.output.run_folder import RunFolder, StageFiles
from tests.output.test_run_folder import contents, two_stages


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_a_second_process_is_refused_and_comes_next(tmp_path):
    folder = RunFolder(tmp_path, {"text": "x"})
    folder.start()
    for attempt in (RunFolder(tmp_path, {"text": "x"}), RunFolder(tmp_path, {"text": "x"}, overwrite=True)):
        with pytest.raises(RunFolderError, match=rf"another process \({os.getpid()}\) works in .*wait for it"):
            attempt.start()
    folder.close()
    assert names(tmp_path) == ["run.json"]
    two_stages(RunFolder(tmp_path, {"text": "x"}), [])
    # One that holds the folder at each stage alone, as many lines of a batch do.
    batch = RunFolder(tmp_path, {"text": "x"})
    batch.start(held=False)
    with hold(tmp_path), pytest.raises(RunFolderError, match="another process"):
        batch.stage("third", lambda files: files.write("c", b""))
    batch.stage("third", lambda files: files.write("c", b""))
    assert ".lock" not in names(tmp_path)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    (tmp_path / ".lock").write_text("4711")
    folder = RunFolder(tmp_path, {})
    folder.start()
    assert (tmp_path / ".lock").read_text() == str(os.getpid())
    folder.close()
    assert names(tmp_path) == ["run.json"]


def _race(path, barrier, lines):
    barrier.wait(60)
    try:
        two_stages(RunFolder(path, {"text": "x"}), [])
        lines.put("done")
    except RunFolderError as error:
        lines.put(str(error))


def test_races_lose_no_file(tmp_path):
    """Three processes begin one run at once: each finishes it or says in one line why not."""
    two_stages(RunFolder(tmp_path / "alone", {"text": "x"}), [])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.output.test_run_files"])
    for number in range(3):
        path, barrier, lines = tmp_path / f"race{number}", context.Barrier(3), context.Queue()
        processes = [context.Process(target=_race, args=(path, barrier, lines)) for _ in range(3)]
        for process in processes:
            process.start()
        said = [lines.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
        assert "done" in said
        assert all(line == "done" or line.startswith("another process (") for line in said), said
        assert contents(path) == contents(tmp_path / "alone")


def test_several_writers_of_one_file(tmp_path):
    with replacing(tmp_path / "a.npz") as first, replacing(tmp_path / "a.npz") as second:
        assert first != second and first.suffix == second.suffix == ".npz"
        first.write_text("first")
        second.write_text("second")
    assert names(tmp_path) == ["a.npz"] and (tmp_path / "a.npz").read_text() == "first"


def special_files(folder):
    """{name: kind} of files that a rename would delete; the device is behind a link, so nothing harms a real one."""
    os.mkfifo(folder / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(folder / "socket"))
    (folder / "device").symlink_to(os.devnull)
    return {"fifo": stat.S_ISFIFO, "socket": stat.S_ISSOCK, "device": stat.S_ISCHR}


def test_no_file_takes_the_place_of_a_device(tmp_path, monkeypatch):
    kinds = special_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, is_kind in kinds.items():
        for place in (tmp_path / name, name):
            with pytest.raises(
                FileExistsError, match=f"it is a {name}, and results are regular files".replace("fifo", "FIFO")
            ):
                write_whole(place, b"new")
            with pytest.raises(FileExistsError), replacing_folder(place) as partial:
                partial.mkdir()
        with pytest.raises(RunFolderError, match="and results are regular files.; remove it or choose another --out"):
            StageFiles(tmp_path).write(name, b"new")
        assert is_kind(os.stat(tmp_path / name).st_mode)
    # One that appears while the content is made.
    with pytest.raises(FileExistsError), replacing(tmp_path / "late") as partial:
        partial.write_text("new")
        os.mkfifo(tmp_path / "late")
    assert names(tmp_path) == sorted([*kinds, "late"])


def test_names_of_streams_are_refused(tmp_path):
    for place in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/none"):
        with pytest.raises(FileExistsError, match="results are regular files"):
            check_replaceable(place)
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("old", "link", "dangling", "new", ".", "a" * 300):
        check_replaceable(tmp_path / name)


def test_folders_are_replaced_whole(tmp_path):
    place = tmp_path / "model"
    for text in ("first", "second"):
        with replacing_folder(place) as partial:
            assert partial.name == "model" and not partial.exists() and (text == "first" or (place / "first").exists())
            partial.mkdir()
            (partial / text).write_text(text)
        assert names(tmp_path) == [f"model/{text}"] and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="full"), replacing_folder(place) as partial:
        partial.mkdir()
        raise OSError("full")
    with pytest.raises(FileNotFoundError), replacing_folder(place):
        pass  # no folder was made: the old one comes back
    assert names(tmp_path) == ["model/second"] and len(list(tmp_path.iterdir())) == 1
    with replacing_folder(tmp_path / "plain") as partial:
        partial.mkdir()
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_links_are_not_followed_out_of_the_folder(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    (outside / "views").mkdir(parents=True)
    (outside / "precious").write_text("keep")
    (outside / "views/.partial-notes").write_text("keep")
    run.mkdir()
    for name in (".writable.partial", ".partial-run.json", "run.json", "a.txt"):
        (run / name).symlink_to(outside / "precious")
    folder = RunFolder(run, {"text": "x"})
    two_stages(folder, [])
    assert (run / "a.txt").read_text() == "x" and not (run / "a.txt").is_symlink()
    folder.close()
    (run / "views").symlink_to(outside / "views")
    with pytest.raises(RunFolderError, match="views is a symbolic link, and a run writes into its own folders alone"):
        RunFolder(run, {"text": "x"})
    with pytest.raises(RunFolderError, match="is a symbolic link"):
        StageFiles(run).write("views/00.png", b"")
    RunFolder(run, {"text": "x"}, overwrite=True).start()
    assert not (run / "views").is_symlink()
    assert names(outside) == ["precious", "views/.partial-notes"]
    assert {path.read_text() for path in outside.rglob("*") if path.is_file()} == {"keep"}


def test_a_linked_folder_is_written_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    two_stages(RunFolder(tmp_path / "run", {"text": "x"}), [])
    assert (tmp_path / "disk/a.txt").read_text() == "x"


def test_overwriting_removes_what_a_run_wrote_alone(tmp_path):
    mine = ["views/mine.png", "views/00.jpg", "state/notes.txt", "asset.spz", "state/previews/best.png"]
    theirs = ["views/00.png", "views_round1/15.png", "state/fit0.npz", "state/fit1.partial.npz", "asset.ply"]
    theirs += ["state/previews/000500.png", "state/refine1.json", "metrics.json"]
    two_stages(RunFolder(tmp_path, {"text": "x"}), [])
    for name in mine + theirs:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    RunFolder(tmp_path, {"text": "y"}, overwrite=True).start(held=False)
    assert names(tmp_path) == sorted([*mine, "run.json"])
    assert not (tmp_path / "views_round1").exists()


def test_overwriting_what_is_no_run_removes_nothing(tmp_path):
    """What the run writes takes the place of what is there."""
    (tmp_path / "views").mkdir()
    (tmp_path / "views/00.png").write_text("mine")
    (tmp_path / "asset.ply").write_text("mine")
    folder = RunFolder(tmp_path, {}, overwrite=True)
    folder.start()
    assert (tmp_path / "views/00.png").read_text() == (tmp_path / "asset.ply").read_text() == "mine"
    folder.stage("asset", lambda files: files.write("asset.ply", b"new"))
    assert (tmp_path / "asset.ply").read_text() == "new"
