"""Processes that meet: who is waited for, and one line for everything that keeps them apart."""

import concurrent.futures
import socket

import pytest

from im3d_jax import distributed
from im3d_jax.errors import InputError


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def meet(port, processes, *numbers, timeout=5.0):
    """What each of some processes is told: None, or its error."""

    def one(number):
        try:
            return distributed._meet(f"localhost:{port}", processes, number, timeout)
        except InputError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_all_meet_and_the_port_is_free_again(port):
    for _ in range(2):
        assert meet(port, 3, 0, 1, 2) == [None] * 3
    with socket.create_server(("localhost", port)):
        pass


def test_who_is_missing_is_named(port):
    zero, one = meet(port, 3, 0, 1, timeout=1.0)
    assert "waited 1 s" in zero and "for process 2 of 3" in zero
    assert "process 1 of 3 waited" in one and f"localhost:{port}" in one


def test_without_process_0(port):
    (said,) = meet(port, 2, 1, timeout=0.5)
    assert "for process 0" in said and "refused" in said.lower() and "\n" not in said


def test_a_port_in_use(port):
    with socket.create_server(("", port)):
        (said,) = meet(port, 2, 0)
    assert f"port {port} cannot be used here" in said and "another one" in said


def test_one_number_twice(port):
    said = meet(port, 3, 0, 1, 1, timeout=1.0)
    assert "process 1 of 3 came" in said[0] and "a number of its own" in said[0]


def test_halves_of_an_address(monkeypatch):
    with pytest.raises(InputError, match="need all of"):
        distributed.start("localhost:1", 2)
    with pytest.raises(InputError, match="expected HOST:PORT"):
        distributed._meet("nowhere", 2, 0, 1.0)
