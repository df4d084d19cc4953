"""Run folders: settings, finished stages, and files that are whole or absent.

A run is a row of named stages. A stage reads files, writes files, and is finished once it stands in
`state/stages.json` with the hashes of what it read and wrote. It is skipped while these still hold. Stages
pass nothing to each other but files, so an interrupted run ends with the same bytes as an uninterrupted one.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from im3d_jax.atomic import LOCK_FILE, Held, Hold, check_writable, hold
from im3d_jax.digests import file_hash, json_hash
from im3d_jax.errors import RunFolderError
from im3d_jax.output.records import differences, read_object, seconds_of_stages, stage_records, to_json
from im3d_jax.output.run_files import (
    RESULTS,
    RUN_FILE,
    STAGES_FILE,
    TIMINGS_FILE,
    clean,
    is_whole,
    outside,
    volatile_hash,
    write_file,
)


@dataclasses.dataclass
class StageFiles:
    """What the work of one stage writes through; each file appears whole under its name or not at all."""

    folder: pathlib.Path
    written: list[str] = dataclasses.field(default_factory=list)
    volatile: list[str] = dataclasses.field(default_factory=list)

    def write(self, name: str, content: bytes, *, volatile: bool = False) -> None:
        """Writes `content` to the file `name`, relative to the run folder.

        A `volatile` file differs between equal runs: a JSON object, whose number `seconds` is left out of its hash.
        """
        self.save(name, lambda path: path.write_bytes(content))
        if volatile:
            self.volatile.append(name)

    def save(self, name: str, save: Callable[[pathlib.Path], object]) -> None:
        """Lets `save(path)` write a temporary file (same suffix), then moves it to `name`."""
        write_file(self.folder, name, save)
        self.written.append(name)


class RunFolder:
    """A folder with one run. Making the object only checks; `start` is the first to change anything.

    One process at a time works in a folder: from `start` to `close`, or during each stage. Damaged records count as
    missing, so their stages are done again.

    Args:
        path: the folder; made if absent.
        settings: all that decides the results, as JSON values; results of other settings are refused.
        overwrite: at the start, remove the results that are there, whatever their settings.

    Attributes:
        sha256: of the settings; run.json holds it, and a folder goes on only where it is the same.

    Raises:
        RunFolderError: not writable, a file, or with other settings' results.
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
        self._held: Hold | None = None
        self._make_writable()
        if not overwrite:
            self._check_settings()

    def start(
        self,
        versions: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        *,
        held: bool = True,
    ) -> None:
        """Begins or resumes the run.

        Args:
            versions: package versions, recorded but not compared.
            facts: more to record in run.json, JSON values.
            held: whether to hold the folder until `close`; otherwise each stage holds it.

        Raises:
            RunFolderError: another process works in the folder.
        """
        self.close()
        kept = self._hold()
        with kept if not held else contextlib.nullcontext():
            clean(self.path, overwrite=self._overwrite)
            self._versions = dict(versions or {})
            self._facts = dict(facts or {})
            self._stages = self._finished_stages()
            self._timings = seconds_of_stages(self.path / TIMINGS_FILE)
            if self._stages and read_object(self.path / TIMINGS_FILE) != self._timings:
                self._write(TIMINGS_FILE, to_json(self._timings))
            self._write_run_file()
        if held:
            self._held = kept

    def close(self) -> None:
        """Lets other processes work in the folder."""
        if self._held is not None:
            self._held.close()
            self._held = None

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
        return all(is_whole(self.path / file, digest) for file, digest in record["outputs"].items())

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
        with contextlib.nullcontext() if self._held else self._hold():
            started = time.monotonic()
            files = StageFiles(self.path)
            key = self.key(name, inputs, settings or {})
            evaluations = work(files) or 0
            self._stages[name] = {
                "key": key,
                "run": self.sha256,
                "outputs": {
                    file: (volatile_hash if file in files.volatile else file_hash)(self.path / file)
                    for file in files.written
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
        write_file(self.path, name, lambda path: path.write_bytes(content))

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

    def _hold(self) -> Hold:
        """Keeps other processes out of the folder."""
        try:
            return hold(self.path)
        except Held as other:
            raise RunFolderError(
                f"another process ({other.holder}) works in {self.path}; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self.path / LOCK_FILE} ({error.strerror}); choose another --out"
            ) from None

    def _make_writable(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            check_writable(self.path)
        except OSError as error:
            raise RunFolderError(
                f"cannot write to the folder {self.path} ({error.strerror}); choose another --out"
            ) from None

    def _recorded(self) -> tuple[dict[str, Any] | None, str | None]:
        """Settings of the run that the folder holds, and their SHA-256; None where that cannot be read."""
        run = read_object(self.path / RUN_FILE) or {}
        settings, sha256 = run.get("settings"), run.get("sha256")
        if isinstance(settings, dict):
            return settings, sha256 if isinstance(sha256, str) else ""
        runs = {record.get("run") for record in (stage_records(self.path / STAGES_FILE) or {}).values()}
        return None, runs.pop() if len(runs) == 1 else None

    def _finished_stages(self) -> dict[str, Any]:
        """Records of stages that this run, or one with its settings, has finished."""
        same = self._recorded()[1] == self.sha256
        return {
            name: record
            for name, record in (stage_records(self.path / STAGES_FILE) or {}).items()
            if same and record.get("run", self.sha256) == self.sha256
        }

    def _check_settings(self) -> None:
        for name in RESULTS:
            if (self.path / name).is_symlink() and (self.path / name).is_dir():
                raise outside(self.path / name)
        settings, sha256 = self._recorded()
        if sha256 == self.sha256:
            return
        if settings is None and not os.path.lexists(self.path / RUN_FILE):
            foreign = [name for name in RESULTS if (self.path / name).exists()]
            if foreign:
                raise RunFolderError(
                    f"{self.path} holds {foreign[0]} but no {RUN_FILE}, so it is not a run folder; choose another "
                    "--out or replace it with --overwrite"
                )
            return
        # A file of stages that cannot be read may have held any. Where nothing tells the settings, all is done again.
        if sha256 is None or not (self.path / STAGES_FILE).is_file() or read_object(self.path / STAGES_FILE) == {}:
            return
        changes = []
        if settings is not None:
            differ = lambda key: settings.get(key) != self.settings.get(key)  # noqa: E731
            # Whoever meets another command's folder needs no list of all that this command has besides.
            before, now = ({"what": one.get("what")} if differ("what") else one for one in (settings, self.settings))
            changes = differences(before, now)
        shown = "; ".join(changes[:3]) or "it was made by another version"
        raise RunFolderError(
            f"{self.path} holds results of other settings ({shown}); choose another --out or replace them with "
            "--overwrite"
        )
