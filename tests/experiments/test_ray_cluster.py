"""The same grid on a real Ray cluster: two workers on this machine, of which one is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in import FAKE, calls, options, run

from tiltrl.errors import InputError

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
few = {"object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **few})
workers = [cluster.add_node(num_cpus=1, **few) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(workers.pop(), allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""
DRIVER = """
from pathlib import Path
from stand_in import options, run

asked = options(Path({out!r}), methods=("eda",), seeds=2, workers=None, ray={address!r})
found, said = run(asked, Path({switches!r}))
print(said, found.failed)
"""


def wait_for(condition, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture
def environment() -> dict[str, str]:
    paths = [str(FAKE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "PYTHONWARNINGS": "ignore"}
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def cluster(environment) -> Iterator["subprocess.Popen[str]"]:
    """Answers with its address, and then kills a worker for each line."""
    words = [sys.executable, "-c", CLUSTER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, text=True, env=environment, **pipes) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


@pytest.mark.slow
def test_the_cell_of_a_killed_worker_is_done_by_the_other(tmp_path: Path, cluster, environment):
    switches = tmp_path / "switches"
    switches.mkdir()
    (switches / "hang").touch()
    address = cluster.stdout.readline().strip()
    assert address
    text = DRIVER.format(out=str(tmp_path / "out"), switches=str(switches), address=address)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", text], text=True, env=environment, **pipes) as driver:
        wait_for(lambda: len(list(switches.glob("hangs-*"))) == 2 or driver.poll() is not None)
        assert driver.poll() is None, driver.communicate()
        cluster.stdin.write("kill\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "killed\n"
        time.sleep(5)  # else the lost worker's command may end well before its process hears that it is lost
        (switches / "hang").unlink()
        said, wrong = driver.communicate(timeout=240)
    assert driver.returncode == 0, wrong
    assert "2 of 2 done" in said and said.split()[-1] == "0"
    assert len(calls(switches)) == 3 and set(calls(switches)) == {"eda 0", "eda 1"}  # one of them twice
    assert {cell.suffix for cell in (tmp_path / "out/cells").iterdir()} == {".json", ".log"}


@pytest.mark.slow
def test_a_cluster_of_ones_own_is_started_and_fails_as_told(tmp_path: Path, environment):
    switches = tmp_path / "switches"
    switches.mkdir()
    (switches / "fail-eda").touch()
    text = DRIVER.format(out=str(tmp_path / "out"), switches=str(switches), address="local")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "rewards: they are all zero" in done.stdout and done.stdout.split()[-1] == "2"
    assert len(calls(switches)) == 2  # an error of its own is not tried again


def test_where_no_cluster_is_that_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="ray = 127.0.0.1:1: no cluster there"):
        run(options(tmp_path / "out", ray="127.0.0.1:1"), tmp_path / "switches")
