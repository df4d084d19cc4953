"""Scan and host loop: equality, grids, statistics, interruption, dtype and sharding."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import (
    Cosine,
    Karras,
    ScaledLinear,
    add_noise,
    init_state,
    sample_loop,
    sample_scan,
    sampler_step,
    schedule,
    time_grid,
)


MODES, SHARES, SPREAD = np.array([-1.0, 2.0]), np.array([0.3, 0.7]), 0.2


def mixture_estimate(process):
    """E[x_0 | x_t] for data drawn from a mixture of two Gaussians, in closed form."""

    def denoise(x, t, index):
        level = process.level(t)
        variance = level.alpha**2 * SPREAD**2 + level.sigma**2
        means, prior = (a.astype(np.float32).reshape((1,) * x.ndim + (2,)) for a in (MODES, np.log(SHARES)))
        offset = x[..., None] - level.alpha * means
        share = jax.nn.softmax(prior - offset**2 / (2 * variance), axis=-1)
        posterior = means + level.alpha * SPREAD**2 / variance * offset
        return (share * posterior).sum(-1)

    return denoise


@pytest.mark.parametrize("process", [Cosine(), ScaledLinear(), Karras(sigma_max=80.0)], ids=repr)
def test_samples_of_a_mixture_have_its_statistics(process):
    noise = jax.random.normal(jax.random.key(0), (8192,))
    grid = time_grid(40, last=0.0 if isinstance(process, Karras) else None)
    sample = jax.jit(lambda x: sample_scan(mixture_estimate(process), x, grid, process))
    x = sample(noise * process.sigma(1.0))
    upper = np.asarray(x)[np.asarray(x) > 0.5]
    lower = np.asarray(x)[np.asarray(x) <= 0.5]
    assert abs(len(upper) / len(x) - 0.7) < 0.03
    np.testing.assert_allclose([lower.mean(), upper.mean()], MODES, atol=0.03)
    # What is returned is the last estimate: a posterior mean at the grid's last level, a little narrower.
    last = process.level(grid[-2])
    kept = SPREAD**2 / (SPREAD**2 + (last.sigma / last.alpha) ** 2)
    np.testing.assert_allclose([lower.std(), upper.std()], SPREAD * kept**0.5, atol=0.015)


@pytest.mark.parametrize("start, steps", [(1.0, 6), (0.45, 4), (1.0, 1), (0.3, 1), (1.0, 2)])
def test_scan_equals_host_loop(start, steps):
    process = Cosine(shift=-0.5)
    x = jax.random.normal(jax.random.key(1), (4, 5))
    grid, denoise = time_grid(steps, start=start), mixture_estimate(process)
    scanned = jax.jit(lambda x: sample_scan(denoise, x, grid, process))(x)
    seen = []
    looped = sample_loop(
        jax.jit(lambda state, levels: sampler_step(denoise, state, levels)),
        x,
        grid,
        process,
        progress=lambda state, total: seen.append((int(state.index), total)),
    )
    np.testing.assert_allclose(looped, scanned, atol=2e-6)
    assert seen == [(i + 1, steps) for i in range(steps)]


def test_denoiser_sees_every_time_once_and_is_traced_once():
    traces = []
    grid = time_grid(5)

    def run(x):
        def denoise(x, t, index):
            traces.append(t)
            jax.debug.callback(lambda t, i: calls.append((float(t), int(i))), t, index, ordered=True)
            return 0.9 * x

        return sample_scan(denoise, x, grid, Cosine())

    calls = []
    jax.block_until_ready(jax.jit(run)(jnp.ones(3)))
    jax.effects_barrier()
    assert len(traces) == 1
    np.testing.assert_allclose(calls, [(1.0, 0), (0.8, 1), (0.6, 2), (0.4, 3), (0.2, 4)], atol=1e-6)


def test_last_step_returns_the_estimate_exactly():
    target = jax.random.normal(jax.random.key(2), (4, 5))
    for process in (Cosine(), ScaledLinear(), Karras()):
        for steps in (1, 2, 5):
            x = 3.0 * jnp.ones((4, 5)) * process.sigma(1.0)
            found = sample_scan(lambda x, t, i: target, x, time_grid(steps), process)
            np.testing.assert_array_equal(found, target)


def test_partial_start_keeps_what_the_noise_left():
    """Image to image on known data: a perfect sample noised to t0 comes back close, closer for less noise."""
    process, denoise = Cosine(), mixture_estimate(Cosine())
    clean = jnp.array(np.repeat(MODES, 50), jnp.float32)
    noise = jax.random.normal(jax.random.key(3), clean.shape)
    errors = []
    for start in (0.1, 0.5, 0.95):
        x = add_noise(clean, noise, start, process)
        back = sample_scan(denoise, x, time_grid(8, start=start), process)
        errors.append(float(jnp.abs(back - clean).mean()))
    assert errors[0] < errors[1] < errors[2] and errors[0] < 0.2


def test_interrupted_loop_can_be_continued():
    process = Cosine()
    grid, x = time_grid(6), jax.random.normal(jax.random.key(4), (3, 2))
    step = jax.jit(lambda state, levels: sampler_step(mixture_estimate(process), state, levels))
    whole = sample_loop(step, x, grid, process)
    kept = []

    def interrupt(state, total):
        kept.append(state)
        if len(kept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_loop(step, x, grid, process, progress=interrupt)
    np.testing.assert_array_equal(sample_loop(step, kept[-1], grid, process), whole)


def test_dtype_is_kept():
    process = ScaledLinear()
    x = jax.random.normal(jax.random.key(5), (2, 3), jnp.bfloat16)

    def denoise(x, t, index):
        assert x.dtype == jnp.bfloat16 and t.dtype == jnp.float32 and index.dtype == jnp.int32
        return (x.astype(jnp.float32) * 0.5).astype(jnp.bfloat16)

    grid = time_grid(4)
    scanned = jax.jit(lambda x: sample_scan(denoise, x, grid, process))(x)
    step = jax.jit(lambda state, levels: sampler_step(denoise, state, levels))
    assert scanned.dtype == sample_loop(step, x, grid, process).dtype == jnp.bfloat16
    assert step(init_state(x), jax.tree.map(lambda a: a[0], schedule(grid, process))).x.dtype == jnp.bfloat16


def test_time_grid():
    np.testing.assert_allclose(time_grid(4), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(time_grid(2, start=0.5), [0.5, 0.25, 0])
    np.testing.assert_allclose(time_grid(3, last=0.0), [1, 0.5, 0, 0])
    np.testing.assert_allclose(time_grid(1), [1, 0])
    assert time_grid(7).dtype == np.float32 and time_grid(7)[0] == 1


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: time_grid(0), "at least one step"),
        (lambda: time_grid(3, start=1.5), r"must lie in \(0, 1\]"),
        (lambda: time_grid(3, start=0.5, last=0.7), "last evaluation"),
        (lambda: schedule(np.array([0.2, 0.6, 0.0]), Cosine()), "decrease strictly"),
        (lambda: schedule(np.array([0.5]), Cosine()), "2 or more times"),
        (lambda: schedule(time_grid(3, last=0.0), Cosine()), "sigma = 0"),
        (lambda: sample_scan(lambda x, *_: x[:1], jnp.ones((2, 3)), time_grid(2), Cosine()), "returned"),
    ],
)
def test_wrong_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from im3d_jax import diffusion

process, grid = diffusion.Cosine(), diffusion.time_grid(4)
guidance = diffusion.Guidance(image=2.0, prompt=3.0, rescale=0.5)

def sample(x, image, prompt):
    none = jnp.zeros_like(image)
    image, prompt = diffusion.stack_conditions(
        guidance, image=image, no_image=none, prompt=prompt, no_prompt=none)
    network = lambda x, t, i: jnp.tanh(x) * t + (image + prompt)[:, None].astype(x.dtype)
    return diffusion.sample_scan(diffusion.guided_denoiser(network, guidance, process, "v"), x, grid, process)

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))
x = jax.random.normal(jax.random.key(0), (16, 6))
conditions = jnp.linspace(-1, 1, 16), jnp.linspace(2, 3, 16)
expected = jax.jit(sample)(x, *conditions)
placed = jax.device_put((x, *conditions), sharding)
compiled = jax.jit(sample).lower(*placed).compile()
found = compiled(*placed)
assert len(jax.devices()) == 8
assert found.sharding.is_equivalent_to(sharding, 2), found.sharding
for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert word not in compiled.as_text(), word
np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
half = jax.jit(sample)(placed[0].astype(jnp.bfloat16), *placed[1:])
assert half.dtype == jnp.bfloat16 and half.sharding.is_equivalent_to(sharding, 2)
print("sharded")
"""


def test_sharding_is_kept_without_communication():
    """Guided sampling of a batch over 8 devices: same numbers, same sharding, no collectives."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0 and "sharded" in result.stdout, result.stderr[-3000:]
