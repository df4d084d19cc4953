"""Reads gaussian files that are damaged in random ways: a reader returns gaussians or raises one line.

    python -m experiments.benchmarks.readers --format=spz --inputs=100000 --seed=0

Prints one JSON line. Anything but gaussians or a ValueError of one line (another error, a warning of numpy's, a result
out of proportion, an input that takes longer than --slowest) stops the run; the input is kept.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import resource
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.programs import Program
from im3d_jax.number_flags import define_float, define_integer
from im3d_jax.paths import define_path
from splat.io.files import Malformed, Rows, on_device
from splat.io.formats import decode, encode
from splat.io.frames import to_y_up


_MOST_RESULT_BYTES = 1 << 26
_NUMBERS = (0, 1, 2, 3, 4, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TOKENS = (
    b"0", b"-1", b"1", b"2", b"7", b"1e9", b"1e400", b"nan", b"NaN", b"4294967296", b"99999999999", b"null",
    b"true", b'""', b"[]", b"{}", b"[[]]", b"x", b"9" * 30, b"ascii", b"binary_big_endian", b"list",
    b"double", b"char", b'"VEC4"', b"5121", b"5126", b"vertex", b"f_rest_3", b"property", b"element face 1",
)  # fmt: skip


@dataclasses.dataclass
class Report:
    """What a run found.

    Attributes:
        format: Of the files.
        inputs: Files that were damaged.
        seed: Of the damage.
        read: Files that became gaussians all the same.
        refused: Files that a reader refused with one line.
        reasons: Different lines, numbers and names aside.
        slowest_ms: Processor time of the slowest file.
        seconds: Wall time of the run.
        max_rss_mib: Largest resident size of the process.
        rss_growth_mib: Of it, what the run added.
    """

    format: str
    inputs: int
    seed: int
    read: int = 0
    refused: int = 0
    reasons: int = 0
    slowest_ms: float = 0.0
    seconds: float = 0.0
    max_rss_mib: float = 0.0
    rss_growth_mib: float = 0.0


def fuzz(kind: str, inputs: int, seed: int, *, slowest: float = 5.0, keep: str | None = None) -> Report:
    """Reads damaged files.

    Args:
        kind: ``ply``, ``spz``, ``sog``, ``splat`` or ``glb``.
        inputs: Number of files.
        seed: Of the damage; the same seed gives the same files.
        slowest: Seconds that one file may take.
        keep: File for the input that stops the run.

    Raises:
        Exception: A reader raised what it must not raise.
        RuntimeError: A result out of proportion, an error of several lines, or a file that took too long.
    """
    rng = np.random.default_rng(seed)
    originals = valid_files(kind)
    turn = to_y_up("z").T
    for original in originals:
        on_device(decode(original, f".{kind}", turn))
    report, reasons, started, before = Report(kind, inputs, seed), set(), time.monotonic(), _rss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        for number in range(inputs):
            data = damage(rng, originals, kind)
            begun, begun_here = time.monotonic(), time.thread_time()
            try:
                _read(data, kind, turn, report, reasons)
                took = time.monotonic() - begun
                if took > slowest:
                    raise RuntimeError(f"input {number} of {kind}, seed {seed}, took {took:.1f} s")
            except BaseException:
                if keep:
                    Path(keep).write_bytes(data)
                    print(f"input {number} of {kind}, seed {seed}, is kept in {keep}")
                raise
            report.slowest_ms = max(report.slowest_ms, round(1e3 * (time.thread_time() - begun_here), 2))
    report.reasons = len(reasons)
    report.seconds = round(time.monotonic() - started, 1)
    report.max_rss_mib, report.rss_growth_mib = round(_rss(), 1), round(_rss() - before, 1)
    return report


def _read(data: bytes, kind: str, turn: np.ndarray, report: Report, reasons: set[str]) -> None:
    try:
        gaussians = on_device(decode(data, f".{kind}", turn))
    except Malformed as problem:
        if "\n" in str(problem) or not str(problem):
            raise RuntimeError(f"an error of several lines or none: {problem!r}") from problem
        reasons.add(re.sub(r"[\d'\"].*", "", str(problem)))
        report.refused += 1
        return
    count, terms = len(gaussians), gaussians.sh.shape[1]
    expected = [(count, 3), (count, 4), (count, 3), (count,), (count, terms, 3)]
    shapes = [leaf.shape for leaf in jax.tree.leaves(gaussians)]
    if shapes != expected or terms not in (1, 4, 9, 16, 25):
        raise RuntimeError(f"shapes do not agree: {shapes}")
    if gaussians.sh.nbytes + 44 * len(gaussians) > _MOST_RESULT_BYTES:
        raise RuntimeError(f"{len(data)} bytes became {len(gaussians)} gaussians")
    report.read += 1


def valid_files(kind: str) -> list[bytes]:
    """Small sound files of different degrees and variants of a format."""
    rng = np.random.default_rng(0)
    files = []
    for count, terms in ((1, 1), (7, 4), (40, 16)):
        shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, terms, 3)]
        gaussians = Rows(*(0.5 * rng.normal(size=shape).astype(np.float32) for shape in shapes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            files.append(encode(gaussians, f".{kind}", np.eye(3)))
            for options in _VARIANTS.get(kind, ()):
                files.append(encode(gaussians, f".{kind}", np.eye(3), **options))
    if kind == "ply":
        names = "x y z opacity rot_0 rot_1 rot_2 rot_3 scale_0 scale_1 scale_2 f_dc_0 f_dc_1 f_dc_2".split()
        for encoding in ("ascii", "binary_big_endian"):
            head = f"ply\nformat {encoding} 1.0\nelement extra 1\nproperty uchar a\nelement vertex 2\n"
            head += "".join(f"property double {name}\n" for name in names) + "end_header\n"
            rows = rng.normal(size=(2, len(names)))
            text = "1\n" + "\n".join(" ".join(f"{v:.3f}" for v in row) for row in rows) + "\n"
            files.append(
                head.encode() + (text.encode() if encoding == "ascii" else b"\1" + rows.astype(">f8").tobytes())
            )
    if kind == "spz":
        for version, width in ((1, 6 + 1 + 3 + 3 + 3), (2, 9 + 1 + 3 + 3 + 3)):
            header = struct.pack("<4sIIBBBB", b"NGSP", version, 5, 0, 12, 0, 0)
            body = rng.integers(0, 120, 5 * width, np.uint8).tobytes()
            files.append(_gzip(header + body))
    return files


def damage(rng: np.random.Generator, originals: list[bytes], kind: str) -> bytes:
    """One damaged file: one to four random changes, of packed formats inside or outside of the packing.

    Args:
        rng: Chooses the changes.
        originals: Sound files, one of which is taken.
        kind: Of the files.
    """
    data = originals[rng.integers(len(originals))]
    unpack, pack = _PACKINGS.get(kind, (_same, _same))
    inside = rng.random() < 0.7
    data = unpack(data) if inside else data
    for _ in range(min(rng.geometric(0.65), 4)):
        data = _CHANGES[rng.integers(len(_CHANGES))](rng, data, originals)
    return pack(data) if inside else data


def _flip_bits(rng, data: bytes, originals) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    if changed.size:
        # Headers are short and decide most: half of the flips hit the first bytes.
        most = min(changed.size, 64) if rng.random() < 0.5 else changed.size
        changed[rng.integers(0, most, rng.integers(1, 9))] ^= np.uint8(1 << rng.integers(8))
    return changed.tobytes()


def _set_bytes(rng, data: bytes, originals) -> bytes:
    place = int(rng.integers(0, len(data) + 1))
    size = int(rng.integers(1, 9))
    return data[:place] + rng.integers(0, 256, size, np.uint8).tobytes() + data[place + size :]


def _set_number(rng, data: bytes, originals) -> bytes:
    place = int(rng.integers(0, min(len(data), 64) + 1)) // 4 * 4
    number = _NUMBERS[rng.integers(len(_NUMBERS))]
    raw = struct.pack("<I", number) if rng.random() < 0.5 else struct.pack("B", number % 256)
    return data[:place] + raw + data[place + len(raw) :]


def _truncate(rng, data: bytes, originals) -> bytes:
    return data[: int(rng.integers(0, len(data) + 1))]


def _repeat(rng, data: bytes, originals) -> bytes:
    start, end = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
    return data[:end] + data[start:end] * int(rng.integers(0, 3)) + data[end:]


def _cut(rng, data: bytes, originals) -> bytes:
    start = int(rng.integers(0, len(data) + 1))
    return data[:start] + data[start + int(rng.integers(1, 60)) :]


def _splice(rng, data: bytes, originals) -> bytes:
    other = originals[rng.integers(len(originals))]
    return data[: int(rng.integers(0, len(data) + 1))] + other[int(rng.integers(0, len(other) + 1)) :]


def _replace_word(rng, data: bytes, originals) -> bytes:
    words = [match.span() for match in re.finditer(rb"-?[\w.]{1,40}", data[:4096])]
    if not words:
        return data
    start, end = words[rng.integers(len(words))]
    if rng.random() < 0.3:
        other_start, other_end = words[rng.integers(len(words))]
        return data[:start] + data[other_start:other_end] + data[end:]
    return data[:start] + _TOKENS[rng.integers(len(_TOKENS))] + data[end:]


def _move_line(rng, data: bytes, originals) -> bytes:
    lines = data[:4096].split(b"\n")
    i, j = rng.integers(0, len(lines), 2)
    lines[i], lines[j] = lines[j], (lines[i] if rng.random() < 0.5 else lines[j])
    return b"\n".join(lines) + data[4096:]


_CHANGES: tuple[Callable[..., bytes], ...] = (
    _flip_bits,
    _set_bytes,
    _set_number,
    _truncate,
    _repeat,
    _cut,
    _splice,
    _replace_word,
    _replace_word,
    _move_line,
)


def _same(data: bytes) -> bytes:
    return data


def _gzip(data: bytes) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    return stream.compress(data) + stream.flush()


def _spz_content(data: bytes) -> bytes:
    return zlib.decompress(data, 31) if data.startswith(b"\x1f\x8b") else data


def _spz_file(content: bytes) -> bytes:
    return content if content[:8] == b"NGSP\4\0\0\0" else _gzip(content)


def _sog_content(data: bytes) -> bytes:
    """meta.json first, and the whole archive after a mark."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("meta.json") + b"\0\1ZIP" + data


