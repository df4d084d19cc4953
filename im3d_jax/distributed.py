"""Several processes as one program: on SLURM, Kubernetes, TPU pods, or by hand.

`start` must run before anything else asks JAX for devices.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import jax

from im3d_jax.errors import InputError


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
