"""Turntables as a data set of tensorflow-datasets: written as array_record files, read by number; no TensorFlow.

    DIR/turntables/<config>/1.0.0/dataset_info.json     what tensorflow-datasets notes: splits, shards
                                  features.json         shapes and types of the features
                                  turntables-train.array_record-00000-of-00008 ...

One split, "train", in the order of the source. Views are PNGs, so any reader of tensorflow-datasets can decode them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import logging as stdlib_logging
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from tensorflow_datasets.core.example_parser import ExampleParserNp
from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

from im3d_jax.data.turntable import Turntable, TurntableSet
from im3d_jax.data.turntable_sets import open_turntables
from im3d_jax.errors import InputError, input_errors
from im3d_jax.progress import Report


KeyedExample = tuple[int, dict[str, Any]]
_FORMAT = "array_record"
SPLIT, INFO, FEATURES = "train", "dataset_info.json", {"rgba", "caption", "elevations", "azimuths", "key"}
_AGAIN = "build it again with python -m experiments.build_tfds"
# Aimed at for one file. A worker holds the examples of one file in memory.
_SHARD_BYTES, _MOST_SHARDS = 64 << 20, 1024


@dataclasses.dataclass(eq=False, kw_only=True)
class TurntablesConfig(tfds.core.BuilderConfig):
    """What is written.

    Attributes:
        turntables: A set, or what `open_turntables` takes. With Beam each worker opens it: a path must be reachable
            from all of them, and a set is pickled.
        shards: Number of files, as many as Beam can make at a time; None chooses by size.
    """

    turntables: str | TurntableSet
    shards: int | None = None

    def open(self) -> TurntableSet:
        """The set, opened."""
        return _opened(self.turntables) if isinstance(self.turntables, str) else self.turntables


class Turntables(tfds.core.ShardBasedBuilder):
    """Writes turntables of one size with their captions, in the order of the source, file by file.

    With a runner of Apache Beam in the download configuration, the files are a collection that its workers share. Not a
    `GeneratorBasedBuilder`: beyond 1 GB, that one sorts through temporary files, which it opens with TensorFlow.

    Features of an example: rgba [F, H, W, 4] uint8 (a PNG for each view), caption, elevations and azimuths [F] float32
    in radians, key.

    Args:
        config: What is written.
        report: Is told how many examples are made; None with Beam, whose workers cannot call it.
        **options: Of `tfds.core.ShardBasedBuilder`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, config: TurntablesConfig, report: Report | None = None, **options: Any):
        self._report = report
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        turntables = self._config.open()
        frames, size = turntables.frames, turntables.size
        view = tfds.features.Image(shape=(size, size, 4), dtype=np.uint8, encoding_format="png")
        features = {
            "rgba": tfds.features.Sequence(view, length=frames),
            "caption": tfds.features.Text(),
            "elevations": tfds.features.Tensor(shape=(frames,), dtype=np.float32),
            "azimuths": tfds.features.Tensor(shape=(frames,), dtype=np.float32),
            "key": tfds.features.Text(),
        }
        # Not `dataset_info_from_configs`: it would take any README.md beside this module for the data set's own.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Turntables of captioned objects with straight alpha.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    @property
    def _config(self) -> TurntablesConfig:
        config = self.builder_config
        assert isinstance(config, TurntablesConfig)
        return config

    @functools.cached_property
    def _ranges(self) -> list[range]:
        """Numbers of the examples of each file."""
        turntables = self._config.open()
        shards = min(self._config.shards or _shards_by_size(turntables), len(turntables))
        ends = [len(turntables) * number // shards for number in range(shards + 1)]
        return [range(start, end) for start, end in itertools.pairwise(ends)]

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator[KeyedExample]]]]:
        shards = [functools.partial(_examples, self._config, numbers, self._report) for numbers in self._ranges]
        return {SPLIT: shards}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # With Beam, tensorflow-datasets 4.9.10 sorts the lengths of the files by the numbers as text (0, 1, 10, 11, 2)
        # and leaves the table of them behind.
        lengths = [len(numbers) for numbers in self._ranges]
        splits = [dataclasses.replace(split, shard_lengths=lengths) for split in self.info.splits.values()]
        self.info.set_splits(tfds.core.SplitDict(splits))
        for table in pathlib.Path(self.data_dir).glob("*.shard_infos.json"):
            table.unlink()

    def _log_download_bytes(self) -> None:
        """Nothing on stdout: `report` tells."""

    def _log_download_done(self) -> None:
        """See `_log_download_bytes`."""


