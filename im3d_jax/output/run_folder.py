"""Run folders: settings, finished stages, and files that are whole or absent.

A run is a row of named stages. A stage reads files, writes files, and is finished once it stands in
`state/stages.json` with the hashes of what it read and wrote. It is skipped while these still hold. Stages
pass nothing to each other but files, so an interrupted run ends with the same bytes as an uninterrupted one.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from im3d_jax.digests import file_hash, json_hash
from im3d_jax.errors import RunFolderError


RUN_FILE, TIMINGS_FILE, STAGES_FILE = "run.json", "timings.json", "state/stages.json"
# What a run writes; a folder that holds any of these without a run.json belongs to something else.
RESULTS = (
    "drawn.png", "input.png", "views", "views_round1", "views_round2", "views.mp4", "sheet.png", "cameras.json",
    "state", "asset.ply", "asset_sheet.png", "turntable.mp4", "comparison.png",
    "metrics.json",
)  # fmt: skip

LONGEST_SHOWN = 60  # characters of a setting in a message


def to_json(value: Any) -> bytes:
    """JSON text that is the same for equal values; NaN is refused."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


@dataclasses.dataclass
class StageFiles:
    """What the work of one stage writes through; each file appears whole under its name or not at all."""

    folder: pathlib.Path
    written: list[str] = dataclasses.field(default_factory=list)
    volatile: list[str] = dataclasses.field(default_factory=list)

    def write(self, name: str, content: bytes, *, volatile: bool = False) -> None:
        """Writes `content` to the file `name`, relative to the run folder.

        A `volatile` file (one that holds seconds) differs between equal runs: its hash is not recorded.
        """
        self.save(name, lambda path: path.write_bytes(content))
        if volatile:
            self.volatile.append(name)

    def save(self, name: str, save: Callable[[pathlib.Path], object]) -> None:
        """Lets `save(path)` write a temporary file (same suffix), then moves it to `name`."""
        _write_atomically(self.folder / name, save)
        self.written.append(name)


