"""Policy folders that somebody made to do harm: refused at once, with little memory, and nothing of them executed."""

from __future__ import annotations

import ast
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import pytest
from hostile_policies import (
    ARRAYS,
    CONFIG,
    CRITIC,
    ENVIRONMENTS,
    HOSTILE,
    JSON,
    NETWORK,
    SHAPE,
    WRITES,
    Change,
    instead,
    moved_out,
    spec,
)

from tiltrl import cli
from tiltrl.cli import EvaluateConfig
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.evaluation.rollout import make_env
from tiltrl.policy import Policy, load_policy
from tiltrl.stages.critics.networks import init_critic

SOURCE = Path(__file__).parents[1] / "src" / "tiltrl"
MOST_MEMORY = 300  # MB beyond what the process had at most before


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `Policy.save` writes it; loaded once, so that what follows is timed without imports."""
    folder = tmp_path_factory.mktemp("honest") / "policy"
    network = eqx.filter_jit(Energy)(11, 3, NETWORK, key=jax.random.key(0))
    Policy(network, CONFIG, eqx.filter_jit(init_critic)(11, 3, SHAPE, key=jax.random.key(1))).save(folder)
    load_policy(folder)
    return folder


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `trap`, whose import would leave a file and an entry in `sys.modules`."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trap.py").write_text(f"open({str(sprung)!r}, 'w')\ndef spring(*a, **k): open({str(sprung)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not sprung.exists() and "trap" not in sys.modules


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_folder_is_refused(change: Change, message: str, honest: Path, trap: None, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(honest, folder)
    change(folder)
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError) as caught:
        load_policy(folder)
    assert time.process_time() - began < 1.0  # of this process alone, as others may keep the machine busy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_MEMORY * 1000
    said = str(caught.value)
    assert message in said
    assert len(said) < 1500 and said.isprintable()


@pytest.mark.parametrize(("change", "message"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_acting_in_a_hostile_environment_is_refused(
    change: Change, message: str, honest: Path, trap: None, tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(honest, folder)
    change(folder)
    task = load_policy(folder).config.task  # a policy may be looked at without its environment
    with pytest.raises(InputError) as caught:
        make_env(task)
    assert message in str(caught.value) and str(caught.value).isprintable()


def test_what_is_used_of_an_environment_is_not_the_code_it_names(honest: Path, trap: None, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(honest, folder)
    spec(entry_point="trap:spring", vector_entry_point="trap:spring", kwargs={"render_mode": "human"})(folder)
    make_env(load_policy(folder).config.task).close()


@pytest.mark.parametrize(("change", "message"), WRITES.values(), ids=WRITES)
def test_evaluating_a_hostile_folder_writes_nowhere_else(
    change: Change, message: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = tmp_path / "policy", tmp_path / "outside"
    shutil.copytree(honest, folder)
    outside.write_text("mine")
    change(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "evaluate_policy", lambda *_, **__: pytest.fail("only then refused"))
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError) as caught:
        cli.evaluate(EvaluateConfig(folder))
    assert message in str(caught.value) and "--out" in str(caught.value) and str(caught.value).isprintable()
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_policy_is_not_saved_through_a_link(honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(honest, folder)
    instead(JSON, moved_out)(folder)
    for name in (ARRAYS, CRITIC):  # those are replaced themselves, and what is behind them is let be
        (folder / name).unlink()
        (folder / name).symlink_to("../outside")
    policy = load_policy(honest)
    with pytest.raises(InputError, match=r"policy\.json: is a link that leads out of the folder"):
        policy.save(folder)
    assert (tmp_path / "outside").read_text() == "{}"
    (folder / JSON).unlink()
    policy.save(folder)
    assert (tmp_path / "outside").read_text() == "{}"
    assert load_policy(folder).config == policy.config


def test_links_within_the_folder_and_to_the_folder_are_followed(honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(honest, folder)
    (folder / ARRAYS).rename(folder / "arrays")
    (folder / ARRAYS).symlink_to("arrays")
    (tmp_path / "link").symlink_to("policy")
    assert replace(load_policy(tmp_path / "link").config, provenance={}) == CONFIG


def test_a_critic_of_another_policy_is_refused(honest: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "policy", tmp_path / "other"
    shutil.copytree(honest, folder)
    policy = load_policy(honest)
    Policy(policy.network, policy.config, eqx.filter_jit(init_critic)(11, 3, SHAPE, key=jax.random.key(2))).save(other)
    shutil.copy(other / CRITIC, folder / CRITIC)
    with pytest.raises(InputError, match=r"critic\.safetensors: is damaged or another policy's: its SHA-256 is not"):
        load_policy(folder)


# --- The source -------------------------------------------------------------------------------------------------------

UNSAFE_MODULES = {
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "jsonpickle",
    "marshal",
    "shelve",
    "yaml",
    "torch",
    "runpy",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "extractall", "unpack_archive", "system", "popen", "from_json"}
HARMLESS = ("from_json", "re.compile", "platform.system")
# What imports by a name, and where the names come from: constants of ours, or what a user typed; never data.
IMPORTERS = {
    "__init__.py": "_HOMES",
    "environments.py": "PROVIDERS",
    "collect/base.py": "PROVIDERS",
    "runtime/drive.py": "_PROVIDERS",
    "given.py": "only because its place was typed on the command line",
}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_nothing_in_the_source_executes_what_it_reads(file: Path) -> None:
    place = file.relative_to(SOURCE).as_posix()
    for node in ast.walk(ast.parse(file.read_text())):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
        assert not names & UNSAFE_MODULES, f"{place}:{node.lineno}"  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        fine = called in HARMLESS or called.startswith("jax.jit(")  # which compiles what it has traced, no text
        assert last not in UNSAFE_CALLS or fine, f"{place}:{node.lineno}: {called}"
        if last == "import_module":
            assert place in IMPORTERS, f"{place}:{node.lineno}: imports by a name; say in IMPORTERS where it is from"
            assert IMPORTERS[place] in file.read_text()
        if called in ("np.load", "np.lib.format.read_array"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_pickle") == "False", f"{place}:{node.lineno}: {called} unpickles unless told not to"
