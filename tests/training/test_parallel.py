"""On two devices, of one process or of two, training is what it is on one, but for the order of sums."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.training import parallel

ALONG = Path(__file__).with_name("along.py")


def devices(count: int) -> dict[str, str]:
    """The environment of a process that sees so many."""
    return {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"}


TWO_DEVICES = devices(2)


def start(folder: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ALONG), str(folder), *map(str, words)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> list[int]:
    """Their exit statuses."""
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    statuses = [process.returncode for process in processes]
    assert set(statuses) <= {0, 3}, "\n".join(said)
    return statuses


def a_pair(folders: list[Path], stops: tuple[int, int] = (0, 0)) -> list[int]:
    """Two processes that train along, each in its folder and stopped after as many steps."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return finish(*(start(folders[i], stops[i], port, i) for i in range(2)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("alone")
    assert finish(start(folder, 0)) == [0]
    return np.load(folder / "found.npz")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folders = [tmp_path_factory.mktemp(f"process{i}") for i in range(2)]
    assert a_pair(folders) == [0, 0]
    return [np.load(folder / "found.npz") for folder in folders]


def assert_equal_but_for_rounding(found: Any, alone: Any) -> None:
    assert (int(found["devices"]), int(alone["devices"])) == (2, 1)
    assert alone["losses"].std() > 0.01  # of 50 different batches
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5)
    np.testing.assert_allclose(found["networks"], alone["networks"], rtol=1e-3, atol=1e-5)


TILT = """
import jax, numpy as np
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.stages.align import AlignConfig, train_policy
network = EnergyConfig(action_width=8, time_width=8, obs_width=8, blocks=1, expansion=2)
rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), 1)
behavior = jax.vmap(lambda key: Energy(5, 3, network, key=key))(keys)
obs, action = rng.normal(size=(1, 60, 5)), rng.uniform(-1, 1, (1, 60, 4, 3))
q = rng.normal(size=(1, 60, 4))
data = (jax.numpy.asarray(array, jax.numpy.float32) for array in (obs, action, q))
train_policy(behavior, *data, jax.numpy.ones(1), AlignConfig(steps=2, batch=8), keys)
print(jax.device_count(), "devices")
"""


def test_an_alignment_looks_at_fewer_states_than_there_are_devices() -> None:
    four = os.environ | {"JAX_PLATFORMS": "cpu"} | devices(4)
    done = subprocess.run([sys.executable, "-c", TILT], env=four, capture_output=True, text=True, timeout=300)
    assert done.stdout == "4 devices\n", done.stderr


def test_two_devices_are_one(tmp_path: Path, alone: Any) -> None:
    assert finish(start(tmp_path, 0, **TWO_DEVICES)) == [0]
    assert_equal_but_for_rounding(np.load(tmp_path / "found.npz"), alone)


@pytest.mark.slow
def test_two_processes_are_one(pair: list[Any], alone: Any) -> None:
    for found in pair:
        assert_equal_but_for_rounding(found, alone)
    np.testing.assert_array_equal(pair[0]["networks"], pair[1]["networks"])


@pytest.mark.slow
def test_a_stop_of_one_process_stops_both_and_what_the_first_kept_is_enough(tmp_path: Path, pair: list[Any]) -> None:
    kept = tmp_path / "kept"
    assert a_pair([kept, tmp_path / "lost"], stops=(0, 10)) == [3, 3]
    assert a_pair([kept, tmp_path / "new"]) == [0, 0]
    for folder in (kept, tmp_path / "new"):
        np.testing.assert_array_equal(np.load(folder / "found.npz")["networks"], pair[0]["networks"])


def test_the_work_is_split_and_only_sums_travel(tmp_path: Path) -> None:
    program = """
import jax, jax.numpy as jnp
from tiltrl.training.loop import random_rows
from tiltrl.training.parallel import everywhere, replicate
gradient = jax.grad(lambda w, x, key: jnp.mean((random_rows(x, 64, key) @ w + jax.random.normal(key, (64,))) ** 2))
lowered = jax.jit(gradient, out_shardings=everywhere()).lower(
    *replicate((jnp.ones(5), jnp.ones((1000, 5)), jax.random.key(0))))
print(lowered.compile().as_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | TWO_DEVICES, capture_output=True, text=True, check=True
    )
    assert "f32[32,5]" in done.stdout and "f32[64" not in done.stdout  # rows and noise: half of them here
    assert "all-reduce(" in done.stdout
    assert not any(f"{moved}(" in done.stdout for moved in ("all-gather", "all-to-all", "collective-permute"))


def test_a_batch_that_cannot_be_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_mesh", lambda: SimpleNamespace(size=3))
    with pytest.raises(InputError, match="batch = 64; it cannot be split over 3 devices"):
        jax.eval_shape(parallel.split, jnp.zeros(64))