class RunFolder:
    """A folder with one run. Making the object only checks; `start` is the first to change anything.

    Args:
        path: the folder; made if absent.
        settings: all that decides the results, as JSON values; results of other settings are refused.
        overwrite: at the start, remove the results that are there, whatever their settings.

    Attributes:
        sha256: of the settings; run.json holds it, and a folder goes on only where it is the same.

    Raises:
        RunFolderError: not writable, a file, damaged, or with other settings' results.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ):
        self.path = pathlib.Path(path)
        self.settings = json.loads(to_json(dict(settings)))
        self.sha256 = json_hash(self.settings)
        self._overwrite = overwrite
        self._versions: dict[str, str] = {}
        self._facts: dict[str, Any] = {}
        self._stages: dict[str, Any] = {}
        self._timings: dict[str, float] = {}
        self._make_writable()
        if not overwrite:
            self._check_settings()

    def start(self, versions: Mapping[str, str] | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Begins or resumes the run.

        Args:
            versions: package versions, recorded but not compared.
            facts: more to record in run.json, JSON values.
        """
        if self._overwrite:
            self._remove_results()
        # A process that was killed could not clean up.
        for folder in (self.path, *(self.path / name for name in RESULTS)):
            for leftover in folder.glob(".partial-*"):
                leftover.unlink()
        self._versions = dict(versions or {})
        self._facts = dict(facts or {})
        self._stages = self._read_json(STAGES_FILE, _is_record)
        self._timings = self._read_json(TIMINGS_FILE, lambda seconds: isinstance(seconds, int | float))
        self._write_run_file()

    def note_files(self, files: Mapping[str, str]) -> None:
        """Takes what a stage found out over into run.json.

        Args:
            files: {key of run.json: JSON file in the folder}.
        """
        if files:
            self._facts |= {key: json.loads((self.path / name).read_bytes()) for key, name in files.items()}
            self._write_run_file()

    def outputs(self, name: str) -> tuple[str, ...]:
        """Files that a finished stage wrote, relative to the folder."""
        return tuple(self._stages[name]["outputs"])

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @property
    def network_evaluations(self) -> int:
        """Network evaluations of all finished stages."""
        return sum(record["network_evaluations"] for record in self._stages.values())

    @property
    def seconds(self) -> float:
        """Seconds that the finished stages took, each in the run that finished it."""
        return sum(self._timings.get(name, 0.0) for name in self._stages)

    def finished(self, name: str, inputs: Iterable[str] = (), settings: Mapping[str, Any] | None = None) -> bool:
        """Whether the stage ran on these inputs and settings, and what it wrote is still there unchanged."""
        record = self._stages.get(name)
        if record is None or record["key"] != self.key(name, inputs, settings or {}):
            return False
        return all(
            (self.path / file).is_file() and digest in (None, file_hash(self.path / file))
            for file, digest in record["outputs"].items()
        )

    def stage(
        self,
        name: str,
        work: Callable[[StageFiles], int | None],
        *,
        inputs: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> bool:
        """Runs a stage unless it is finished.

        Args:
            name: unique in the run.
            work: writes the stage's files through its argument and returns its network evaluations (None: 0).
                It must take all that it needs from the files named in `inputs` and from the settings.
            inputs: files that it reads, relative to the run folder.
            settings: what of the run's settings the stage depends on beyond its inputs.

        Returns:
            Whether the work was done (False: it was finished before).
        """
        inputs = list(inputs)
        if self.finished(name, inputs, settings):
            return False
        started = time.monotonic()
        files = StageFiles(self.path)
        key = self.key(name, inputs, settings or {})
        evaluations = work(files) or 0
        self._stages[name] = {
            "key": key,
            "outputs": {
                file: None if file in files.volatile else file_hash(self.path / file) for file in files.written
            },
            "network_evaluations": int(evaluations),
        }
        self._timings[name] = round(time.monotonic() - started, 3)
        self._write(TIMINGS_FILE, to_json(self._timings))
        # With this the stage counts as finished; run.json is written again by any later start.
        self._write(STAGES_FILE, to_json(self._stages))
        self._write_run_file()
        return True

    def key(self, name: str, inputs: Iterable[str], settings: Mapping[str, Any]) -> str:
        """SHA-256 of what decides a stage's result beside the run's settings: arguments as those of `stage`."""
        hashes = {file: file_hash(self.path / file) for file in inputs}
        return json_hash([name, dict(settings), hashes])

    def _write(self, name: str, content: bytes) -> None:
        _write_atomically(self.path / name, lambda path: path.write_bytes(content))

    def _write_run_file(self) -> None:
        run = {
            "settings": self.settings,
            "sha256": self.sha256,
            "versions": self._versions,
            "seed": self._seed(),
            "network_evaluations": self.network_evaluations,
            **self._facts,
        }
        self._write(RUN_FILE, to_json(run))

    def _seed(self) -> int | None:
        request = self.settings.get("request")
        return self.settings.get("seed") if request is None else request["seed"]

    def _read_json(self, name: str, valid: Callable[[Any], bool] | None = None) -> dict[str, Any]:
        """The dictionary in the file, empty without one; `valid` judges each of its values."""
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_bytes())
        except ValueError:
            value = None
        if not isinstance(value, dict) or not all(valid is None or valid(entry) for entry in value.values()):
            raise RunFolderError(f"{path} is damaged; choose another --out or start over with --overwrite")
        return value

    def _make_writable(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable.partial"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise RunFolderError(
                f"cannot write to the folder {self.path} ({error.strerror}); choose another --out"
            ) from None

    def _remove_results(self) -> None:
        for name in (*RESULTS, RUN_FILE, TIMINGS_FILE):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check_settings(self) -> None:
        run = self._read_json(RUN_FILE)
        recorded = run.get("settings")
        if recorded is not None and not isinstance(recorded, dict):
            raise RunFolderError(
                f"{self.path / RUN_FILE} is damaged; choose another --out or start over with --overwrite"
            )
        if recorded is None:
            foreign = [name for name in RESULTS if (self.path / name).exists()]
            if foreign:
                raise RunFolderError(
                    f"{self.path} holds {foreign[0]} but no {RUN_FILE}, so it is not a run folder; choose another "
                    "--out or replace it with --overwrite"
                )
        elif run.get("sha256") != self.sha256 and self._read_json(STAGES_FILE):
            differ = lambda key: recorded.get(key) != self.settings.get(key)  # noqa: E731
            # Whoever meets another command's folder needs no list of all that this command has besides.
            before, now = ({"what": one.get("what")} if differ("what") else one for one in (recorded, self.settings))
            changes = _differences(before, now) or ["it was made by another version"]
            raise RunFolderError(
                f"{self.path} holds results of other settings ({'; '.join(changes[:3])}); choose another --out or "
                "replace them with --overwrite"
            )


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """One text for each setting in which two values differ, inside of nested ones too."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [_difference(name, repr(before), repr(now))]
    prefix = f"{name}." if name else ""
    keys = sorted(before.keys() | now.keys())
    return [text for key in keys for text in _differences(before.get(key), now.get(key), prefix + key)]


def _difference(name: str, before: str, now: str) -> str:
    """A line for two values of a setting; of long ones, the part around the first difference."""
    same = len(os.path.commonprefix([before, now]))
    begin = 0 if max(len(before), len(now)) <= LONGEST_SHOWN else max(0, same - LONGEST_SHOWN // 3)
    shown = []
    for text in (before, now):
        rest = text[begin:]
        end = "…" if len(rest) > LONGEST_SHOWN else ""
        shown.append(("…" if begin else "") + rest[:LONGEST_SHOWN] + end)
    return f"{name} was {shown[0]}, now {shown[1]}"


def _is_record(value: Any) -> bool:
    """Whether `value` is what a finished stage leaves in `state/stages.json`."""
    if not isinstance(value, dict) or set(value) != {"key", "outputs", "network_evaluations"}:
        return False
    return isinstance(value["outputs"], dict) and isinstance(value["network_evaluations"], int)


def _write_atomically(path: pathlib.Path, save: Callable[[pathlib.Path], object]) -> None:
    # The suffix stays last: numpy and other writers append their own to a name that lacks it.
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        save(partial)
        # Writers that use a private temporary file of their own leave it unreadable to everybody else.
        partial.chmod(mode)
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise RunFolderError(f"cannot write {path} ({reason}); make room or choose another --out") from None
    finally:
        partial.unlink(missing_ok=True)
