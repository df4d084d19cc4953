"""The loop around the jitted steps: progress, metrics, evaluation, checkpoints, a time limit."""

from __future__ import annotations

import json
import math
import pathlib
import time
from collections.abc import Callable

import jax
from absl import logging

from im3d_jax.training.checkpoints import Checkpoints
from im3d_jax.training.state import TrainState


def train(
    steps_fn: Callable,
    state: TrainState,
    held: dict,
    data: dict,
    *,
    total: int,
    workdir: pathlib.Path,
    settings: dict,
    log_every: int = 100,
    evaluate_every: int = 0,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    max_seconds: float = math.inf,
    fit_seconds: float | None = None,
    checkpoint_seconds: float = 300.0,
    on_checkpoint: Callable[[TrainState], None] | None = None,
) -> tuple[TrainState, bool]:
    """Runs from the newest checkpoint (or `state`) to step `total`, or until the time is up.

    Metrics go to `workdir/metrics.jsonl`, one line every `log_every` steps. The state is checkpointed every
    `checkpoint_seconds` and at the end, so that the next call continues it; `on_checkpoint` then gets it too.

    With `fit_seconds` the run is as long as fits: `total` holds until the second piece of `log_every` steps (the first
    one compiles) has shown how fast they go, and is then set so that the run ends after so many seconds in all. A run
    that is continued keeps the length that was found (`workdir/fitted.json`).

    Returns:
        The state and whether `total` was reached.

    Raises:
        FloatingPointError: If the loss is no longer finite; the last checkpoint is kept.
    """
    started = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    fitted = workdir / "fitted.json"
    with Checkpoints(workdir / "checkpoints") as checkpoints, (workdir / "metrics.jsonl").open("a") as log:

        def save(state: TrainState) -> None:
            checkpoints.save(state, settings)
            if on_checkpoint is not None:
                on_checkpoint(state)

        restored = checkpoints.restore(state, settings)
        if restored is not None:
            state = restored
            if fit_seconds is not None and fitted.exists():
                total, fit_seconds = json.loads(fitted.read_text())["total"], None
            logging.info("continuing at step %d of %d", int(state.step), total)
        step, saved, pieces = int(state.step), time.monotonic(), 0
        while step < total and time.monotonic() - started < max_seconds:
            begun = time.monotonic()
            count = min(log_every - step % log_every, total - step)
            state, metrics = steps_fn(state, held, data, count, total)
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            step, pieces = step + count, pieces + 1
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(f"the loss is {metrics['loss']} at step {step}: lower the learning rate")
            if evaluate is not None and evaluate_every and (step % evaluate_every == 0 or step == total):
                metrics |= evaluate(state)
            metrics |= {
                "step": step,
                "seconds": time.monotonic() - started,
                "ms_per_step": 1e3 * (time.monotonic() - begun) / count,
            }
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            logging.info(" ".join(f"{k}={v:.5g}" for k, v in metrics.items()))
            if fit_seconds is not None and pieces == 2:
                left = fit_seconds - (time.monotonic() - started)
                total = step + max(1, int(left * count / (time.monotonic() - begun)))
                fitted.write_text(json.dumps({"total": total}) + "\n")
                logging.info("%d steps fit into %.0f s", total, fit_seconds)
            if time.monotonic() - saved >= checkpoint_seconds:
                save(state)
                saved = time.monotonic()
        save(state)
    return state, step >= total
