"""Trains a network with every kind of layer; run by test_sharding.py in processes of their own.

python -m tests.training.sharded_runs OUT data=4 fsdp=2 [micro_batches=2] [processes=2 process=0 port=1234]
"""

import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from im3d_jax import distributed, parallel
from im3d_jax.data.loading import Batches
from im3d_jax.models.layers import Attention, Conv, GroupNorm, LayerNorm, TemporalConv
from im3d_jax.training import make_train_step, partition, place_state
from im3d_jax.weights import flatten, unflatten


class Network(nn.Module):
    """One of each kind of layer that the UNets have."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(16, name="conv")(x)
        y = TemporalConv(cyclic=True, name="temporal")(jax.nn.silu(GroupNorm(4, 1e-5, name="norm")(y)))
        tokens = LayerNorm(name="norm2")(y).reshape(x.shape[0], -1, 16)
        y = y + Attention(8, name="attention")(tokens).reshape(y.shape)
        return Conv(x.shape[-1], name="out")(y)


MODULE = Network()
# Plain descent with momentum: Adam would turn rounding of small gradients into whole steps.
OPTIMIZER = optax.sgd(0.02, momentum=0.9)


def shapes():
    """Of the parameters; not at import, since processes must meet before JAX starts."""
    return jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros((1, 2, 4, 4, 2)))["params"]


class Videos:
    """Random videos."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"video": np.random.default_rng(index).normal(size=(2, 4, 4, 2)).astype(np.float32)}


def objective(params, batch, keys):
    """Squared error against the clean video, from a noised one."""
    x = batch["video"]
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
    y = MODULE.apply({"params": params}, x + noise)
    return jnp.square(y - 0.5 * x).mean((1, 2, 3, 4)), {}


def main(out, data="1", fsdp="1", micro_batches="1", processes="0", process="0", port="0"):
    if int(processes):
        distributed.start(f"localhost:{port}", int(processes), int(process), timeout=60)
    mesh = parallel.make_mesh(int(data), int(fsdp), jax.devices()[: int(data) * int(fsdp)])
    rng = np.random.default_rng(0)
    flat = {
        name: (rng.normal(size=leaf.shape) / max(1, leaf.size // leaf.shape[-1]) ** 0.5).astype(np.float32)
        for name, leaf in flatten(shapes()).items()
    }
    trained, held = partition(unflatten(flat, shapes()), lambda name: not name.startswith("out."))
    state = place_state(jax.random.key(0), trained, OPTIMIZER, mesh, min_size=64)
    held = jax.device_put(held, parallel.fsdp_sharding(mesh, held, min_size=64))
    step = make_train_step(objective, OPTIMIZER, ema=0.9, micro_batches=int(micro_batches), mesh=mesh, min_size=64)
    batches = Batches(Videos(), 8, seed=0, mesh=mesh, workers=0)
    losses = []
    with jax.set_mesh(mesh):
        for _ in range(3):
            state, metrics = step(state, held, next(batches), 3)
            losses.append(float(metrics["loss"]))
    whole = jax.jit(lambda tree: tree, out_shardings=parallel.replicated(mesh))
    params = {name: np.asarray(leaf).tolist() for name, leaf in flatten(whole(state.params)).items()}
    split = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((state.params, state.opt_state)))
    if jax.process_index() == 0:
        with open(out, "w") as file:
            json.dump({"losses": losses, "params": params, "split": split, "devices": mesh.size}, file)


if __name__ == "__main__":
    main(sys.argv[1], **dict(argument.split("=") for argument in sys.argv[2:]))
