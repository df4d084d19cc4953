"""State, step, loop and checkpoints on a model of three numbers."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from im3d_jax.training import create_state, loop, make_train_steps, merge, train
from im3d_jax.training.state import split


DATA = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(32, 3)), jnp.float32)}
SETTINGS = {"batch": 4, "model": {"width": 3}}


def loss(params, held, batch, key):
    """Noisy least squares; `drawn` and `row` tell which key and rows the step used."""
    drawn = jax.random.uniform(key)
    error = batch["x"] @ params["w"] - held["target"] + 0.1 * drawn
    return jnp.square(error).mean(), {"drawn": drawn, "row": batch["x"][0, 0]}


OPTIMIZER = optax.adam(0.1)
STEPS = make_train_steps(loss, OPTIMIZER, batch_size=4, ema=0.9)


def fresh(seed=0):
    return create_state(jax.random.key(seed), {"w": jnp.asarray([1.0, -1.0, 0.5])}, OPTIMIZER)


HELD = {"target": jnp.asarray(2.0)}


def arrays(state):
    state = state.replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


def run(workdir, total, **kwargs):
    kwargs = {"settings": SETTINGS, "log_every": 2, **kwargs}
    return train(kwargs.pop("steps", STEPS), fresh(), HELD, DATA, total=total, workdir=workdir, **kwargs)


def test_split_and_merge():
    flat = {"a.w": 1, "b.w": 2, "a.b": 3}
    trained, held = split(flat, lambda name: name.startswith("a."))
    assert trained == {"a.w": 1, "a.b": 3} and held == {"b.w": 2}
    assert merge(trained, held) == flat
    with pytest.raises(ValueError, match="a.w"):
        merge(trained, {"a.w": 5})


def test_a_state_owns_its_arrays():
    """The step donates the state; the arrays that it was made from must live on."""
    params = {"w": jnp.asarray([1.0, 2.0, 3.0])}
    state = create_state(jax.random.key(0), params, OPTIMIZER)
    jax.block_until_ready(STEPS(state, HELD, DATA, 1))
    np.testing.assert_array_equal(params["w"], [1.0, 2.0, 3.0])


def test_checkpoints_come_in_between(tmp_path):
    seen = []
    state, _ = run(tmp_path, 6, checkpoint_seconds=0.0, on_checkpoint=lambda state: seen.append(int(state.step)))
    assert seen == [2, 4, 6, 6]
    late = []
    run(tmp_path / "late", 6, on_checkpoint=lambda state: late.append(int(state.step)))
    assert late == [6]


def test_every_step_has_a_key_of_its_own():
    state, singles = fresh(), []
    for _ in range(6):
        state, metrics = STEPS(state, HELD, DATA, 1)
        singles.append(metrics)
    drawn = [float(m["drawn"]) for m in singles]
    assert len(set(drawn)) == 6
    for step, value in enumerate(drawn):
        _, key = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
        assert value == float(jax.random.uniform(key))
    assert len({float(m["row"]) for m in singles}) > 2
    again, mean = STEPS(fresh(), HELD, DATA, 6)
    assert float(mean["drawn"]) == pytest.approx(np.mean(drawn), rel=1e-6)
    assert float(mean["loss"]) == pytest.approx(np.mean([float(m["loss"]) for m in singles]), rel=1e-5)
    for a, b in zip(arrays(again), arrays(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    other, _ = STEPS(fresh(seed=1), HELD, DATA, 6)
    assert not np.array_equal(other.params["w"], state.params["w"])


def test_average_of_parameters():
    """ema_k+1 = d ema_k + (1 - d) params_k+1 with d = min(0.9, (1 + k) / (10 + k))."""
    state, average = fresh(), np.array([1.0, -1.0, 0.5])
    for step in range(100):
        state, _ = STEPS(state, HELD, DATA, 1)
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * np.asarray(state.params["w"], np.float64)
    np.testing.assert_allclose(state.ema["w"], average, atol=1e-5)
    assert int(state.step) == 100


def test_resumed_equals_uninterrupted(tmp_path):
    whole, done = run(tmp_path / "whole", 7)
    assert done and int(whole.step) == 7
    part, _ = run(tmp_path / "parts", 3)
    part, done = run(tmp_path / "parts", 7)
    assert done and same(part, whole)
    lines = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 7]
    assert {"loss", "gradient_norm", "seconds", "ms_per_step", "drawn"} <= lines[0].keys()
    again, done = run(tmp_path / "parts", 7)
    assert done and same(again, whole)


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, 2)
    with pytest.raises(ValueError, match=r"step 2 .*other settings \(batch\).*--workdir"):
        run(tmp_path, 4, settings={**SETTINGS, "batch": 8})


def test_time_limit(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clock.now))

    def slow(*args):
        clock.now += 40
        return STEPS(*args)

    state, done = run(tmp_path, 20, steps=slow, max_seconds=100)
    assert not done and int(state.step) == 6
    state, done = run(tmp_path, 8, steps=slow, max_seconds=100)
    assert done and same(state, run(tmp_path / "whole", 8)[0])


@pytest.fixture
def clocked(monkeypatch):
    """(steps, the totals they were called with): the first piece takes 100 s (it compiles), each other one 40."""
    clock, totals = types.SimpleNamespace(now=0.0), []
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clock.now))

    def slow(*args):
        clock.now += 40 if totals else 100
        totals.append(args[-1])
        return STEPS(*args)

    return slow, totals


def test_as_many_steps_as_fit(tmp_path, clocked):
    """Three pieces more than the first two fit into 260 s."""
    slow, totals = clocked
    state, done = run(tmp_path, 1000, steps=slow, fit_seconds=260)
    assert done and int(state.step) == 4 + 2 * (260 - 140) // 40 and totals == [1000, 1000, 10, 10, 10]


def test_a_continued_run_keeps_the_length_that_fitted(tmp_path, clocked):
    slow, totals = clocked
    state, done = run(tmp_path, 1000, steps=slow, fit_seconds=260, max_seconds=150)
    assert not done and int(state.step) == 6
    state, done = run(tmp_path, 1000, steps=slow, fit_seconds=260, max_seconds=150)
    assert done and int(state.step) == 10 and totals == [1000, 1000, 10, 10, 10]


def test_the_schedule_scales_updates():
    steps = make_train_steps(loss, OPTIMIZER, batch_size=4, ema=0.9, schedule=lambda step, total: step / total)
    state, _ = steps(fresh(), HELD, DATA, 1, 10)
    assert np.array_equal(state.params["w"], fresh().params["w"])
    half, whole = (steps(fresh().replace(step=jnp.int32(5)), HELD, DATA, 1, total)[0] for total in (10, 5))
    move = lambda state: np.asarray(state.params["w"] - fresh().params["w"])  # noqa: E731
    np.testing.assert_allclose(2 * move(half), move(whole), rtol=1e-5)


def test_a_loss_that_is_not_finite(tmp_path):
    run(tmp_path, 2)

    def diverged(state, held, data, count, total):
        state, metrics = STEPS(state, held, data, count, total)
        return state, {**metrics, "loss": jnp.nan}

    with pytest.raises(FloatingPointError, match="nan at step 4: lower the learning rate"):
        run(tmp_path, 6, steps=diverged)
    state, _ = run(tmp_path, 2)
    assert int(state.step) == 2


def test_evaluation_is_logged(tmp_path):
    run(tmp_path, 5, evaluate_every=4, evaluate=lambda state: {"quality": float(state.step)})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line.get("quality") for line in lines} == {2: None, 4: 4.0, 5: 5.0}
