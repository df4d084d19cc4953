"""Settings shared by all tests, before jax starts: the CPU, strict broadcasting, nothing outside of the repository."""

# ruff: noqa: E402 (what decides how jax and the hub start must stand before their imports)

import atexit
import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile


def _scratch(name: str) -> str:
    """A folder for the whole session; workers find it in the environment that they inherit."""
    folder = tempfile.mkdtemp(prefix=f"im3d-tests-{name}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Tests are written for the CPU, and two workers share two cores.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time goes into compiling programs that run for milliseconds: LLVM optimises them less. Tolerances are
# those of optimised programs. XLA_FLAGS=--xla_backend_optimization_level=3 runs the tests as programs of users run.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    # XLA's newer generator of fused code compiles half as fast. A version that does not know a flag ends the process.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Programs that several tests or processes compile are compiled once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _scratch("compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Programs and their traces fill the heap: collecting it as often as by default takes a tenth of the session.
gc.set_threshold(200_000, 50, 100)
# The hub without network and with an empty cache.
os.environ["HF_HUB_OFFLINE"] = "1"
if "im3d-tests-hub" not in os.environ.get("HF_HUB_CACHE", ""):
    os.environ["HF_HUB_CACHE"] = _scratch("hub")

import jax
import jaxtyping
import numpy as np
import pytest
from absl import flags
from PIL import Image

from tests import checking


# Packages whose annotated types and shapes are checked at each call; before their first import.
CHECKED = ["splat", "im3d_jax.images", "im3d_jax.diffusion"]
jaxtyping.install_import_hook(CHECKED, f"{checking.__name__}.typechecker")

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()

from tests import small_checkpoints
from tests.fake_model import FakeModel
from tests.tiny import write_bundle


def pytest_collection_modifyitems(items):
    """Files with slow tests go first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# Linux allows a process 65,530 mappings of memory, and a compiled program takes several: beyond, LLVM crashes.
MOST_MAPPINGS = 25_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Programs of earlier files are let go before a process has too many of them."""
    result = yield
    mappings = pathlib.Path("/proc/self/maps")
    if nextitem is not None and nextitem.path != item.path and mappings.exists():
        if mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
            jax.clear_caches()
            gc.collect()
    return result


@pytest.fixture(scope="session")
def shared_data():
    """Folder of third-party captures and golden images beside the repository; skips where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Path of a bundle with random weights that has every part of the one that ships."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """{name: path} of small checkpoints with random weights, see `small_checkpoints.write_all`."""
    return small_checkpoints.write_all(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def small(monkeypatch):
    """The families of the small checkpoints stand in the tables of presets and qualities."""
    for table, entries in small_checkpoints.tables():
        for name, value in entries.items():
            monkeypatch.setitem(table, name, value)


@pytest.fixture
def drawn_by(monkeypatch):
    """Lets commands draw with a pipeline of the test instead of the one that their flags name."""
    from im3d_jax.generation import flags as shared

    def use(pipeline):
        monkeypatch.setattr(shared, "model_of", lambda values: pipeline)
        return pipeline

    return use


@pytest.fixture
def fake(drawn_by):
    """The model without networks, with which commands draw."""
    model = FakeModel()
    drawn_by(model.pipeline)
    return model


@pytest.fixture
def picture(tmp_path):
    """A red box on white."""
    pixels = np.full((60, 60, 3), 255, np.uint8)
    pixels[10:50, 20:40] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "box.png")
    return tmp_path / "box.png"


@pytest.fixture
def unchecked():
    """Leaves the annotated shapes unchecked, as outside of tests: for errors that the functions raise themselves."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
