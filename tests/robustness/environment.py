"""Cases of the surroundings: paths of all flags, homes, pipes and devices, signals, locales, wrong commands."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest import mock

from im3d_jax.cli.main import main
from tests.data.posed import write_capture
from tests.robustness.case import Case, im3d
from tests.robustness.folders import FIT, VIEWS, drawn, made


ROOT = pathlib.Path(__file__).resolve().parents[2]
# (Command with {} for the path, whether the path is written to.)
FLAGS = {
    "views --out": ("views", "--prompt=a mug", "--out={}"),
    "generate --image": ("generate", "--image={}", "--out=OUT"),
    "reconstruct --data": ("reconstruct", "--data={}", "--out=OUT"),
    "reconstruct --out": ("reconstruct", "--data=CAPTURE", "--out={}", *FIT),
    "reconstruct --lpips_weights": ("reconstruct", "--data=CAPTURE", "--out=OUT", "--lpips_weights={}", *FIT),
    "batch --prompts": ("batch", "--prompts={}", "--out=OUT"),
    "doctor --model": ("doctor", "--model={}"),
    "convert --model": ("convert", "--model={}", "--to=sgm", "--out=OUT"),
    "render-dataset --meshes": ("render-dataset", "--meshes={}", "--out=OUT"),
    "render-dataset --out": ("render-dataset", "--meshes=MESHES", "--out={}"),
    "render-dataset --captions": ("render-dataset", "--meshes=MESHES", "--out=OUT", "--captions={}"),
    "render-dataset --pack": ("render-dataset", "--meshes=MESHES", "--pack={}"),
}
PATHS = {
    "a zero byte": "a\0b",
    "too long a name": "x" * 300,
    "too long a path": "/x" * 3000,
    "/dev/full": "/dev/full",
    "below a device": "/dev/null/x",
    "nobody's home": "~nobody_of_this_name/x",
    "half a surrogate": "a\udcff/b\udcff\0",
    "a zero device": "/dev/zero",
    "a file of the system": "/proc/self/mem",
    "slashes": "//",
    "the root": "/",
}


def _path(flag: str, path: str) -> Callable[[pathlib.Path], None]:
    def act(folder: pathlib.Path) -> None:
        write_capture(folder / "capture")
        (folder / "meshes").mkdir()
        (folder / "meshes/a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
        places = {"OUT": folder / "out", "CAPTURE": folder / "capture", "MESHES": folder / "meshes"}
        command = [part.format(path) for part in FLAGS[flag]]
        for name, place in places.items():
            command = [part.replace(f"={name}", f"={place}") for part in command]
        drawn(*command)

    return act


def paths() -> Iterator[Case]:
    # Paths that may be used: whoever runs this may write to the root, and `~nobody/x` is a folder like others.
    allowed = ("nobody's home", "slashes", "the root")
    for flag, (name, path) in itertools.product(FLAGS, PATHS.items()):
        read = flag in ("reconstruct --data", "render-dataset --meshes")  # where the root may hold a capture, or meshes
        if (
            name in allowed
            and (read or flag.endswith((" --out", "--pack")))
            and (flag, name) != ("render-dataset --out", "slashes")
        ):
            continue
        yield Case(9, f"{flag} is {name}", _path(flag, path), ".")


def _home(home: str | None, path: str, where: str) -> Callable[[pathlib.Path], None]:
    """Views go to a path below the home folder."""

    def act(folder: pathlib.Path) -> None:
        changed = {} if home is None else {"HOME": home.format(folder)}
        with mock.patch.dict(os.environ, changed), contextlib.chdir(folder):
            drawn(*VIEWS, f"--out={path}")
        assert (folder / where / "cameras.json").is_file() and not (folder / "~").exists()

    return act


def homes() -> Iterator[Case]:
    yield Case(9, "--out=~/x", _home("{}/me", "~/x", "me/x"))
    yield Case(9, "--out=~", _home("{}/me", "~", "me"))
    yield Case(9, "--out=~/a b", _home("{}/me", "~/a b", "me/a b"))
    yield Case(9, "--out=./~x", _home("{}/me", "./~x", "~x"))
    yield Case(9, "--out=x/~", _home("{}/me", "x/~", "x/~"))


def _process(
    code: int, line: bytes | None, *command: str, env: dict[str, str] | None = None, out: str = ""
) -> Callable:
    """A process of its own; `out` is the file that its output goes to, or `closed` for a pipe that nobody reads."""

    def act(folder: pathlib.Path) -> None:
        environment = {**os.environ, **(env or {})}
        environment = {name: value for name, value in environment.items() if value != "-"}
        full = [sys.executable, "-m", "im3d_jax", *(part.format(folder) for part in command)]
        with contextlib.ExitStack() as stack:
            if out == "closed":
                read, stdout = os.pipe()
                os.close(read)
                stack.callback(os.close, stdout)
            else:
                stdout = stack.enter_context(open(out, "wb")) if out else subprocess.PIPE
            done = subprocess.run(full, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == code, done
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert line is None or (line in done.stderr and done.stderr.count(b"\n") <= 1), done.stderr

    return act


def processes() -> Iterator[Case]:
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    homeless = {"HOME": "-", "XDG_CACHE_HOME": "-"}
    yield Case(9, "help into a closed pipe", _process(141, b"", "--help", out="closed"))
    yield Case(9, "help of a command into a closed pipe", _process(141, b"", "generate", "--help", out="closed"))
    yield Case(9, "doctor into a closed pipe", _process(141, None, "doctor", out="closed"))
    yield Case(9, "help onto a full disk", _process(2, b"No space left", "--help", out="/dev/full"))
    yield Case(9, "a prompt in ASCII", _process(2, b"unknown command 'm", "m\u00fcg", env=ascii_alone))
    yield Case(
        9,
        "a picture in ASCII",
        _process(2, b"missing", "views", "--image={}/\u65e5.png", "--out={}/o", env=ascii_alone),
    )
    yield Case(
        9, "no HOME", _process(2, b"no such folder", "reconstruct", "--data={}/none", "--out={}/o", env=homeless)
    )
    yield Case(
        9,
        "a HOME that is not there",
        _process(2, b"no such", "reconstruct", "--data=~/none", "--out={}/o", env={"HOME": "/none"}),
    )
    yield Case(9, "a locale that is not there", _process(0, None, "--version", env={"LC_ALL": "xx_YY.UTF-8"}))


def _closed(*streams: int) -> Callable[[pathlib.Path], None]:
    """A refusal of a program whose standard streams are closed: its line is on stderr, or nowhere."""

    def act(folder: pathlib.Path) -> None:
        code = (
            f"import os, sys\nfor number in {streams}:\n    os.close(number)\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'im3d_jax', 'reconstruct', '--data=none'])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
        assert done.returncode == 2 and b"Traceback" not in done.stderr, done
        assert done.stdout == b"" and done.stderr.count(b"\n") == (2 not in streams), done

    return act


def _removed(folder: pathlib.Path) -> None:
    (folder / "gone").mkdir()
    with contextlib.chdir(folder / "gone"):
        (folder / "gone").rmdir()
        drawn(*VIEWS, "--out=run")


def _colmap_and_sigterm(folder: pathlib.Path) -> None:
    from tests.data.test_colmap import synthesize

    synthesize(folder)
    code = (
        "import os, signal, sys; from im3d_jax.cli.main import main; from im3d_jax.data import captures\n"
        "load = captures.load_capture\n"
        "def stopped(*given, **named):\n    load(*given, **named)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "captures.load_capture = stopped\n"
        "sys.exit(main(['reconstruct', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, f"--data={folder}", f"--out={folder / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 143 and b"stopped by SIGTERM" in done.stderr, done
    assert done.stderr.count(b"\n") == 1, done


def surroundings() -> Iterator[Case]:
    for streams in ((1,), (2,), (0, 1, 2)):
        yield Case(9, f"closed streams {streams}", _closed(*streams))
    yield Case(9, "a working folder that was removed", _removed, "working folder was removed")
    if importlib.util.find_spec("pycolmap") is not None:
        yield Case(9, "SIGTERM after a COLMAP model", _colmap_and_sigterm)


def _signalled(number: int, code: int) -> Callable[[pathlib.Path], None]:
    """A signal while views are drawn: code and line of it, and the run goes on afterwards."""

    def act(folder: pathlib.Path) -> None:
        from im3d_jax.generation import flags as shared
        from tests.fake_model import FakeModel

        model = FakeModel()
        draw = model.draw_views

        def draw_views(*arguments: object, **named: object) -> object:
            os.kill(os.getpid(), number)
            return draw(*arguments, **named)

        model.draw_views = draw_views
        with mock.patch.object(shared, "model_of", lambda values: model.pipeline), open(os.devnull, "w") as null:
            with contextlib.redirect_stderr(null):
                assert main([*VIEWS, f"--out={folder / 'run'}"]) == code
        assert not (folder / "run/.lock").exists()
        drawn(*VIEWS, f"--out={folder / 'run'}")
        assert (folder / "run/cameras.json").read_bytes() == (made() / "views/cameras.json").read_bytes()

    return act


def signals() -> Iterator[Case]:
    yield Case(9, "SIGTERM", _signalled(signal.SIGTERM, 143))
    yield Case(9, "SIGINT", _signalled(signal.SIGINT, 130))


def commands() -> Iterator[Case]:
    """Messages that name the way out."""
    for arguments, words in (
        (["view"], "no source"),
        (["viewer"], "viewer.html in a browser"),
        (["generat"], "did you mean 'generate'"),
        (["reconstrct"], "did you mean 'reconstruct'"),
        (["batch", "--promts=x"], "Did you mean: .*prompts"),
        (["xyz"], "expected one of"),
        (["generate", "--prompt=a", "--out="], "--out is missing"),
        (["generate", "--out=x"], "neither"),
        (["reconstruct", "--out=x"], "--data is missing"),
        (["reconstruct", "--data=", "--out=x"], "--data is missing"),
        (["views", "--prompt=a", "--seed=-1"], "seed"),
        (["views", "--prompt=a", "--seed=1e3"], "seed"),
        (["views", "--prompt=a", "--seed=99999999999999999999"], "seed"),
        (["generate", "--prompt=a", "--rounds=3"], "rounds"),
        (["generate", "--prompt=a", "--elevation_deg=inf"], "elevation_deg"),
        (["views", "a mug"], "unexpected argument 'a mug'"),
        (["views", "--prompt", "a", "b"], "unexpected argument 'b'"),
        (["reconstruct", "--steps=0"], "steps"),
        (["reconstruct", "--steps=ten"], "steps"),
        (["reconstruct", "--steps=99999999999999999999"], "steps.*2147483647"),
        (["reconstruct", "--steps=3000000000"], "steps.*2147483647"),
        (["reconstruct", "--hold_out=99999999999999999999"], "hold_out.*2147483647"),
        (["export", "x", "--to=gif", "--elevation_deg=nan"], "elevation_deg"),
        (["generate", "--prompt=a", "--elevation_deg=nan"], "elevation_deg"),
        (["reconstruct", "--gaussians=1"], "gaussians"),
        (["reconstruct", "--sh_degree=9"], "sh_degree"),
        (["reconstruct", "--downscale=0"], "downscale"),
        (["reconstruct", "--downscale=0.5"], "downscale"),
        (["reconstruct", "--hold_out=-1"], "hold_out"),
        (["batch", "--prompts=x", "--out=y", "--shard=2/2"], "shard"),
        (["batch", "--prompts=x", "--out=y", "--shard=a"], "shard"),
        (["render-dataset", "--meshes=x"], "--out"),
        (["convert", "--model=x"], "to"),
        (["doctor", "--modl=x"], "Did you mean: model"),
        (["--flagfile=none"], "unknown command"),
        (["views", "--flagfile=/none/x"], "/none/x"),
    ):
        yield Case(10, f"im3d {' '.join(arguments)}", lambda folder, arguments=arguments: im3d(*arguments), words)

    def other_steps(folder: pathlib.Path) -> None:
        command = ["reconstruct", f"--data={made() / 'capture'}", f"--out={made() / 'fit'}", *FIT[1:], "--steps=5"]
        im3d(*command)

    yield Case(
        10,
        "other --steps",
        other_steps,
        r"other settings \(steps was 4, now 5; (fit\.\w+ was \d, now \d(; )?)*\); choose another --out",
    )

    def undistorted(folder: pathlib.Path) -> None:
        from tests.data.test_colmap import synthesize

        synthesize(folder, "SIMPLE_PINHOLE")
        write_capture(folder / "images")  # other pictures
        for file in (folder / "images").glob("*.png"):
            file.unlink()
        im3d("reconstruct", f"--data={folder}", f"--out={folder / 'out'}", *FIT)

    if importlib.util.find_spec("pycolmap") is not None:
        yield Case(10, "COLMAP, other pictures", undistorted, "missing image")


def cases() -> Iterator[Case]:
    """All of this file."""
    for part in (paths, homes, processes, surroundings, signals, commands):
        yield from part()
