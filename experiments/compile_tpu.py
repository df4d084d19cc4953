"""Compiles programs of this project for TPUs, on any machine: bytes a chip, arithmetic, collectives.

    pip install 'im3d-jax[tpu]'
    python -m experiments.compile_tpu --case=sv3d_sampler --json=tpu.jsonl --table=docs/scaling.md

Cases are the train steps of all recipes on their meshes, SV3D's sampler, batch sampling of the bundled model, the fit
of 512 x 512 views and the rasterizer. Nothing runs: no TPU is needed, but the TPU compiler (libtpu) and, for the large
networks, up to an hour of one core and 15 GB of memory each. --json keeps each case as it is done; the same command
goes on with those that are missing. --table renews the tables of a page from the file.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import time
from typing import Any

from absl import flags

from experiments.programs import Program
from im3d_jax.errors import InputError, input_errors
from im3d_jax.paths import define_path


# What the TPU compiler asks for where there is no TPU.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Its lock keeps two processes from one TPU; here they use none.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}
# Memory that programs may use, GiB, by the kind of chip.
MEMORY = {"v5e": 15.75}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BEGIN, END = "<!-- begin: experiments.compile_tpu -->", "<!-- end: experiments.compile_tpu -->"
GIB = 2**30


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_multi_string("case", [], "case to compile (repeatable); all by default", flag_values=values)
    flags.DEFINE_string("topology", None, "chips, such as v5e:2x4; each case's own by default", flag_values=values)
    flags.DEFINE_multi_string("set", [], "override of recipes, --set mesh.fsdp=4 (repeatable)", flag_values=values)
    define_path("json", None, "file to which each case adds a line", flag_values=values)
    define_path("table", None, "page whose tables are renewed from --json", flag_values=values)
    flags.DEFINE_bool("list", False, "list the cases", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Compiles the cases that --json does not hold.

    Raises:
        InputError: A wrong flag, no libtpu, or chips that libtpu does not know.
    """
    if values.table and not values.json:
        raise InputError("--table needs --json: the file with the figures")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu, the TPU compiler, is not installed: pip install 'im3d-jax[tpu]'")
    # Not before: JAX reads the environment when it starts.
    from experiments.tpu_cases import cases

    known = cases()
    if values.list:
        print("\n".join(known))
        return
    for name in values.case:
        if name not in known:
            raise InputError(f"--case={name}: expected one of {', '.join(known)}")
    done = read(values.json) if values.json else []
    for name in values.case or known:
        topology, changes = values.topology or known[name].topology, tuple(values.set)
        wanted = {"case": name, "topology": topology, "set": [*known[name].overrides, *changes]}
        if any(all(line[key] == value for key, value in wanted.items()) for line in done):
            print(f"{name}: in {values.json}", flush=True)
            continue
        line = wanted | measure(known[name], topology, changes)
        print(json.dumps(line), flush=True)
        if values.json:
            with input_errors(OSError), open(values.json, "a") as file:
                file.write(json.dumps(line) + "\n")
    if values.table:
        renew(pathlib.Path(values.table), read(values.json))


