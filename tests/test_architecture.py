"""What the source may not hold: asking models for their kind, programs inside packages, two orders of stages."""

import ast
import pathlib
import re

import pytest


ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("im3d_jax", "splat", "experiments")
# Each family is told from the others where its own file is, and by nobody else.
HOMES = {
    "BundleModel": "im3d_jax/pipelines/bundle.py",
    "OrbitModel": "im3d_jax/pipelines/svd.py",
    "StableDiffusion": "im3d_jax/pipelines/stable_diffusion.py",
}


def sources(*packages):
    """{path relative to the repository: text} of all Python files."""
    files = [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 20
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


def calls_of(text, function):
    """The calls of a plain function in a file."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == function]


def imports_of(text):
    """Names of all modules that a file imports, also inside of functions."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_nobody_asks_whether_a_model_is_foreign():
    for path, text in sources(*PACKAGES).items():
        assert "is_foreign" not in text, path


def test_nobody_tells_models_apart_by_their_class():
    for path, text in sources(*PACKAGES).items():
        for call in calls_of(text, "isinstance"):
            names = {node.id for node in ast.walk(call.args[1]) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(call.args[1]) if isinstance(node, ast.Attribute)}
            for name in names & HOMES.keys():
                assert path == HOMES[name], f"{path}:{call.lineno} tells a {name} from others"


def test_experiments_use_packages_and_no_programs():
    """No program is written on the code of another one's flags."""
    for path, text in sources("experiments").items():
        assert not [name for name in imports_of(text) if name.startswith("im3d_jax.cli")], path


@pytest.mark.parametrize(
    "package, above",
    [
        ("splat", ("im3d_jax", "experiments")),
        ("im3d_jax", ("experiments", "tests")),
        ("im3d_jax/images", ("im3d_jax.pipelines", "im3d_jax.generation", "im3d_jax.cli", "im3d_jax.weights")),
        ("im3d_jax/models", ("im3d_jax.pipelines", "im3d_jax.generation", "im3d_jax.cli", "im3d_jax.weights")),
        ("im3d_jax/weights", ("im3d_jax.pipelines", "im3d_jax.generation", "im3d_jax.cli")),
        ("im3d_jax/reconstruction", ("im3d_jax.pipelines", "im3d_jax.generation", "im3d_jax.cli")),
        ("im3d_jax/pipelines", ("im3d_jax.generation", "im3d_jax.cli", "im3d_jax.output")),
        ("im3d_jax/generation", ("im3d_jax.cli",)),
    ],
)
def test_packages_import_those_below_alone(package, above):
    for file in (ROOT / package).rglob("*.py"):
        names = imports_of(file.read_text(encoding="utf-8"))
        wrong = [name for name in names if name in above or name.startswith(tuple(f"{each}." for each in above))]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_the_order_of_stages_stands_in_one_file():
    """The names of the stages are given to `Stage` there alone; training has stages of its own kind."""
    files = {path: text for path, text in sources(*PACKAGES).items() if not path.startswith("im3d_jax/training/")}
    makers = [path for path, text in files.items() if calls_of(text, "Stage")]
    assert makers == ["im3d_jax/generation/loop.py"]
    named = re.compile(r"""["']refine\{?|["']fit\{|["']views_round\{""")
    users = [path for path, text in sources("im3d_jax").items() if named.search(text)]
    assert set(users) <= {"im3d_jax/generation/loop.py", "im3d_jax/pipelines/bundle.py", "im3d_jax/pipelines/svd.py"}


def test_registries_and_global_state():
    """Module-level names that functions assign to."""
    for path, text in sources(*PACKAGES).items():
        assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Global)], path
