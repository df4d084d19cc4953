"""The loop around the train step: data, metrics, evaluation, checkpoints, and every way in which a run may end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from im3d_jax import parallel
from im3d_jax.atomic import LOCK_FILE, Held, hold
from im3d_jax.choices import LARGEST_WHOLE, check_above_zero, check_least
from im3d_jax.data.loading import Batches, one_ahead
from im3d_jax.errors import InputError, input_errors
from im3d_jax.training.checkpoints import Checkpoints
from im3d_jax.training.logs import MetricsLog, Piece, jsonable, peak_memory_gib, peak_tflops, progress_line
from im3d_jax.training.stage import Outline, Stage
from im3d_jax.training.state import TrainState, outline_state, place_state
from im3d_jax.training.step import Schedule, TrainStep, make_train_step
from im3d_jax.training.trees import partition


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How a run goes on; all of it may change when a run is resumed, and each start is recorded.

    Attributes:
        steps: Length of the run in updates.
        batch: Examples of an update, over all devices.
        micro_batches: Parts of a batch whose gradients are accumulated.
        ema: Decay of the average.
        log_every: Steps between two lines of metrics.
        evaluate_every: Steps between two evaluations, the end counts as one; 0 for none.
        checkpoint_every: Steps between two checkpoints; 0 goes by the time alone.
        checkpoint_seconds: Seconds between two checkpoints.
        max_seconds: The run stops after so long and is resumed by the same command.
        fit_seconds: As many steps as fit into so long take the place of `steps`; None for `steps`.
        bad_steps: So many steps in a row that are not finite end the run.
        workers: Threads that read examples, in each process.
        profile: First step and number of steps of a profile; the number 0 for none.
        tensorboard: Whether to write TensorBoard's files.
    """

    steps: int = 10_000
    batch: int = 32
    micro_batches: int = 1
    ema: float = 0.999
    log_every: int = 100
    evaluate_every: int = 0
    checkpoint_every: int = 0
    checkpoint_seconds: float = 300.0
    max_seconds: float = math.inf
    fit_seconds: float | None = None
    bad_steps: int = 10
    workers: int = 8
    profile: tuple[int, int] = (0, 0)
    tensorboard: bool = False

    def __post_init__(self):
        least = dict.fromkeys(("steps", "batch", "micro_batches", "log_every", "bad_steps", "workers"), 1)
        least |= dict.fromkeys(("evaluate_every", "checkpoint_every", "checkpoint_seconds", "max_seconds"), 0)
        for name, smallest in least.items():
            check_least(name, getattr(self, name), smallest)
        if self.fit_seconds is not None:
            check_above_zero("fit_seconds", self.fit_seconds)
        if len(self.profile) != 2 or not 0 <= min(self.profile) <= max(self.profile) <= LARGEST_WHOLE:
            raise InputError(
                f"profile={str(self.profile)[:60]}: expected the first step and a number of steps, 0 to {LARGEST_WHOLE}"
            )
        if not 0.0 <= self.ema < 1.0:
            raise InputError(f"ema={self.ema}: expected a decay in [0, 1)")