def measure(case: Any, topology: str, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Compiles a case.

    Args:
        case: A `tpu_cases.Case`.
        topology: Name of the chips, as libtpu knows it.
        changes: Further overrides of a recipe.

    Returns:
        `chips`; `fits`, None for chips of unknown memory; bytes a chip: `bytes` and of these `arguments`,
        `temporaries`, `outputs` and `aliased` (outputs in the place of arguments); `flops` a chip, loop bodies counted
        once; `collectives`, the number of each kind in the program; `lower_seconds` and `compile_seconds`;
        `versions`. For a program that the compiler refuses `fits` false and its `error`.

    Raises:
        InputError: Chips that libtpu does not know, or that the recipe's mesh does not divide.
    """
    import jax
    from jax.experimental import topologies

    from experiments.tpu_cases import as_on_tpu
    from im3d_jax import environment, parallel

    jax.config.update("jax_enable_compilation_cache", False)  # what is kept for one device does not load without it
    with input_errors(RuntimeError, ValueError, NotImplementedError):
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    recipe = case.settings(changes)
    with input_errors(ValueError):
        mesh = parallel.make_mesh(*((recipe.mesh.data, recipe.mesh.fsdp) if recipe else (-1, 1)), devices)
    found: dict[str, Any] = {"chips": len(devices)}
    if recipe is not None:
        found |= {"batch": recipe.run.batch, "mesh": dict(mesh.shape)}
    begun = time.monotonic()
    with as_on_tpu():
        function, arguments = case.make(mesh, recipe)
        with parallel.using(mesh if recipe else None):
            lowered = function.lower(*arguments)
        found["lower_seconds"] = round(time.monotonic() - begun, 1)
        begun = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return found | {"fits": False, "error": str(error)[:8000]}
    found["compile_seconds"] = round(time.monotonic() - begun, 1)
    found["versions"] = environment.versions(("jax", "libtpu"))
    return found | analysis(compiled, topology)


def analysis(compiled: Any, topology: str) -> dict[str, Any]:
    """Figures of a compiled program; see `measure`."""
    sizes, cost = compiled.memory_analysis(), compiled.cost_analysis()
    parts = {
        "arguments": sizes.argument_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "outputs": sizes.output_size_in_bytes,
        "aliased": sizes.alias_size_in_bytes,
    }
    total = parts["arguments"] + parts["temporaries"] + parts["outputs"] - parts["aliased"]
    limit = MEMORY.get(topology.partition(":")[0])
    return {
        "fits": None if limit is None else total <= limit * GIB,
        "bytes": total,
        **parts,
        "flops": cost.get("flops"),
        "collectives": collectives(compiled.as_text()),
    }


def collectives(text: str) -> dict[str, int]:
    """How often each kind of communication stands in a compiled program; kinds that do not are left out."""
    # One that runs beside others has two instructions, start and done.
    counts = {kind: len(re.findall(rf"\s{kind}(?:-start)?\(", text)) for kind in COLLECTIVES}
    return {kind: count for kind, count in counts.items() if count}


def read(path: str) -> list[dict[str, Any]]:
    """Lines of a file of results; none where it is absent.

    Raises:
        InputError: A line that is no result.
    """
    if not pathlib.Path(path).is_file():
        return []
    with input_errors(OSError, ValueError):
        return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: its title, and what it says about a result."""

    title: str
    value: Any


def _gib(line: dict[str, Any], name: str) -> str:
    return f"{line[name] / GIB:.2f}"


def _settings(line: dict[str, Any]) -> str:
    return " ".join(f"`{each}`" for each in line["set"]) or "-"


_CASE = (Column("case", lambda line: f"`{line['case']}`"), Column("chips", lambda line: line["topology"]))
MEMORY_COLUMNS = (
    *_CASE,
    Column("`--set`", _settings),
    Column("batch", lambda line: line.get("batch", "-")),
    Column("GiB a chip", lambda line: f"**{_gib(line, 'bytes')}**" if line["fits"] else _gib(line, "bytes")),
    Column("arguments", lambda line: _gib(line, "arguments")),
    Column("temporaries", lambda line: _gib(line, "temporaries")),
    Column("compiled in", lambda line: f"{line['compile_seconds']:.0f} s"),
)
WORK_COLUMNS = (
    *_CASE,
    Column("TFLOP a chip", lambda line: "-" if line["flops"] is None else f"{line['flops'] / 1e12:.3g}"),
    *(Column(kind, lambda line, kind=kind: line["collectives"].get(kind, "-")) for kind in COLLECTIVES),
)


def tables(lines: list[dict[str, Any]]) -> str:
    """Markdown tables of the memory and of the work of programs, with the versions that compiled them.

    Args:
        lines: Results; of those of one case with equal settings the newest counts, and only what was compiled.
    """
    newest = {(line["case"], line["topology"], *line["set"]): line for line in lines if "bytes" in line}
    made = []
    for columns in (MEMORY_COLUMNS, WORK_COLUMNS):
        rows = ["| " + " | ".join(column.title for column in columns) + " |", "|" + "---|" * len(columns)]
        rows += ["| " + " | ".join(str(column.value(line)) for column in columns) + " |" for line in newest.values()]
        made.append("\n".join(rows))
    versions = {f"jax {line['versions']['jax']} and libtpu {line['versions']['libtpu']}" for line in newest.values()}
    return "\n\n".join([*made, f"Compiled by {', '.join(sorted(versions))}."])


def renew(page: pathlib.Path, lines: list[dict[str, Any]]) -> None:
    """Writes the tables between the markers of a page.

    Raises:
        InputError: No such page, or one without markers.
    """
    with input_errors(OSError):
        text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{page} has no lines {BEGIN} and {END}: the tables' place")
    page.write_text(f"{before}{BEGIN}\n{tables(lines)}\n{END}{after}", encoding="utf-8")


PROGRAM = Program("compile_tpu", define_flags, run, "--json keeps the cases that are done")


if __name__ == "__main__":
    PROGRAM.start()
