"""Critics by their place: functions that were typed, and the critics of saved policies."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from tiny import small_presets

import tiltrl
from tiltrl import cli
from tiltrl.api import policy_config
from tiltrl.data.write import write_npz
from tiltrl.diffusion.energy import Energy
from tiltrl.errors import InputError
from tiltrl.given import GivenFunction, check_used, given_critic, is_function
from tiltrl.options import RunConfig
from tiltrl.policy import Policy
from tiltrl.presets import FAST
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.function import FunctionScore
from tiltrl.stages.critics.networks import CriticShape, init_critic
from tiltrl.stages.prepare import scaling_of

OBS, ACT = 3, 2
SHAPE = CriticShape(4, 1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
SOURCE = """
def small(obs, action):
    return -(action**2).sum(axis=1)

def same(obs, action):
    return 0 * obs[:, 0]

def broken(obs, action):
    return obs @ action
"""


def logged(seed: int, *, rewards: bool = True) -> tiltrl.Transitions:
    rng, steps = np.random.default_rng(seed), np.arange(600)
    action = rng.uniform(-1, 1, (600, ACT))
    reward = -(action**2).sum(axis=1) if rewards else None
    return tiltrl.from_arrays(rng.normal(size=(600, OBS)), action, reward, episode=steps // 30)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The preset, small."""
    with pytest.MonkeyPatch.context() as patch:
        small_presets(patch)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With log.npz, value.py, and policy/, whose critic is of the same data."""
    folder = tmp_path_factory.mktemp("given")
    data = logged(0)
    write_npz(data, folder / "log.npz")
    (folder / "value.py").write_text(SOURCE)
    data = tiltrl.load(str(folder / "log.npz"))
    network = eqx.filter_jit(Energy)(OBS, ACT, FAST.behavior.network, key=jax.random.key(0))
    critic = eqx.filter_jit(init_critic)(OBS, ACT, SHAPE, key=jax.random.key(1))
    config = policy_config(data, scaling_of(data, normalize=True), FAST, {})
    Policy(network, dataclasses.replace(config, critic=SHAPE), critic).save(folder / "policy")
    Policy(network, config).save(folder / "plain")
    other = dataclasses.replace(config, critic=SHAPE, provenance={"data": "0123456789abcdef"})
    Policy(network, other, critic).save(folder / "other")
    return folder


def test_a_function_is_found_in_a_file_and_in_a_module(folder: Path) -> None:
    found = given_critic(f"{folder}/value.py:small")
    assert isinstance(found, GivenFunction)
    np.testing.assert_array_equal(found.function(np.zeros((2, 3)), np.ones((2, 2))), [-2.0, -2.0])
    again, other = given_critic(f"{folder}/value.py:small"), given_critic(f"{folder}/value.py:same")
    assert again is not None and other is not None and again.digest == found.digest != other.digest
    imported = given_critic("numpy:hypot")
    assert isinstance(imported, GivenFunction) and imported.function is np.hypot
    assert given_critic(None) is given_critic("softmax") is None


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("sofmax", "is unknown; train one of advantage, iql, softmax, online, ensemble, or give a function"),
        ("value.py:large", "there is no function large; callable there: broken, same, small"),
        ("missing.py:f", "there is no file"),
        ("no.such.module:f", "cannot be imported: ModuleNotFoundError: No module named"),
        ("plain", "this policy has no critic"),
    ],
)
def test_what_is_no_critic_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=told):
        given_critic(place)


def test_only_a_place_with_a_function_needs_code(folder: Path) -> None:
    assert is_function("value.py:small") and is_function("a.b:c")
    assert not any(map(is_function, ("iql", "runs/a", str(folder / "policy"), "C:\\runs\\x")))


def test_a_saved_critic_fits_its_own_data_only(folder: Path) -> None:
    data = tiltrl.load(str(folder / "log.npz"))
    own, other = given_critic(str(folder / "policy")), given_critic(str(folder / "other"))
    assert own is not None and other is not None
    assert own.beside(data, force=False) is own
    with pytest.raises(InputError, match=r"was trained on other data \(.*fingerprint 0123456789abcdef; this is .*--f"):
        other.beside(data, force=False)
    other.beside(data, force=True)
    wide = tiltrl.from_arrays(np.zeros((9, 4)), np.linspace(-1, 1, 18).reshape(9, 2), episode=np.arange(9) // 3)
    with pytest.raises(InputError, match="takes 3 observations and 2 actions; the data has 4 and 2"):
        own.beside(wide, force=True)
    assert own.saved_with(scaling_of(data, normalize=True)) and not own.saved_with(scaling_of(data, normalize=False))


def test_a_function_that_reads_other_weights_is_another_critic(tmp_path: Path) -> None:
    (tmp_path / "value.py").write_text(
        "from pathlib import Path\n"
        "weight = float((Path(__file__).parent / 'weight.txt').read_text())\n"
        "def q(obs, action): return weight * action[:, 0]\n"
    )
    data, digests = logged(0), []
    for weight in ("1.0", "2.0", "1.0"):
        (tmp_path / "weight.txt").write_text(weight)
        found = given_critic(f"{tmp_path}/value.py:q")
        assert isinstance(found, GivenFunction)
        digests.append(found.beside(data, force=False).digest)
    assert digests[0] == digests[2] != digests[1]


def test_a_function_that_fails_on_the_data_is_refused_at_once(folder: Path) -> None:
    found = given_critic(f"{folder}/value.py:broken")
    assert found is not None
    with pytest.raises(InputError, match=r"broken: failed on obs of shape \(64, 3\)"):
        found.beside(logged(0), force=False)


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize("base", ["@dataclasses.dataclass\nclass Q", "class Q(eqx.Module)"])
def test_a_file_may_define_dataclasses(tmp_path: Path, future: str, base: str) -> None:
    source = f"{future}import dataclasses\nimport equinox as eqx\n{base}:\n    scale: float\n"
    source += "    def __call__(self, obs, action):\n        return self.scale * action[:, 0]\n\nq = Q(2.0)\n"
    (tmp_path / "module.py").write_text(source)
    found = given_critic(f"{tmp_path}/module.py:q")
    assert isinstance(found, GivenFunction) and found.function(np.ones((1, 3)), np.ones((1, 2)))[0] == 2.0


def test_a_file_that_fails_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="cannot be imported: ZeroDivisionError"):
        given_critic(f"{tmp_path}/half.py:q")
    assert "tiltrl_critic_half" not in sys.modules


def test_options_without_effect_are_refused(folder: Path) -> None:
    data = tiltrl.load(str(folder / "log.npz"))
    ours, other = (scaling_of(data, normalize=normalize) for normalize in (True, False))
    function, network = given_critic(f"{folder}/value.py:small"), given_critic(str(folder / "policy"))
    for given in (None, function):
        with pytest.raises(InputError, match="force = True: there is no policy's critic to take"):
            check_used(given, ours, force=True, best_of=None)
    with pytest.raises(
        InputError, match=r"best_of = 4: the critic .*value\.py:small is a function, so it is not saved"
    ):
        check_used(function, ours, force=False, best_of=4)
    with pytest.raises(InputError, match="best_of = 4: .* sees other units"):
        check_used(network, other, force=True, best_of=4)
    check_used(network, ours, force=True, best_of=4)
    check_used(None, ours, force=False, best_of=4)
    with pytest.raises(InputError, match="best_of = 4: preferences have no values"):
        _ = RunConfig("demo", preferences=folder / "answers.csv", best_of=4).agreed


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda obs, action: obs @ action, "failed on obs of shape .* ValueError"),
        (lambda obs, action: action, r"returned shape \(4, 2\); one number a row is needed, \(4,\)"),
        (lambda obs, action: np.full(len(obs), np.nan), "returned nan; every action needs a finite value"),
    ],
)
def test_a_function_that_gives_no_values_is_refused(function, told: str) -> None:
    network = eqx.filter_eval_shape(Energy, OBS, ACT, FAST.behavior.network, key=jax.random.key(0))
    scaling = tiltrl.load_policy  # not looked at before values are there
    score = FunctionScore(function, "mine", network, SamplerConfig(), scaling)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=f"critic mine: {told}"):
        score(np.zeros((4, 3)), np.zeros((4, 2)))


def align(folder: Path, critic: str, *more: str, data: str = "log.npz", out: str = "run") -> None:
    with pytest.MonkeyPatch.context() as patch:
        place = str(folder / critic)
        given = ("--critic", place, "--out", str(folder / out), "--budget", "0.002", "--label-fraction", "0.1", *more)
        patch.setattr(sys, "argv", ["tiltrl", "align", str(folder / data), *given])
        cli.main()


def test_a_run_takes_a_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    align(folder, "value.py:small")
    said = capsys.readouterr().out
    assert "critic of seed 0: " in said and "are not known to be unseen" in said
    (policy,) = (folder / "run" / "policies").glob("beta1-critic-*-seed0")
    assert tiltrl.load_policy(policy).critic is None  # a function cannot be saved
    with pytest.raises(InputError, match="the critic values all 4 candidates of every state alike"):
        align(folder, "value.py:same")
    with pytest.raises(InputError, match="was trained on other data"):
        align(folder, "other")


def test_a_run_takes_the_critic_of_a_policy(folder: Path) -> None:
    align(folder, "policy")
    policies = [tiltrl.load_policy(path) for path in (folder / "run" / "policies").glob("beta1-critic-*-seed0")]
    assert any(policy.critic is not None for policy in policies)


def test_a_function_is_taken_where_there_are_no_rewards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(logged(1, rewards=False), folder / "silent.npz")
    align(folder, "value.py:small", data="silent.npz", out="silent")
    assert "not checked, as all rewards of the data are 0" in capsys.readouterr().out
