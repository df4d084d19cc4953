"""A sample of the cases, and that the measure sees what is wrong; `python -m tests.robustness` tries all of them."""

import time
import warnings

import pytest

from im3d_jax.errors import InputError
from tests.robustness import (
    camera_files,
    captures,
    conventions,
    environment,
    mutations,
    pictures,
    splats,
    trainer,
    weights,
)
from tests.robustness.case import KINDS, Case, attempt, im3d
from tests.robustness.every import every_case


# Every so many-th case of those that compile nothing.
SAMPLES = {
    camera_files: 6,
    mutations: 20,
    captures: 5,
    conventions: 5,
    splats: 6,
    pictures: 6,
    weights: 8,
    environment: 9,
    trainer: 9,
}


@pytest.mark.parametrize("module", SAMPLES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_sample(module, tmp_path):
    problems = []
    for number, case in enumerate(list(module.cases())[2 :: SAMPLES[module]]):
        (tmp_path / str(number)).mkdir()
        outcome = attempt(case, tmp_path / str(number))
        if outcome.problem:
            problems.append(f"{case.name}: {outcome.problem}")
    assert not problems


def test_every_kind_has_cases_of_its_own_names():
    names = [case.name for case in every_case()]
    assert len(names) == len(set(names)) >= 300
    assert {case.kind for case in every_case()} == set(KINDS)


def _refuse(line):
    raise InputError(line)


@pytest.mark.parametrize(
    ("act", "refusal", "problem"),
    [
        (lambda folder: None, None, ""),
        (lambda folder: _refuse("a.png: cut"), "cut", ""),
        (lambda folder: None, "cut", "expected a refusal"),
        (lambda folder: _refuse("a.png: cut"), None, "refused: a.png: cut"),
        (lambda folder: _refuse("a.png: cut"), "torn", "expected a refusal with 'torn', got 'a.png: cut'"),
        (lambda folder: 1 // 0, None, "ZeroDivisionError"),
        (lambda folder: int("x"), "x", "ValueError"),
        (lambda folder: time.sleep(0.3), None, "took 0."),
        (lambda folder: time.sleep(3), None, "took longer"),
        (lambda folder: warnings.warn("overflow", RuntimeWarning, stacklevel=1), None, "RuntimeWarning"),
        (lambda folder: im3d("view"), "no source", ""),
        (lambda folder: im3d("--version"), "no viewer", "expected a refusal"),
    ],
)
def test_what_counts_as_wrong(act, refusal, problem, tmp_path):
    outcome = attempt(Case(1, "x", act, refusal, seconds=0.2), tmp_path)
    assert problem in outcome.problem and bool(problem) == bool(outcome.problem)


def test_memory_is_that_of_the_case(tmp_path):
    assert attempt(Case(1, "x", lambda folder: len(b"x" * 200_000_000)), tmp_path).megabytes > 150
    assert attempt(Case(1, "x", lambda folder: None), tmp_path).megabytes < 100
