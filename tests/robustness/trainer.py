"""Cases of `experiments.train`: settings out of range, folders that are none, captures and runs that cannot go on."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

from experiments import train
from im3d_jax.atomic import hold
from tests.robustness.case import Case, program


def _train(*arguments: str) -> Callable[[pathlib.Path], object]:
    return lambda folder: program(
        train.PROGRAM, *(argument.replace("=W", f"={folder / 'w'}") for argument in arguments)
    )


def settings() -> Iterator[Case]:
    start = ("--config=im3d_paper", "--smoke", "--workdir=W", "--set")
    for assignment, words in (
        ("steps=-5", "steps=-5"),
        ("steps=0", "steps=0"),
        ("steps=many", "expected an int"),
        ("steps=1.5", "expected an int"),
        ("run.steps=99999999999999999999", "2147483647"),
        ("steps=3000000000", "2147483647"),
        ("stage.drop=nan", "drop"),
        ("batch=0", "batch"),
        ("batch=-1", "batch"),
        ("decay=1.5", "decay"),
        ("clip=0", "clip"),
        ("clip=nan", "clip"),
        ("stage.learning_rate=-1", "learning_rate"),
        ("stage.learning_rate=inf", "learning_rate"),
        ("stage.learning_rate=0", "learning_rate"),
        ("run.stepps=3", "did you mean steps"),
        ("nonsense=3", "nonsense"),
        ("a.b.c.d=3", "a"),
        ("steps", "steps"),
        ("=3", "="),
        ("stage.remat=some", "none or blocks or full"),
        ("mesh.fsdp=64", "64"),
        ("mesh.fsdp=0", "fsdp"),
        ("stage.drop=2", "drop"),
        ("stage.drop=-0.1", "drop"),
        ("warmup=-1", "warmup"),
        ("save_every=0", "every"),
        ("log_every=0", "every"),
    ):
        yield Case(11, f"--set {assignment}", _train(*start, assignment), words)
    for arguments, words in (
        (("--config=tyni",), "expected one of"),
        (("--config=tiny_video",), "--workdir"),
        (("--config=im3d_paper", "--workdir=W", "--seed=-1"), "seed"),
        (("--config=im3d_paper", "--workdir=W", "--seed=99999999999999999999"), "4294967295"),
        (("--config=im3d_paper", "--workdir=W", "--max_seconds=nan"), "max_seconds"),
        (("--config=im3d_paper", "--workdir=W", "--profile=ten"), "FIRST:COUNT"),
        (("--config=im3d_paper", "--workdir=W", "--processes=2"), "coordinator"),
        (("--config=im3d_paper", "--workdir=/dev/null/x"), "/dev/null"),
        (("--config=im3d_paper", "--workdir=/dev/full"), "/dev/full"),
        (("--config=im3d_paper", "--workdir=~nobody_of_this_name/x\0"), "zero byte"),
        (("--config=svd_multiview", "--workdir=W"), "encoded turntables"),
        (("--config=../train", "--workdir=W"), "expected one of"),
        (("--config=im3d_paper", "--workdir=W", "x"), "unexpected arguments"),
    ):
        yield Case(11, f"train {' '.join(arguments)}", _train(*arguments), words)

    def held(folder: pathlib.Path) -> None:
        with hold(folder, ".lock-program"):
            program(train.PROGRAM, "--config=im3d_paper", "--smoke", f"--workdir={folder}")

    yield Case(5, "a folder that another trainer holds", held, "another trainer")

    def a_file(folder: pathlib.Path) -> None:
        (folder / "w").write_text("")
        _train("--config=im3d_paper", "--smoke", "--workdir=W")(folder)

    yield Case(11, "--workdir is a file", a_file, "w")


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from settings()
