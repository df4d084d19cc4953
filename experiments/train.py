"""Trains by a recipe of `experiments/configs`.

    python -m experiments.train --config=svd_multiview --workdir=runs/multiview \
        --set stage.start=DIR_OF_SVD --set stage.data=data/encoded

WORKDIR holds checkpoints, metrics.jsonl, runs.jsonl (one line a start) and at the end what the recipe makes: `model`
or `bundle`. The same command resumes a run. It may then have another length, rate or batch, which runs.jsonl records;
whatever else decides the result must stay. A SIGTERM saves and ends with code 0.

--smoke runs the recipe in miniature. A recipe of several stages (tiny) trains them one after the other, each in a
folder of its own.

Several processes: SLURM, Kubernetes and TPU pods are recognised; elsewhere give --coordinator, --processes, --process.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp
from absl import flags, logging

from experiments import configs
from experiments.overrides import apply_overrides
from experiments.programs import Program, command_line
from im3d_jax import distributed, environment, seeds
from im3d_jax.atomic import write_whole
from im3d_jax.errors import InputError
from im3d_jax.generation.flags import define_processes
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.paths import define_path
from im3d_jax.progress import Progress, ProgressPrinter
from im3d_jax.training.loop import held_by_trainer
from im3d_jax.training.recipe import Recipe
from im3d_jax.training.stage import deciding
from im3d_jax.training.stages.bundle import BundleStage
from im3d_jax.weights import load_bundle, save_bundle
from im3d_jax.weights.identify import bundle_hash


FINISHED = "finished.json"


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_string("config", None, "recipe: a module of experiments/configs", flag_values=values)
    define_path("workdir", None, "folder of the run", flag_values=values)
    define_integer("seed", 0, "seed of the run", 0, seeds.LARGEST, flag_values=values)
    flags.DEFINE_multi_string("set", [], "typed override, --set run.batch=64 (repeatable)", flag_values=values)
    flags.DEFINE_bool("smoke", False, "the recipe in miniature: the whole path in seconds", flag_values=values)
    define_float("max_seconds", None, "stop after so long; the same command resumes", flag_values=values)
    define_float("fit_seconds", None, "as many steps as fit into so long, for `run.steps`", flag_values=values)
    flags.DEFINE_string("profile", None, "FIRST:COUNT, a profile of COUNT steps from step FIRST on", flag_values=values)
    define_processes(values)


def names() -> list[str]:
    """Names of the recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__) if module.name != "small")


def open_recipe(name: str | None) -> ModuleType:
    """The module of a recipe.

    Raises:
        InputError: No such recipe.
    """
    if name not in names():
        raise InputError(f"--config={name}: expected one of {', '.join(names())}")
    return importlib.import_module(f"experiments.configs.{name}")


def changed_by_flags(recipe: Recipe, values: flags.FlagValues) -> Recipe:
    """The recipe with what the flags change.

    Raises:
        InputError: An override or a profile that cannot be read.
    """
    run: dict[str, Any] = {}
    for name in ("max_seconds", "fit_seconds"):
        if values[name].value is not None:
            run[name] = values[name].value
    if values.profile is not None:
        first, _, count = values.profile.partition(":")
        if not (first.isdecimal() and count.isdecimal() and max(len(first), len(count)) < 20):
            raise InputError(f"--profile={values.profile}: expected FIRST:COUNT, such as 100:10")
        run["profile"] = (int(first), int(count))
    recipe = apply_overrides(recipe, values.set)
    return dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **run))


def run(values: flags.FlagValues) -> None:
    """Trains.

    Raises:
        InputError: A wrong flag, or what `Recipe.train` refuses.
    """
    module = open_recipe(values.config)
    if not values.workdir:
        raise InputError("--workdir is missing: the folder of the run")
    # Smoke recipes make data first: wrong flags are told before.
    for recipe in module.get_chain().values() if hasattr(module, "get_chain") else [module.get_config()]:
        changed_by_flags(recipe, values)
    workdir = pathlib.Path(values.workdir)
    progress = ProgressPrinter()
    logging.set_verbosity(logging.WARNING)  # of orbax, which tells every step of a checkpoint
    distributed.start(values.coordinator, values.processes, values.process, line=progress.line)
    environment.start_jax()
    # Also before and between the runs of a chain.
    with held_by_trainer(workdir, ".lock-program"):
        if not hasattr(module, "get_chain"):
            recipe = module.get_smoke(workdir / "smoke") if values.smoke else module.get_config()
            train_one(changed_by_flags(recipe, values), workdir, values, progress)
            return
        chain = module.get_smoke_chain(workdir / "smoke") if values.smoke else module.get_chain()
        train_chain(chain, workdir, values, progress)


def train_one(recipe: Recipe, workdir: pathlib.Path, values: flags.FlagValues, progress: Progress) -> bool:
    """Trains by one recipe; returns whether the run has reached its length."""
    return recipe.train(
        workdir,
        seed=values.seed,
        progress=progress,
        record={"command": command_line("train"), "versions": environment.versions()},
    )


def train_chain(chain: dict[str, Recipe], workdir: pathlib.Path, values: flags.FlagValues, progress: Progress) -> None:
    """Trains the stages of a bundle in order, each in a folder of its name; those that are finished stay.

    The bundle of the last stage, rounded to bfloat16 as it ships, ends in `workdir`.
    """
    before = None
    for name, recipe in chain.items():
        folder = workdir / name
        if before is not None:
            assert isinstance(recipe.stage, BundleStage)
            start = dataclasses.replace(recipe.stage.start, bundle=str(before))
            recipe = dataclasses.replace(recipe, stage=dataclasses.replace(recipe.stage, start=start))
        recipe = changed_by_flags(recipe, values)
        # As for the identity of a run: contents decide, not the places where they are.
        stage = deciding(recipe.stage)
        if before is not None:
            stage["start"] = bundle_hash(before)
        decides = json.loads(json.dumps({"seed": values.seed, "steps": recipe.run.steps, "stage": stage}))
        if _finished_with(folder, decides):
            progress.line(f"{name}: already finished")
        else:
            progress.line(f"stage {name}")
            if not train_one(recipe, folder, values, progress):
                return
            write_whole(folder / FINISHED, json.dumps({"command": command_line("train"), **decides}) + "\n")
        before = folder / "bundle"
    assert before is not None
    bundle = load_bundle(str(before))
    save_bundle(workdir / "bundle", bundle.config, bundle.tokenizer, bundle.params, dtype=jnp.bfloat16)
    progress.line(f"wrote {workdir / 'bundle'}")


def _finished_with(folder: pathlib.Path, decides: Mapping[str, Any]) -> bool:
    """Whether a stage was finished with these settings, and its bundle is there."""
    try:
        kept = json.loads((folder / FINISHED).read_bytes())
        return all(kept[name] == value for name, value in decides.items()) and (folder / "bundle").is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        return False


PROGRAM = Program("train", define_flags, run, "the same command resumes the run from its newest checkpoint")


if __name__ == "__main__":
    PROGRAM.start()