def train(
    stage: Stage,
    optimizer: optax.GradientTransformation,
    settings: RunSettings,
    *,
    workdir: str | os.PathLike,
    mesh: Mesh,
    seed: int = 0,
    schedule: Schedule | None = None,
    line: Callable[[str], Any] = print,
    record: Mapping[str, Any] | None = None,
) -> bool:
    """Trains from the newest checkpoint in `workdir`, or from the stage's parameters.

    Writes checkpoints, ``metrics.jsonl`` and ``runs.jsonl`` (one line a start), and at its end what the stage exports.
    A SIGTERM saves and ends the run; the same call resumes it.

    Args:
        stage: What to train.
        optimizer: From `optimizers.make_optimizer`.
        settings: How.
        workdir: Folder of the run.
        mesh: Of `parallel.make_mesh`.
        seed: Of the run: noise, and order of the data.
        schedule: From `optimizers.schedule`; constant without.
        line: Takes a line for the user; process 0 alone calls it.
        record: JSON values that ``runs.jsonl`` keeps about this start.

    Returns:
        Whether the run has reached its length.

    Raises:
        InputError: The folder belongs to another run or trainer, a checkpoint cannot be written, too many steps in a
            row are not finite, or nothing is learned because all gradients are 0.
    """
    workdir = pathlib.Path(workdir)
    with input_errors(OSError):
        workdir.mkdir(parents=True, exist_ok=True)
    say = line if jax.process_index() == 0 else lambda text: None
    trained, held = partition(stage.params, stage.trained)
    if not trained:
        raise InputError(f"{stage.name}: the rule trains no parameter")
    identity = json.loads(json.dumps({**stage.identity, "stage": stage.name, "seed": seed}))
    held = jax.device_put(held, parallel.fsdp_sharding(mesh, held))
    step_of = build_step(stage, optimizer, settings, schedule, mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(held_by_trainer(workdir))
        stop = stack.enter_context(_sigterm())
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", line=say))
        key, position, total, piece = jax.random.key(seed), 0, settings.steps, Piece()
        like = outline_state(key, trained, optimizer, mesh)
        restored = checkpoints.restore(like, lambda record: _same_run(record["identity"], identity, workdir))
        if restored is None:
            state = place_state(key, trained, optimizer, mesh)
        else:
            state, kept = restored
            position, piece = kept["position"], Piece(**kept["piece"])
            if settings.fit_seconds is not None and kept.get("total") is not None:
                total = kept["total"]
            say(f"resuming at step {int(state.step)} of {total}")
        begun = Run(stage, settings, identity, workdir, mesh, say, total, piece)
        batches = Batches(stage.source, settings.batch, seed=seed, mesh=mesh, workers=settings.workers, start=position)
        begun.record_start(int(state.step), record or {})
        log = stack.enter_context(MetricsLog(workdir, step=int(state.step), tensorboard=settings.tensorboard))
        if settings.tensorboard and not log.tensorboard:
            say("TensorBoard needs pip install 'im3d-jax[tensorboard]'; metrics.jsonl holds all figures meanwhile")
        return begun.go(state, held, step_of, batches, checkpoints, log, stop)


def build_step(
    stage: Stage | Outline,
    optimizer: optax.GradientTransformation,
    settings: RunSettings,
    schedule: Schedule | None,
    mesh: Mesh,
    min_size: int = parallel.SMALLEST_SPLIT,
) -> TrainStep:
    """The train step of a stage, see `make_train_step`."""
    return make_train_step(
        stage.objective,
        optimizer,
        ema=settings.ema,
        schedule=schedule,
        micro_batches=settings.micro_batches,
        mesh=mesh,
        combine=stage.combine,
        min_size=min_size,
    )


@dataclasses.dataclass(eq=False)
class Run:
    """A run under way; see `train`."""

    stage: Stage
    settings: RunSettings
    identity: Mapping[str, Any]
    workdir: pathlib.Path
    mesh: Mesh
    say: Callable[[str], Any]
    total: int
    piece: Piece
    pieces: int = 0

    def record_start(self, step: int, record: Mapping[str, Any]) -> None:
        """Appends what this start does to runs.jsonl."""
        if jax.process_index() == 0:
            line = {"step": step, "devices": self.mesh.size, "run": dataclasses.asdict(self.settings), **record}
            with (self.workdir / "runs.jsonl").open("a") as file:
                file.write(json.dumps(jsonable(line)) + "\n")

    def go(
        self,
        state: TrainState,
        held: dict[str, Any],
        step_of: TrainStep,
        batches: Batches,
        checkpoints: Checkpoints,
        log: MetricsLog,
        stop: Callable[[], bool],
    ) -> bool:
        """Steps until the run's length, the end of its time, or a SIGTERM."""
        settings, started = self.settings, time.monotonic()
        step, saved, used = int(state.step), time.monotonic(), batches.position
        stream, piece, ended = one_ahead(batches), self.piece, False

        def save() -> None:
            record = {"identity": dict(self.identity), "position": used, "total": self.total, "piece": piece.to_json()}
            checkpoints.save(state, record)

        while step < self.total and not ended:
            self._profile(step)
            state, metrics = step_of(state, held, next(stream), self.total)
            piece.add(metrics)
            step, used = step + 1, used + 1
            judged = self._due(step, settings.evaluate_every) and self.stage.evaluate is not None
            logged = self._due(step, settings.log_every) or judged
            if logged:
                seconds = piece.seconds()
                self._check(state, step, checkpoints)
                figures = piece.means()
                if figures["gradient_norm"] == 0.0 and not figures["skipped"]:
                    raise InputError(
                        f"{self.stage.name}: the gradient of all that is trained is 0 at step {step}, so nothing is "
                        "learned: layers that end in zeros are held at their start; start from trained weights (--set "
                        "stage.start.bundle=DIR), or train those layers too"
                    )
                if judged and self.stage.evaluate is not None:
                    figures |= self.stage.evaluate(self._averaged(state, held))
                    self._show(log, step, state, held)
                figures |= self._rates(seconds, time.monotonic() - started)
                log.write(step, figures)
                self.say(progress_line(step, self.total, figures))
                self._fit_length(step, seconds, time.monotonic() - started)
                piece = Piece()
            # Several processes agree on an end at logged steps alone, or they would wait for each other for ever.
            if logged or jax.process_count() == 1:
                ended = _everywhere(stop() or time.monotonic() - started >= settings.max_seconds)
                late = _everywhere(time.monotonic() - saved >= settings.checkpoint_seconds)
                if late or (settings.checkpoint_every and step % settings.checkpoint_every == 0):
                    save()
                    saved = time.monotonic()
        save()
        checkpoints.wait()
        done = step >= self.total
        if done:
            averaged = _gathered(self._averaged(state, held))
            if jax.process_index() == 0:
                self.stage.export(averaged, self.workdir)
            _everywhere(False)  # nobody ends, and takes the coordinator along, while process 0 writes
        self.say(f"{'finished' if done else 'stopped; the same command resumes'} at step {step} of {self.total}")
        return done

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.total)

    def _check(self, state: TrainState, step: int, checkpoints: Checkpoints) -> None:
        if int(state.skipped_in_a_row) < self.settings.bad_steps:
            return
        checkpoints.wait()
        raise InputError(
            f"{self.settings.bad_steps} steps in a row were not finite at step {step}: look at the data, or lower the "
            "learning rate (--set learning_rate=...), which a run may change when it resumes"
        )

    def _fit_length(self, step: int, seconds_a_step: float, elapsed: float) -> None:
        """With `fit_seconds`: the first piece compiles, the second shows how fast steps go."""
        self.pieces += 1
        if self.settings.fit_seconds is not None and self.pieces == 2:
            self.total = step + max(1, int((self.settings.fit_seconds - elapsed) / seconds_a_step))
            self.say(f"{self.total} steps fit into {self.settings.fit_seconds:.0f} s")

    def _averaged(self, state: TrainState, held: dict[str, Any]) -> dict[str, Any]:
        return self.stage.combine(state.ema, held)

    def _show(self, log: MetricsLog, step: int, state: TrainState, held: dict[str, Any]) -> None:
        if self.stage.sheet is not None and log.tensorboard:
            log.picture(step, "sheet", np.asarray(self.stage.sheet(self._averaged(state, held))))

    def _rates(self, seconds_a_step: float, elapsed: float) -> dict[str, float]:
        rate = self.settings.batch / seconds_a_step
        figures = {"seconds": elapsed, "ms_per_step": 1e3 * seconds_a_step, "examples_per_second": rate}
        if self.stage.tflop is not None:
            figures["tflops_per_device"] = rate * self.stage.tflop / self.mesh.size
            peak = peak_tflops(jax.devices()[0].device_kind)
            if peak is not None:
                figures["mfu"] = figures["tflops_per_device"] / peak
        memory = peak_memory_gib()
        return figures if memory is None else {**figures, "peak_gib": memory}

    def _profile(self, step: int) -> None:
        first, count = self.settings.profile
        if count and step == first:
            jax.profiler.start_trace(str(self.workdir / "profile"))
        if count and step == first + count:
            jax.profiler.stop_trace()
            self.say(f"profile of steps {first} to {step} in {self.workdir / 'profile'}")