def _sog_file(content: bytes) -> bytes:
    """An archive with sound checksums around a damaged meta.json; without the mark the content alone."""
    text, mark, whole = content.partition(b"\0\1ZIP")
    try:
        members = zipfile.ZipFile(io.BytesIO(whole))
        files = {name: members.read(name) for name in members.namelist() if name != "meta.json"}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, RuntimeError, zlib.error):
        return whole if mark else content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in {**files, "meta.json": text}.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return buffer.getvalue()


def _glb_content(data: bytes) -> bytes:
    """The JSON text and the binary chunk with a mark between them."""
    size = struct.unpack_from("<I", data, 12)[0]
    return data[20 : 20 + size] + b"\0\1BIN" + data[28 + size :]


def _glb_file(content: bytes) -> bytes:
    """A container of the right lengths around damaged content."""
    text, _, binary = content.partition(b"\0\1BIN")
    body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


_PACKINGS = {
    "spz": (_spz_content, _spz_file),
    "sog": (_sog_content, _sog_file),
    "glb": (_glb_content, _glb_file),
}
_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {"ply": ({"compressed": True},), "spz": ({"version": 4},)}


def _rss() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_enum("format", "ply", ["ply", "spz", "sog", "splat", "glb"], "format to damage", flag_values=values)
    define_integer("inputs", 100_000, "number of damaged files", lower_bound=1, flag_values=values)
    define_integer("seed", 0, "of the damage", lower_bound=0, flag_values=values)
    define_float("slowest", 5.0, "seconds that one input may take", flag_values=values)
    define_path("keep", "fuzz-failure", "where an input that stops the run is kept", flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Reads damaged files and prints the report."""
    report = fuzz(values.format, values.inputs, values.seed, slowest=values.slowest, keep=values.keep)
    print(json.dumps(dataclasses.asdict(report)))


PROGRAM = Program("benchmarks.readers", define_flags, run, "nothing is printed")


if __name__ == "__main__":
    PROGRAM.start()
