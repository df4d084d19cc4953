"""Name tables: which tensor of a foreign file is which parameter, and how its axes lie.

A table is made from our parameters' shapes and a short list of renames, so it says exactly which tensors a file must
hold and in which shapes, and reads in both directions. Nothing is guessed from a tensor's looks.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping

import numpy as np

from im3d_jax.errors import WeightsError


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a parameter's axes lie in a file.

    Attributes:
        order: Our axes in the file's order.
        ones: Axes of length 1 that the file has behind them.
    """

    order: tuple[int, ...]
    ones: int = 0

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a parameter of ours of `shape`."""
        return (*(shape[axis] for axis in self.order), *(1,) * self.ones)

    def from_file(self, array: np.ndarray) -> np.ndarray:
        """The file's tensor (or a slice of it) with our axes; a view."""
        return array.reshape(array.shape[: len(self.order)]).transpose(np.argsort(self.order))

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `from_file`."""
        return array.transpose(self.order).reshape(self.file_shape(array.shape))


LINEAR = Layout((1, 0))  # [in, out] from PyTorch's Linear
POINTWISE = Layout((1, 0), 2)  # [in, out] from a 1x1 Conv2d
CONV = Layout((3, 2, 0, 1))  # HWIO from Conv2d
FRAMES = Layout((2, 1, 0), 2)  # [3, in, out] from a Conv3d of kernel (3, 1, 1)
KERNELS = {2: LINEAR, 3: FRAMES, 4: CONV}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one of our parameters lies in a file.

    Attributes:
        name: Of the file's tensor.
        shape: Of the whole tensor there.
        layout: How our parameter's axes lie in it.
        part: Which part is ours, where several parameters lie in one tensor behind each other along its first axis.
        parts: How many of equal size there are.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    part: int = 0
    parts: int = 1

    @property
    def index(self) -> tuple[slice, ...]:
        """What of the file's tensor is ours; empty for all of it."""
        if self.parts == 1:
            return ()
        rows = self.shape[0] // self.parts
        return (slice(self.part * rows, (self.part + 1) * rows),)

    def take(self, stored: np.ndarray) -> np.ndarray:
        """Our parameter out of the file's tensor; a view."""
        return self.layout.from_file(stored[self.index or ...])


Table = dict[str, Entry]
Renames = Iterable[tuple[str, str]]


def make_table(
    shapes: Mapping[str, tuple[int, ...]], renames: Renames = (), pointwise: str | None = None, prefix: str = ""
) -> Table:
    """The table of one network.

    Args:
        shapes: {our dotted name: shape}.
        renames: (regular expression, replacement) pairs, applied in turn to our name without its last part.
        pointwise: Regular expression that finds the modules whose [in, out] kernels the file holds as 1x1 convolutions.
        prefix: In front of every name in the file.

    Raises:
        ValueError: Two parameters got one name: the renames are wrong.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in renames]
    is_pointwise = re.compile(pointwise) if pointwise else None
    table = {}
    for ours, shape in shapes.items():
        module, _, leaf = ours.rpartition(".")
        if leaf == "kernel":
            layout = POINTWISE if is_pointwise and is_pointwise.search(module) else KERNELS[len(shape)]
        else:
            layout = Layout(tuple(range(len(shape))))
        for pattern, replacement in compiled:
            module = pattern.sub(replacement, module)
        # An empty module: the parameter lies at the network's root, or a rename took the module away.
        theirs = ".".join(part for part in (module, "weight" if leaf in ("kernel", "scale") else leaf) if part)
        table[ours] = Entry(prefix + theirs, layout.file_shape(tuple(shape)), layout)
    names = [entry.name for entry in table.values()]
    if len(set(names)) != len(names):
        raise ValueError(f"two parameters share a name: {sorted({n for n in names if names.count(n) > 1})[:3]}")
    return table


def check_complete(table: Table, found: Mapping[str, tuple[int, ...]], where: str, unused: Iterable[str] = ()) -> None:
    """Checks that the tensors found are exactly those of the table, besides some that nobody uses.

    Args:
        table: What is wanted.
        found: {name: shape} of all tensors there are.
        where: For the message, the file or folder.
        unused: Patterns (of fnmatch) of names that may be there and are not in the table.

    Raises:
        WeightsError: Lists the tensors that are missing, unknown or of another shape.
    """
    wanted = {entry.name: entry.shape for entry in table.values()}
    unknown = sorted(found.keys() - wanted.keys())
    for pattern in unused:
        unknown = [name for name in unknown if not fnmatch.fnmatchcase(name, pattern)]
    complaints = []
    for what, names in (
        ("missing", sorted(wanted.keys() - found.keys())),
        ("unknown", unknown),
        (
            "of another shape",
            [
                f"{n} {list(found[n])} (expected {list(wanted[n])})"
                for n in sorted(wanted.keys() & found.keys())
                if tuple(found[n]) != wanted[n]
            ],
        ),
    ):
        if names:
            shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            complaints.append(f"{len(names)} tensors {what}: {shown}")
    if complaints:
        raise WeightsError(f"{where} does not fit the network: " + "; ".join(complaints))
