"""SIGKILL at random moments of `im3d reconstruct`, and the same command again: the bytes of a run left alone."""

import multiprocessing
import random
import time

import pytest

from tests.runs import results, write_capture


KILLS = 10
# The modules are imported once and every process is forked from there, before jax starts its threads.
RUN = """
import jax

from im3d_jax import environment
from im3d_jax.cli.main import main
from im3d_jax.generation import fits, products

# A cache of its own: a process that is killed may leave half an entry.
jax.config.update("jax_compilation_cache_dir", cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
environment.start_jax = lambda: None
fits.CHECKPOINT_SECONDS = 0.0
products.TURNTABLE = products.Turntable(frames=2, side=16)
raise SystemExit(main(arguments))
"""


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture(scope="module")
def start(tmp_path_factory, capture):
    """Starts the program in a process of its own on an output folder."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["im3d_jax.generation.api", "im3d_jax.cli.reconstruct"])

    def begin(folder):
        flags = ["--steps=60", "--gaussians=192", "--sh_degree=0"]
        arguments = ["reconstruct", f"--data={capture}", f"--out={folder}", *flags]
        process = context.Process(target=exec, args=(RUN, {"arguments": arguments, "cache": cache}))
        process.start()
        return process

    return begin


@pytest.mark.slow
def test_ten_kills(start, tmp_path):
    process = start(tmp_path / "alone")
    process.join(300)
    assert process.exitcode == 0
    expected = results(tmp_path / "alone")
    assert {"asset.ply", "state/fit0.npz", "state/previews/000060.png"} <= expected.keys()
    assert not any("partial" in name for name in expected)
    begun = time.monotonic()
    process = start(tmp_path / "warm")
    process.join(300)
    longest = time.monotonic() - begun

    chance = random.Random(0)
    kills, inside_fits, number = 0, 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed{number}"
        process = start(folder)
        process.join(chance.uniform(0.2, 0.8) * longest)
        process.kill()
        process.join(30)
        if process.exitcode == -9:
            kills += 1
            inside_fits += (folder / "state/fit0.partial.npz").is_file()
        else:
            assert process.exitcode == 0 and results(folder) == expected
            number += 1
    assert inside_fits > 0
    folder = tmp_path / f"killed{number}"
    process = start(folder)
    process.join(300)
    assert process.exitcode == 0 and results(folder) == expected
