"""Settings shared by all tests: strict broadcasting, checked shapes, no accelerator, absl flags without a main."""

import os


# Before jax starts: tests are written for the CPU, and two workers share two cores.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest
from absl import flags


# Packages whose annotated types and shapes are checked at each call; before their first import.
CHECKED = ["splat"]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def shared_data():
    """Folder of third-party captures and golden images beside the repository; skips where it is absent."""
    import pathlib

    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


@pytest.fixture
def unchecked():
    """Leaves the annotated shapes unchecked, as outside of tests: for errors that the functions raise themselves."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