def _same_run(found: Mapping[str, Any], wanted: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Refuses to go on with a run of something else.

    Raises:
        InputError: Names what differs.
    """
    changed = [
        f"{name} was {_short(found.get(name))}, now {_short(wanted.get(name))}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if changed:
        raise InputError(f"{workdir} holds a run of something else ({'; '.join(changed)}); take a new --workdir")


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


@contextlib.contextmanager
def held_by_trainer(workdir: pathlib.Path, lock: str = LOCK_FILE) -> Iterator[None]:
    """Holds a folder, which is made, for this trainer; process 0 does it for all.

    Args:
        workdir: The folder.
        lock: Name of the lock file in it: a program of several runs holds another than each of its runs.

    Raises:
        InputError: Another trainer holds it, or it cannot be written.
    """
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        held = hold(workdir, lock)
    except Held as other:
        raise InputError(
            f"another trainer (process {other.holder}) writes to {workdir}; wait for it or take a new --workdir"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {workdir} ({error.strerror}); take another --workdir") from None
    with held:
        yield


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """A function that says whether a SIGTERM came; schedulers send one before they take a machine away."""
    came = False

    def handle(number: int, frame: object) -> None:
        nonlocal came
        came = True

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not in the main thread
        yield lambda: False
        return
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)


def _gathered(tree: Any) -> Any:
    """Host arrays of a tree that may be split over processes."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def _everywhere(flag: bool) -> bool:
    """Whether any process says so: all must save and end at the same step."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
