"""Several processes as one program: on SLURM, Kubernetes, TPU pods, or by hand.

`start` must run before anything else asks JAX for devices.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import jax

from im3d_jax.errors import InputError


_GO = b"go"
# What schedulers say about themselves: JAX finds its processes from these.
_SCHEDULERS = {
    "SLURM": ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
    "TPU pod": ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
}


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 300,
    line: Callable[[str], Any] = print,
) -> bool:
    """Joins the processes of a program, where there are several.

    Args:
        coordinator: ``host:port`` of process 0; on SLURM, Kubernetes and TPU pods the scheduler says it.
        processes: How many there are.
        process: Number of this one.
        timeout: Seconds to wait for the others.
        line: Takes the line that says who is waited for.

    Returns:
        Whether there are several processes.

    Raises:
        InputError: Half of the arguments, a coordinator that is not reached, or processes that do not come.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise InputError(
            "several processes need all of --coordinator=HOST:PORT, --processes=N and --process=I, or none"
        )
    scheduler = None if all(given) else _scheduler()
    if not all(given) and scheduler is None:
        return False
    who = f"process {process} of {processes}" if all(given) else f"{scheduler}'s process on {socket.gethostname()}"
    where = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or "the scheduler's first process"
    line(f"{who} waits up to {timeout} s for the others at {where}")
    if all(given) and coordinator is not None and process != 0:
        _refuse_loopback(coordinator)
    if coordinator is not None and processes is not None and process is not None:
        # JAX's own start ends the program without a word to catch where the others do not come.
        _meet(coordinator, processes, process, timeout)
    # Between processes on CPUs; other platforms have collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{who} did not meet the others at {where} ({reason}): check that all {processes or ''} processes run, "
            "that the address can be reached from here, and on SLURM that every task sees its own GPUs"
        ) from error
    devices = f"{jax.local_device_count()} of {jax.device_count()} devices"
    line(f"process {jax.process_index()} of {jax.process_count()}: {devices}")
    return jax.process_count() > 1


def _meet(coordinator: str, processes: int, process: int, timeout: float) -> None:
    """Waits at process 0's port until all processes are there.

    Raises:
        InputError: A port that cannot be used, processes that do not come or come twice, or no process 0.
    """
    host, _, port = coordinator.rpartition(":")
    if not port.isdecimal() or not host:
        raise InputError(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:8476")
    deadline = time.monotonic() + timeout
    if process == 0:
        _receive(coordinator, int(port), processes, deadline, timeout)
        return
    reason = ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, int(port)), timeout=1.0) as connection:
                connection.settimeout(max(1.0, deadline - time.monotonic()))
                connection.sendall(f"{process} {processes}\n".encode())
                if connection.recv(2) == _GO:
                    return
                reason = "it ended the meeting, see its own message"
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(0.2)
    raise InputError(
        f"process {process} of {processes} waited {timeout:.0f} s for process 0 at {coordinator} ({reason}): start it "
        "with the same --coordinator, and check that its port can be reached from here"
    )


def _receive(coordinator: str, port: int, processes: int, deadline: float, timeout: float) -> None:
    """Process 0's part of `_meet`."""
    try:
        server = socket.create_server(("", port), backlog=processes)
    except OSError as error:
        raise InputError(
            f"--coordinator={coordinator}: port {port} cannot be used here ({error.strerror}); give all processes "
            "another one"
        ) from None
    with server, contextlib.ExitStack() as stack:
        here: dict[int, socket.socket] = {}
        while len(here) < processes - 1:
            missing = [str(number) for number in range(1, processes) if number not in here]
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5.0)
                number, of = map(int, connection.recv(64).split())
            except TimeoutError:
                raise InputError(
                    f"waited {timeout:.0f} s at {coordinator} for process {', '.join(missing)} of {processes}; "
                    "start them with the same --coordinator and --processes"
                ) from None
            except ValueError:
                continue  # somebody else's connection
            if of != processes or number in here or not 0 < number < processes:
                raise InputError(
                    f"process {number} of {of} came to {coordinator} where process {', '.join(missing)} of {processes} "
                    "were expected: give every process a number of its own, and all the same --processes"
                )
            here[number] = connection
        for connection in here.values():
            connection.sendall(_GO)
        for connection in here.values():
            connection.recv(1)  # the other side closes first, so that the port is free at once


def _scheduler() -> str | None:
    """Name of the scheduler that started several processes, or None."""
    for name, variables in _SCHEDULERS.items():
        if all(os.environ.get(variable) for variable in variables):
            if name == "SLURM" and os.environ["SLURM_NTASKS"] == "1":
                continue
            if name == "TPU pod" and "," not in os.environ["TPU_WORKER_HOSTNAMES"]:
                continue
            return name
    return None


def _refuse_loopback(coordinator: str) -> None:
    """A coordinator whose name means this machine alone looks like a hang from any other one."""
    host = coordinator.rpartition(":")[0]
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise InputError(
            f"--coordinator={coordinator}: no such host ({error.strerror}); give one that all can reach"
        ) from None
    mine = host in ("localhost", "127.0.0.1", socket.gethostname())
    if address.startswith("127.") and not mine:
        raise InputError(
            f"--coordinator={coordinator} means this machine itself here ({address}); give an address of process 0 "
            "that the others reach, and look at /etc/hosts"
        )
