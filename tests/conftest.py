"""Settings shared by all tests: strict broadcasting, no accelerator, absl flags usable without a main."""

import os


# Before jax starts: tests are written for the CPU, and two workers share two cores.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags


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