def build_turntables(
    turntables: str | TurntableSet,
    out: str | os.PathLike,
    *,
    shards: int | None = None,
    report: Report | None = None,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> pathlib.Path:
    """Writes a data set of tensorflow-datasets; one that fails leaves no example behind.

    Args:
        turntables: A set, or what `open_turntables` takes.
        out: The folder under which the data set gets its own.
        shards: Number of files; None chooses by size.
        report: Is told how many examples are made; not with Beam.
        beam_runner: Name of a runner of Apache Beam, "DirectRunner" for this machine; None works without Beam.
        beam_options: Flags of the runner, as Beam takes them: "--project=x".

    Returns:
        Folder of the data set.

    Raises:
        InputError: No turntables, one that cannot be read or is of another size, a data set that is there already, a
            folder that cannot be written, or Beam is missing or does not know the runner.
    """
    # Beam first: its lack should cost nothing.
    download = _beam_config(beam_runner, beam_options) if beam_runner else tfds.download.DownloadConfig()
    config = TurntablesConfig(name=_config_name(turntables), turntables=turntables, shards=shards)
    if not len(config.open()):
        raise InputError("there are no turntables to write")
    try:
        with _quiet(), input_errors(OSError), tempfile.TemporaryDirectory() as downloads:
            builder = Turntables(
                config=config, report=None if beam_runner else report, data_dir=os.fspath(out), file_format=_FORMAT
            )
            folder = pathlib.Path(builder.data_dir)
            if folder.exists():
                raise InputError(f"{folder} is there already; remove it, or build into another folder")
            builder.download_and_prepare(download_config=download, download_dir=downloads)
    except Exception as error:
        if isinstance(error, InputError) and not beam_runner:
            raise
        if not (cause := _cause(error)):
            raise
        raise InputError(cause) from error
    return folder


class TurntableTfds:
    """Turntables that `build_turntables` wrote, by number; a `TurntableSet`. Opening reads no example.

    Args:
        path: Folder of the data set, or one above it that holds no other.

    Attributes:
        path: Folder of the data set.

    Raises:
        InputError: The folder is missing, holds none, several or another data set, or is damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = find_dataset(path)
        try:
            with _quiet():
                builder: Any = tfds.builder_from_directory(self.path)
            features = builder.info.features
            if features is None or set(features) != FEATURES:
                raise InputError(f"{self.path} holds the data set {builder.name} and no turntables; {_AGAIN}")
            self.frames, self.size = features["rgba"].shape[:2]
            # Parsed here: tensorflow-datasets cannot leave pictures of a sequence undecoded, and decodes them with
            # OpenCV or Pillow, whichever is there.
            self._parser: Any = ExampleParserNp(features.get_serialized_info())
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            split = builder.info.splits[SPLIT]
            self._length = split.num_examples
            # The lengths that the files themselves note at their ends, which a file cut off has not.
            for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
                if not pathlib.Path(file).is_file():
                    raise InputError(f"{file} is missing; {_AGAIN}")
                if (found := ArrayRecordFileAdapter.num_examples(file)) != length:
                    raise InputError(f"{file} holds {found} turntables, expected {length}; {_AGAIN}")
            self._source = builder.as_data_source(SPLIT, deserialize_method=raw)
        except InputError:
            raise
        except Exception as error:  # of many kinds: JSON, protocol buffers, array_record
            raise InputError(f"{self.path} is damaged ({_first_line(error)}); {_AGAIN}") from None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Turntable:
        if not 0 <= index < self._length:
            raise IndexError(f"turntable {index} of {self._length}")
        try:
            example = self._parser.parse_example(self._source[index])
            rgba = np.stack([_decode(png) for png in example["rgba"]])
            if rgba.shape != (self.frames, self.size, self.size, 4):
                raise ValueError(f"its pictures are {rgba.shape}")
            return Turntable(
                rgba=rgba,
                caption=_text(example["caption"]),
                elevations=example["elevations"],
                azimuths=example["azimuths"],
                key=_text(example["key"]),
            )
        except Exception as error:  # of many kinds, see above
            raise InputError(f"{self.path}, turntable {index} is damaged ({_first_line(error)}); {_AGAIN}") from None


def find_dataset(path: str | os.PathLike) -> pathlib.Path:
    """Folder of the one data set of tensorflow-datasets at a path or up to three levels below.

    Raises:
        InputError: None or several.
    """
    root = pathlib.Path(path)
    found = sorted(file.parent for depth in range(4) for file in root.glob("*/" * depth + INFO))
    if not found:
        raise InputError(f"no data set of tensorflow-datasets in {root} (no {INFO}); {_AGAIN}")
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in found)
        raise InputError(f"{root} holds {len(found)} data sets; give one of {names}")
    return found[0]


def _features(turntables: TurntableSet, index: int) -> dict[str, Any]:
    """Features of an example, as `Turntables` describes them."""
    item, shape = turntables[index], (turntables.frames, turntables.size, turntables.size, 4)
    if item.rgba.shape != shape or item.rgba.dtype != np.uint8:
        found = f"{item.rgba.dtype} {list(item.rgba.shape)}"
        raise InputError(f"turntable {index} ({item.key}) is {found}, expected uint8 {list(shape)}")
    return {
        # Encoded here: tensorflow-datasets would encode arrays with TensorFlow.
        "rgba": [_encode(view) for view in item.rgba],
        "caption": item.caption,
        "elevations": np.asarray(item.elevations, np.float32),
        "azimuths": np.asarray(item.azimuths, np.float32),
        "key": item.key,
    }


def _examples(config: TurntablesConfig, numbers: range, report: Report | None) -> Iterator[KeyedExample]:
    """Examples of one file."""
    turntables = config.open()
    for index in numbers:
        yield index, _features(turntables, index)
        if report:
            report(index + 1, len(turntables), "")


@functools.lru_cache(maxsize=1)
def _opened(spec: str) -> TurntableSet:
    """A set, opened once in each process: a worker of Beam makes many files."""
    return open_turntables(spec)


def _shards_by_size(turntables: TurntableSet) -> int:
    """Number of files, estimated from up to four examples."""
    chosen = range(0, len(turntables), -(-len(turntables) // 4))
    sizes = [sum(map(len, _features(turntables, index)["rgba"])) for index in chosen]
    return min(max(1, round(len(turntables) * sum(sizes) / len(sizes) / _SHARD_BYTES)), _MOST_SHARDS)


def _beam_config(runner: str, options: Sequence[str]) -> Any:
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports] (extra)
        from apache_beam.runners.runner import create_runner  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError:
        raise InputError("apache-beam is not installed; pip install 'im3d-jax[beam]', or build without Beam") from None
    try:
        made = create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"Beam has no runner {runner} ({_first_line(error)})") from None
    return tfds.download.DownloadConfig(beam_runner=made, beam_options=PipelineOptions(list(options)))


def _cause(error: Exception) -> str:
    """What a user can mend of an error while writing: of the source, or of the disk; empty for others."""
    text = re.sub(r" \[while running '.*", "", str(error), flags=re.DOTALL)  # Beam's
    if isinstance(error, InputError):
        return text
    if found := re.search(rf"\b{InputError.__module__}\.\w+: (.+)", text):  # in a worker elsewhere
        return found[1]
    full = any(reason in text for reason in ("No space left", "File too large", "quota exceeded"))
    return f"the data set cannot be written ({_first_line(error)})" if full else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what tensorflow-datasets says of data sets that are not its own, and Beam's traces of errors."""
    beam, verbosity = stdlib_logging.getLogger("apache_beam.runners.common"), logging.get_verbosity()
    level = beam.level
    logging.set_verbosity(logging.ERROR)
    beam.setLevel(stdlib_logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        beam.setLevel(level)


def _config_name(turntables: str | TurntableSet) -> str:
    if not isinstance(turntables, str):
        return "turntables"
    return re.sub(r"[^\w.-]+", "-", pathlib.PurePath(turntables).name).strip("-.") or "turntables"


def _encode(view: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "PNG")
    return buffer.getvalue()


def _decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png), formats=("PNG",)))


def _text(value: str | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
