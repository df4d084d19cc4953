"""A stage of three numbers, and a program that trains it: `python -m tests.training.toy WORKDIR [name=value ...]`."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.errors import InputError
from im3d_jax.parallel import make_mesh
from im3d_jax.training import RunSettings, Stage, make_optimizer, schedule, train


EXAMPLES, WIDTH = 37, 3


class Source:
    """Random rows; row `broken` holds NaN."""

    def __init__(self, broken=()):
        self._broken = set(broken)

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        row = np.random.default_rng(index).normal(size=WIDTH).astype(np.float32)
        return {"x": row if index not in self._broken else np.full_like(row, np.nan), "row": np.int32(index)}


def objective(params, batch, keys):
    """Noisy least squares."""
    kernel = params["net"]["layer"]["kernel"]
    noise = 0.1 * jax.vmap(jax.random.uniform)(keys)
    # Row by row, so that the sums do not depend on how many rows there are.
    error = (batch["x"] * kernel[None]).sum(-1) - params["net"]["target"] + noise
    return jnp.square(error), {"first_row": batch["row"].astype(jnp.float32)}


def make_stage(broken=(), width=WIDTH):
    """The stage; it writes its averaged kernel as out.json."""
    kernel = np.linspace(1.0, -1.0, width, dtype=np.float32)
    return Stage(
        name="toy",
        identity={"width": width},
        params={"net": {"layer": {"kernel": kernel}, "target": np.float32(2.0)}},
        trained=lambda name: name.endswith("kernel"),
        objective=objective,
        source=Source(broken),
        export=lambda params, folder: (folder / "out.json").write_text(
            json.dumps(np.asarray(params["net"]["layer"]["kernel"]).tolist())
        ),
    )


def run(workdir, *, stage=None, seed=0, rate=0.05, line=print, mesh=None, **settings):
    """Trains the toy; settings are those of `RunSettings`."""
    settings = RunSettings(**{"steps": 24, "batch": 4, "log_every": 4, "workers": 2, **settings})
    return train(
        make_stage() if stage is None else stage,
        make_optimizer("adamw", lambda name: rate),
        settings,
        workdir=workdir,
        mesh=make_mesh() if mesh is None else mesh,
        seed=seed,
        schedule=schedule(2, 0.4),
        line=line,
    )


if __name__ == "__main__":
    folder, *assignments = sys.argv[1:]
    values = {name: json.loads(value) for name, _, value in (text.partition("=") for text in assignments)}
    try:
        run(folder, line=lambda text: print(text, flush=True), **values)
    except InputError as error:
        sys.exit(f"error: {error}")
