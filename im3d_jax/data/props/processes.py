"""Draws turntables of props in several processes, for loaders that read with threads."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import weakref
from typing import Any

import numpy as np

from im3d_jax.data.props.turntables import PropTurntables
from im3d_jax.data.turntable import Turntable
from im3d_jax.errors import InputError


class PropProcesses:
    """A `TurntableSet` whose examples are drawn by processes, each with an OpenGL context of its own.

    Any number of threads may ask at once; as many examples are drawn at once as there are processes. The examples are
    those of `turntables`, whatever the number of processes. Use it as a context manager, or call `close`.

    Args:
        turntables: What to draw.
        processes: How many.

    Raises:
        InputError: A process has no OpenGL, or cannot read the pack.
    """

    def __init__(self, turntables: PropTurntables, processes: int):
        self._turntables = turntables
        self.size, self.frames = turntables.size, turntables.frames
        threads = max(1, (os.cpu_count() or 1) // processes)
        self._workers = [_Worker(turntables, threads) for _ in range(processes)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._finalizer = weakref.finalize(self, _stop, self._workers)
        try:
            self.device = [worker.receive() for worker in self._workers][0]
        except InputError:
            self.close()
            raise
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> PropProcesses:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        self._finalizer()

    def __len__(self) -> int:
        return len(self._turntables)

    def caption(self, index: int) -> str:
        """Caption of example `index`, without drawing it."""
        return self._turntables.caption(index)

    def __getitem__(self, index: int) -> Turntable:
        """Example `index`; waits for a free process.

        Raises:
            IndexError: Outside of the set.
            InputError: The pack is damaged, or the process ended.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        worker = self._free.get()
        try:
            fields = worker.ask(int(index))
        except InputError:
            raise
        except BaseException:  # Ctrl-C: its answer would be taken for that of the next question
            worker.kill()
            raise
        finally:
            self._free.put(worker)
        rgba = np.frombuffer(fields.pop("rgba"), np.uint8).reshape(self.frames, self.size, self.size, 4)
        return Turntable(rgba=rgba, **fields)


class _Worker:
    def __init__(self, turntables: PropTurntables, threads: int):
        context = multiprocessing.get_context("spawn")  # a forked OpenGL context does not work
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_work, args=(child, turntables, threads), daemon=True)
        self._process.start()
        child.close()

    def ask(self, index: int) -> dict[str, Any]:
        try:
            self._pipe.send(index)
        except OSError:
            pass  # it has ended: `receive` says so
        fields = self.receive()
        fields["rgba"] = self._pipe.recv_bytes()
        return fields

    def receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5.0)
            raise InputError(
                f"a drawing process ended (exit code {self._process.exitcode}); see its messages"
            ) from None
        if kind == "error":
            raise InputError(value)
        return value

    def stop(self) -> None:
        try:
            self._pipe.send(None)
        except OSError:
            pass  # it has ended
        self._process.join(5.0)
        self.kill()
        self._pipe.close()

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()


def _work(pipe: multiprocessing.connection.Connection, turntables: PropTurntables, threads: int) -> None:
    """A process: takes numbers, answers with turntables."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    os.environ.setdefault("LP_NUM_THREADS", str(threads))  # llvmpipe's
    try:
        pipe.send(("ok", turntables.device))
    except InputError as error:
        pipe.send(("error", str(error)))
        return
    while True:
        try:
            index = pipe.recv()
        except (EOFError, OSError):  # the parent is gone
            return
        if index is None:
            return
        try:
            item = turntables[index]
        except InputError as error:
            pipe.send(("error", str(error)))
            continue
        fields = {"caption": item.caption, "elevations": item.elevations, "azimuths": item.azimuths, "key": item.key}
        pipe.send(("ok", fields))
        pipe.send_bytes(item.rgba.tobytes())
