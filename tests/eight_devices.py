"""Run by test_parallel.py with eight fake CPU devices: training sharded over data=4 x fsdp=2 against one device."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from im3d_jax import parallel
from im3d_jax.models.layers import Attention, Conv, GroupNorm, LayerNorm, TemporalConv
from im3d_jax.training import create_state, make_train_steps
from im3d_jax.weights import flatten, unflatten


class Network(nn.Module):
    """One of each kind of layer that the UNet has."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(16, name="conv")(x)
        y = TemporalConv(cyclic=True, name="temporal")(jax.nn.silu(GroupNorm(4, 1e-5, name="norm")(y)))
        tokens = LayerNorm(name="norm2")(y).reshape(x.shape[0], -1, 16)
        y = y + Attention(8, name="attention")(tokens).reshape(y.shape)
        return Conv(x.shape[-1], name="out")(y)


MODULE = Network()
SHAPES = jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros((1, 2, 4, 4, 2)))["params"]


def loss(params, held, batch, key):
    """Squared error against the clean video, from a noised one."""
    x = batch["video"]
    y = MODULE.apply({"params": unflatten(params, SHAPES)}, x + jax.random.normal(key, x.shape))
    return jnp.square(y - held["scale"] * x).mean(), {}


def main():
    devices = jax.devices()
    assert len(devices) == 8, devices
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=leaf.shape) / max(1, leaf.size // leaf.shape[-1]) ** 0.5, jnp.float32)
        for name, leaf in flatten(SHAPES).items()
    }
    video = rng.normal(size=(32, 2, 4, 4, 2)).astype(np.float32)
    # Plain descent with momentum: Adam would turn rounding of small gradients into whole steps.
    optimizer = optax.sgd(0.02, momentum=0.9)
    results = []
    for mesh in (parallel.make_mesh(devices=devices[:1]), parallel.make_mesh(data=4, fsdp=2)):
        state = create_state(jax.random.key(0), params, optimizer)
        state = jax.device_put(state, parallel.fsdp_sharding(mesh, state, min_size=64))
        held = jax.device_put({"scale": jnp.asarray(0.5)}, parallel.replicated(mesh))
        data = jax.device_put({"video": jnp.asarray(video)}, parallel.replicated(mesh))
        steps = make_train_steps(loss, optimizer, batch_size=8, ema=0.9, mesh=mesh)
        with jax.set_mesh(mesh):
            state, metrics = steps(state, held, data, 2)
        results.append((state, metrics))
    (one, one_metrics), (many, many_metrics) = results
    split = [name for name, leaf in many.params.items() if not leaf.sharding.is_fully_replicated]
    moments = [leaf for leaf in jax.tree.leaves(many.opt_state) if not leaf.sharding.is_fully_replicated]
    assert len(split) > 5 and len(moments) >= len(split), (len(split), len(moments))
    for name in one_metrics:
        np.testing.assert_allclose(many_metrics[name], one_metrics[name], rtol=1e-4, err_msg=name)
    for part in ("params", "ema"):
        for name, leaf in getattr(one, part).items():
            np.testing.assert_allclose(getattr(many, part)[name], leaf, atol=1e-4, err_msg=name)
    moved = max(float(jnp.abs(one.params[name] - params[name]).max()) for name in params)
    assert moved > 1e-2, moved
    print(f"{mesh.size} devices: {len(split)} of {len(params)} parameters split, largest change {moved:.3f}")


if __name__ == "__main__":
    main()
