"""The process: where compiled programs are kept, versions, and what importing the package loads."""

import os
import pathlib
import subprocess
import sys

import pytest

from im3d_jax import environment


def run(code, **variables):
    """What a fresh process with these variables prints."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("COMPILATION_CACHE_DIR")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept | variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "variables, folder",
    [
        ({"XDG_CACHE_HOME": "T/c"}, "T/c/im3d/compiled"),
        ({"XDG_CACHE_HOME": "", "HOME": "T/h"}, "T/h/.cache/im3d/compiled"),
        ({"XDG_CACHE_HOME": "T/c", "IM3D_COMPILATION_CACHE_DIR": "T/a"}, "T/a"),
        ({"HOME": "T/h", "IM3D_COMPILATION_CACHE_DIR": "~/a"}, "T/h/a"),
        ({"IM3D_COMPILATION_CACHE_DIR": "T/a", "JAX_COMPILATION_CACHE_DIR": "T/b"}, "T/b"),
        ({"JAX_COMPILATION_CACHE_DIR": "gs://bucket/a"}, "gs://bucket/a"),
    ],
)
def test_folder_of_compiled_programs(variables, folder, tmp_path):
    variables = {name: value.replace("T/", f"{tmp_path}/") for name, value in variables.items()}
    code = "from im3d_jax.environment import compilation_cache; print(compilation_cache())"
    assert run(code, **variables) == folder.replace("T/", f"{tmp_path}/")


def test_versions_name_what_decides_bytes():
    found = environment.versions()
    assert list(found)[0] == "im3d_jax" and {"jax", "jaxlib", "flax", "numpy", "pillow", "av"} < found.keys()
    assert all(version[0].isdigit() for version in found.values())


def test_importing_the_package_is_quick_and_loads_no_framework():
    """Less than 0.3 s beyond jax: names are imported when they are used."""
    code = (
        "import sys, time; started = time.perf_counter(); import im3d_jax; took = time.perf_counter() - started\n"
        "print(took, *sorted({'jax', 'flax', 'numpy', 'splat', 'PIL', 'rich'} & set(sys.modules)))"
    )
    took, *loaded = run(code).split()
    assert loaded == [] and float(took) < 0.3
    # What is listed is there, and nothing more costs an import.
    code = "import im3d_jax; print(sorted(set(im3d_jax.__all__) - set(dir(im3d_jax)))); im3d_jax.generate"
    assert run(code) == "[]"


def test_every_public_name_is_found():
    import im3d_jax

    for name in im3d_jax.__all__:
        assert getattr(im3d_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        _ = im3d_jax.generat


def test_wrong_flags_are_found_before_jax_is_imported(tmp_path):
    code = (
        "import sys; from im3d_jax.cli.main import main; "
        f"a = main(['generate', '--prompt=']); b = main(['views', '--image={tmp_path}/none.png']); "
        "print(a, b, 'jax' in sys.modules)"
    )
    assert run(code) == "2 2 False"


def test_the_program_starts_without_an_installation():
    root = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-m", "im3d_jax", "--version"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and done.stdout.startswith("0.")
