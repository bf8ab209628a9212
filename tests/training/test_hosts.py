"""How processes find each other: each that came hears the same verdict, and nobody waits forever."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import pytest

from tiltrl.errors import InputError
from tiltrl.training.hosts import Hosts, join


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What JAX was asked for instead of being it: it can be done once a process only."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **_: calls.append(words))
    return calls


def verdicts(port: int, asked: list[dict[str, Any]], processes: list[int] | None = None) -> list[str]:
    """How it ends for as many processes as are asked for something; "" is well."""

    def one(process: int, asked: dict[str, Any]) -> str:
        try:
            join(Hosts(f"127.0.0.1:{port}", len(numbers), process), asked, lambda _: None, patience=2.0)
        except InputError as error:
            return str(error)
        return ""

    numbers = list(range(len(asked))) if processes is None else processes
    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers, asked))


def test_one_process_waits_for_nobody(joined: list[Any]) -> None:
    join(Hosts(), {"seeds": 1}, print, patience=0.0)
    assert joined == []


def test_processes_that_are_asked_for_the_same_go_on(port: int, joined: list[Any]) -> None:
    assert verdicts(port, [{"seeds": 1, "budget": 0.5}] * 3) == ["", "", ""]
    assert sorted(joined) == [(f"127.0.0.1:{port}", 3, i) for i in range(3)]


def test_a_difference_is_told_to_all(port: int, joined: list[Any]) -> None:
    found = verdicts(port, [{"seeds": 1}, {"seeds": 2}])
    assert (
        found == ["seeds = 2 in process 1, but 1 in process 0; start all with the same command, data and versions"] * 2
    )
    assert joined == []


def test_a_number_that_two_processes_have_is_told(port: int, joined: list[Any]) -> None:
    found = verdicts(port, [{}] * 3, processes=[0, 1, 1])
    assert "two processes were started with --process 1" in found[0]
    assert joined == []


def test_who_does_not_come_is_named(port: int, joined: list[Any]) -> None:
    with pytest.raises(InputError, match=r"process 1, 2 of 3 did not come within 0\.2 seconds"):
        join(Hosts(f"127.0.0.1:{port}", 3, 0), {}, print, patience=0.2)


def test_a_coordinator_that_is_not_there_is_told(port: int, joined: list[Any]) -> None:
    with pytest.raises(InputError, match=rf"coordinator = 127\.0\.0\.1:{port}: not reached within 0\.2 seconds"):
        join(Hosts(f"127.0.0.1:{port}", 2, 1), {}, print, patience=0.2)


def test_a_port_that_is_taken_is_told(joined: list[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"coordinator = 127\.0\.0\.1:{port}: cannot listen there"):
            join(Hosts(f"127.0.0.1:{port}", 2, 0), {}, print, patience=0.2)


def test_a_stranger_is_passed_over(port: int, joined: list[Any]) -> None:
    def stranger() -> None:
        for _ in range(50):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1.0) as peer:
                    peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return
            except OSError:
                continue

    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(stranger)
        assert verdicts(port, [{}] * 2) == ["", ""]
        heard.result()


@pytest.mark.parametrize(
    ("hosts", "wrong"),
    [
        (Hosts("a:1", 0, 0), "processes = 0"),
        (Hosts("a:1", 2, 2), "process = 2; of 2 it must lie in 0 to 1"),
        (Hosts(None, 1, 1), "process = 1; of 1 it must lie in 0 to 0"),
        (Hosts(None, 2, 0), "coordinator = None; give HOST:PORT"),
        (Hosts("machine", 2, 0), "coordinator = 'machine'"),
        (Hosts("machine:port", 2, 0), "coordinator = 'machine:port'"),
        (Hosts("machine:70000", 2, 0), "coordinator = 'machine:70000'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(hosts: Hosts, wrong: str) -> None:
    with pytest.raises(InputError) as refused:
        join(hosts, {}, print)
    assert wrong in str(refused.value)


def test_the_others_work_in_a_folder_that_is_thrown_away(tmp_path: Any) -> None:
    with Hosts("a:1", 2, 0).folder(tmp_path) as first, Hosts("a:1", 2, 1).folder(tmp_path) as other:
        assert first == tmp_path
        assert other.is_dir() and other != tmp_path
    assert not other.exists()
