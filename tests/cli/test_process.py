"""The process around a command: signals, pipes, full disks, locales, and homes that are not there."""

import contextlib
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import threading

import pytest

from im3d_jax import environment
from im3d_jax.cli.main import main
from im3d_jax.errors import InputError
from im3d_jax.paths import expand


ROOT = pathlib.Path(__file__).resolve().parents[2]


def program(*arguments, **options):
    """The program in a process of its own."""
    command = [sys.executable, "-m", "im3d_jax", *arguments]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=120, **options)


def test_sigterm_keeps_what_is_done(fake, tmp_path, capsys):
    """As Ctrl-C does, with its own code; a second signal does not interrupt the end."""
    before = signal.getsignal(signal.SIGTERM)
    run, draw = ["views", "--prompt=a red mug", f"--out={tmp_path}"], fake.draw_views

    def draw_views(*arguments, **named):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(*arguments, **named)

    fake.draw_views = draw_views
    assert main(run) == 143
    line = "im3d: stopped by SIGTERM; finished work is kept, rerun the same command to resume"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert (tmp_path / "input.png").is_file() and not (tmp_path / ".lock").exists()
    assert signal.getsignal(signal.SIGTERM) == before
    fake.draw_views = draw
    fake.calls.clear()
    assert main(run) == 0 and fake.calls[0] == "views"


def test_commands_run_in_threads_too(capsys):
    """Where Python takes no signals."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_pipe_that_nobody_reads(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = program("help", "generate", stdout=write)
    os.close(write)
    assert done.returncode == 141 and done.stderr == b""


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(closed):
    """Files that are opened later must not get their numbers, nor lines for users."""
    lines = f"import os, sys\nfor number in {closed}:\n    os.close(number)\n"
    lines += "os.execv(sys.executable, [sys.executable, '-m', 'im3d_jax', 'xyz'])"
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.startswith(b"" if 2 in closed else b"im3d: unknown command 'xyz'")
    assert done.stderr.count(b"\n") == (2 not in closed)


def test_a_working_folder_that_was_removed(fake, tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    with contextlib.chdir(tmp_path / "gone"):
        (tmp_path / "gone").rmdir()
        assert main(["reconstruct", "--data=x", "--out=y"]) == 2
        assert capsys.readouterr().err == "im3d: the working folder was removed; change into another one\n"
        assert main(["views", "--prompt=a", "--out=y"]) == 2
    line = "im3d: cannot write to the folder y (No such file or directory); choose another --out; the working folder "
    assert capsys.readouterr().err == line + "was removed: change into another one\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has it")
def test_a_full_disk():
    with open("/dev/full", "wb") as full:
        done = program("help", "generate", stdout=full)
    assert done.returncode == 2
    assert (
        done.stderr == b"im3d: cannot write the output (No space left on device); check its disk and its permissions\n"
    )


def test_characters_that_a_locale_lacks(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "m\\u00fcg", "sead": 1}', encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    done = program(
        "batch", f"--prompts={tmp_path}/prömpts.jsonl", f"--out={tmp_path}/o",
        stdout=subprocess.PIPE, env={**os.environ, **ascii_alone},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and done.stderr.isascii()
    assert b"cannot be read" in done.stderr


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_tildes_in_flags(home, fake, picture, capsys):
    """bash leaves that of --out=~/x as it is."""
    assert main(["views", "--image=~/box.png", "--out=~/run"]) == 0
    assert (home / "run/input.png").is_file() and not pathlib.Path("~").exists()
    for command, flag in (
        ("reconstruct", "--data"),
        ("batch", "--prompts"),
        ("convert", "--model"),
        ("render-dataset", "--meshes"),
        ("views", "--image"),
        ("doctor", "--model"),
    ):
        assert main([command, f"{flag}=~/none", *(["--to=sgm"] if command == "convert" else ["--out=~/o"])]) == 2
        assert "~" not in capsys.readouterr().err.splitlines()[-1].replace("--out=~/o", "")
    (home / "prompts.jsonl").write_text('{"image": "~/box.png"}')
    assert main(["batch", "--prompts=~/prompts.jsonl", "--out=~/many"]) == 0
    assert (home / "many/00001/input.png").is_file()


def test_paths_expand(home):
    assert [expand(path) for path in ("~", "~/a", "a/~/b", "", "organisation/name", "~no-such-user/x")] == [
        str(home), f"{home}/a", "a/~/b", "", "organisation/name", "~no-such-user/x",
    ]  # fmt: skip


def test_paths_that_never_end_or_cannot_be(home, fake, capsys):
    assert main(["views", "--prompt=mug", "--out=a\0b"]) == 2
    assert "holds a zero byte" in capsys.readouterr().err
    assert main(["batch", "--prompts=/dev/zero", "--out=~/many"]) == 2
    assert "more than 64 MiB" in capsys.readouterr().err


def test_no_home(monkeypatch, capsys):
    """A container whose user has neither HOME nor a name."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "IM3D_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert environment.compilation_cache() is None
    with pytest.raises(InputError, match="no home folder; set HOME"):
        expand("~/x")
    assert main(["views", "--prompt=mug", "--out=~/x"]) == 2
    assert "no home folder" in capsys.readouterr().err
    # A home that cannot be written, as containers set it.
    monkeypatch.setenv("HOME", "/proc/none")
    assert environment.compilation_cache() is None


@pytest.mark.parametrize("name", ["viewer", "show", "open"])
def test_other_names_of_the_viewer(name, capsys):
    assert main([name, "runs/mug/asset.ply"]) == 2
    line = capsys.readouterr().err
    assert "open a run's viewer.html in a browser" in line and "did you mean" not in line
