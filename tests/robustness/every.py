"""All cases."""

from collections.abc import Iterator

from tests.robustness import (
    bombs,
    camera_files,
    captures,
    conventions,
    environment,
    fits,
    folders,
    mutations,
    pictures,
    splats,
    trainer,
    weights,
)
from tests.robustness.case import Case


def prepare() -> None:
    """Makes what many cases begin with, so that none of them takes longer for it."""
    folders.made()
    weights.made()


def every_case() -> Iterator[Case]:
    """Of all kinds; the cheapest files first."""
    for module in (
        camera_files,
        captures,
        conventions,
        mutations,
        splats,
        pictures,
        weights,
        fits,
        folders,
        environment,
        trainer,
        bombs,
    ):
        yield from module.cases()
