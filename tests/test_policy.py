"""A policy in the hand and on disk."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.stats import norm

from tiltrl import files, policy_folder
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.diffusion.schedule import T_MIN, alpha_sigma
from tiltrl.errors import InputError
from tiltrl.policy import Policy, PolicyConfig, load_policy, log_ratio
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.networks import CriticShape, init_critic
from tiltrl.types import Scaling, Task, as_json

OBS, ACT = 3, 2
LOW, HIGH = (-2.0, 0.0), (2.0, 10.0)
NETWORK = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
SHAPE = CriticShape(width=8, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
CONFIG = PolicyConfig(
    task=Task("set", None, LOW, HIGH, OBS),
    scaling=Scaling((1.0, 0.0, -1.0), (2.0, 1.0, 0.5), LOW, HIGH),
    energy=NETWORK,
    sampler=SamplerConfig(calls=3),
    provenance={"beta": 0.5},
)
STATES = np.random.default_rng(0).normal(size=(4, OBS)).astype(np.float32)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """One that chooses among three actions by a critic."""
    energy = eqx.filter_jit(Energy)(OBS, ACT, NETWORK, key=jax.random.key(0))
    critic = eqx.filter_jit(init_critic)(OBS, ACT, SHAPE, key=jax.random.key(1))
    return Policy(energy, replace(CONFIG, critic=SHAPE, candidates=3), critic)


@pytest.fixture
def folder(policy: Policy, tmp_path: Path) -> Path:
    policy.save(tmp_path / "policy")
    return tmp_path / "policy"


def edit(folder: Path, change: dict[str, Any]) -> None:
    """Change fields of policy.json."""
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_a_saved_policy_acts_the_same(policy: Policy, folder: Path) -> None:
    loaded = load_policy(folder, seed=5)
    policy.reset(5)
    first = policy.sample(STATES)
    np.testing.assert_array_equal(loaded.sample(STATES), first)
    np.testing.assert_array_equal(loaded.energy(STATES, first), policy.energy(STATES, first))
    assert replace(loaded.config, provenance={}) == replace(policy.config, provenance={})
    assert loaded.config.provenance["beta"] == 0.5
    assert {"tiltrl", "jax"} <= set(loaded.config.provenance["versions"])


def test_noise_is_new_at_each_call_and_the_same_after_reset(policy: Policy) -> None:
    policy.reset(0)
    first, second = policy.sample(STATES), policy.sample(STATES)
    assert not np.array_equal(first, second)
    policy.reset(0)
    np.testing.assert_array_equal(policy.sample(STATES), first)
    policy.reset(1)
    assert not np.array_equal(policy.sample(STATES), first)


def test_actions_have_the_shape_of_the_states_and_keep_to_the_bounds(policy: Policy) -> None:
    actions = policy.sample(np.broadcast_to(STATES, (5, 4, OBS)))
    assert actions.shape == (5, 4, ACT) and actions.dtype == np.float32
    assert (actions >= LOW).all() and (actions <= HIGH).all()
    assert policy.sample(STATES[0]).shape == (ACT,)


def test_the_critic_picks_the_best_of_the_candidates(policy: Policy) -> None:
    unit, pessimism = CONFIG.scaling.normalize_obs(np.repeat(STATES, 50, axis=0)), CONFIG.pessimism
    values = jax.jit(jax.vmap(lambda o, a: policy.critic(o, a, pessimism)))

    def mean_value(chooser: Policy) -> float:
        actions = chooser.sample(np.repeat(STATES, 50, axis=0))
        return float(np.mean(values(unit, CONFIG.scaling.to_unit(actions))))

    assert mean_value(policy.best_of(8)) > mean_value(policy.best_of(1))


def test_the_mean_of_many_leaves_the_noise_out(policy: Policy) -> None:
    many = np.repeat(STATES[:1], 200, axis=0)
    single, averaged = policy.mean_of(1).sample(many), policy.mean_of(64).sample(many)
    assert policy.mean_of(64).config.acting == "mean of 64" and policy.mean_of(1).config.acting == ""
    error = 6 * single.std(axis=0) / np.sqrt(200)  # of the mean of as many samples, with room
    assert np.all(np.abs(averaged.mean(axis=0) - single.mean(axis=0)) < error)
    np.testing.assert_allclose(averaged.std(axis=0), single.std(axis=0) / 8, rtol=0.35)


def test_energies_are_the_networks(policy: Policy) -> None:
    actions = np.array([[0.0, 5.0], [2.0, 10.0], [-2.0, 0.0], [1.0, 7.5]], np.float32)
    unit = np.array([[0, 0], [1, 1], [-1, -1], [0.5, 0.5]], np.float32)
    one_by_one = jax.jit(jax.vmap(lambda s, a: policy.network(a, s, jax.numpy.float32(0.3))))
    expected = one_by_one(CONFIG.scaling.normalize_obs(STATES), unit)
    np.testing.assert_allclose(policy.energy(STATES, actions, t=0.3), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def gaussian() -> Policy:
    """One whose network is silent, so that it is the Gaussian of its preconditioning."""
    network = replace(NETWORK, action_scale=0.5)
    energy = eqx.filter_jit(Energy)(OBS, ACT, network, key=jax.random.key(0))
    silent = eqx.tree_at(lambda e: e.out, energy, jax.tree.map(np.zeros_like, energy.out))
    return Policy(silent, replace(CONFIG, energy=network))


@pytest.mark.parametrize("probes", [None, 3])
def test_log_prob_is_normalized_in_the_environments_units(gaussian: Policy, probes: int | None) -> None:
    actions = np.array([[0.0, 5.0], [1.0, 6.0], [-1.5, 2.0], [0.5, 7.5]], np.float32)
    alpha, sigma = (float(x) for x in jax.jit(alpha_sigma)(np.float32(T_MIN)))
    deviation = np.hypot(0.5 * alpha, sigma) * np.array([2.0, 5.0])  # half the range of each action is its unit
    known = norm.logpdf(actions, [0.0, 5.0], deviation).sum(axis=1)
    np.testing.assert_allclose(gaussian.log_prob(STATES, actions, probes=probes), known, atol=2e-3)
    # In batches, of which the last is not full, and of any leading shape.
    some = np.arange(6).reshape(2, 3) % 4
    again = gaussian.log_prob(STATES[some], actions[some], probes=probes, batch=4)
    np.testing.assert_allclose(again, known[some], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "value"), [("rtol", 0.0), ("atol", -1.0), ("probes", 0), ("rtol", np.nan), ("batch", -1)]
)
def test_densities_that_cannot_be_asked(gaussian: Policy, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} = {value}; it must be positive"):
        gaussian.log_prob(STATES, np.zeros((4, ACT)), **{name: value})


def test_a_log_ratio_is_a_difference_of_energies(policy: Policy, gaussian: Policy) -> None:
    actions = np.array([[0.0, 5.0], [2.0, 10.0], [-2.0, 0.0], [1.0, 7.5]], np.float32)
    expected = policy.energy(STATES, actions, t=0.2) - gaussian.energy(STATES, actions, t=0.2)
    np.testing.assert_allclose(log_ratio(policy, gaussian, STATES, actions, t=0.2), expected)
    np.testing.assert_allclose(log_ratio(policy, policy, STATES, actions), 0.0)
    other = Policy(policy.network, replace(CONFIG, task=replace(CONFIG.task, obs_dim=7)))
    with pytest.raises(InputError, match="pi has 3 observations and 2 actions, mu has 7 and 2"):
        log_ratio(policy, other, STATES, actions)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (STATES[:, :2], r"obs has shape \(4, 2\); its last dimension must be 3"),
        (1.0, r"obs has shape \(\); its last dimension must be 3"),
        ([0.0, np.nan, 0.0], "obs holds NaN"),
        ([0.0, np.inf, 0.0], "obs holds NaN or infinite"),
    ],
)
def test_observations_that_cannot_be_used(policy: Policy, obs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy.sample(obs)


def test_dict_observations_are_joined_in_the_tasks_order(policy: Policy) -> None:
    keyed = policy.replace(task=replace(CONFIG.task, obs_keys=("x", "goal/y")))
    parts = {"goal": {"y": STATES[:, 2:]}, "unused": np.zeros(9), "x": STATES[:, :2]}
    keyed.reset(0)
    policy.reset(0)
    np.testing.assert_array_equal(keyed.sample(parts), policy.sample(STATES))
    one = {"goal": {"y": STATES[0, 2:]}, "x": STATES[0, :2]}
    assert keyed.sample(one).shape == (ACT,) and keyed.sample(STATES).shape == (4, ACT)
    action = np.array([[0.0, 5.0]] * 4)
    np.testing.assert_array_equal(keyed.energy(parts, action), policy.energy(STATES, action))


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({"x": np.zeros(2)}, r"obs cannot be joined from its parts x, goal/y \(KeyError: 'goal'\)"),
        ({"x": np.zeros(2), "goal": 1.0}, r"obs cannot be joined from its parts x, goal/y \(TypeError"),
        ({"x": np.zeros((4, 2)), "goal": {"y": np.zeros(1)}}, r"\(ValueError.*same leading dimensions"),
        ({"x": np.zeros(2), "goal": {"y": np.zeros(2)}}, r"obs has shape \(4,\); its last dimension must be 3"),
        ({"x": np.zeros(2), "goal": {"y": np.array([np.nan])}}, "obs holds NaN"),
    ],
)
def test_dict_observations_that_cannot_be_used(policy: Policy, obs: Any, message: str) -> None:
    keyed = policy.replace(task=replace(CONFIG.task, obs_keys=("x", "goal/y")))
    with pytest.raises(InputError, match=message):
        keyed.sample(obs)


def test_a_dict_where_the_data_had_vectors_is_refused(policy: Policy) -> None:
    with pytest.raises(InputError, match="obs is a Dict of x, goal; set has plain vectors"):
        policy.sample({"x": np.zeros(2), "goal": np.zeros(1)})


@pytest.mark.parametrize(
    ("action", "t", "message"),
    [
        (np.zeros((4, 3)), 0.1, "action has shape"),
        (np.zeros((3, ACT)), 0.1, r"obs has leading shape \(4,\) but action \(3,\)"),
        (np.zeros((4, ACT)), 1.5, "t = 1.5"),
        (np.zeros((4, ACT)), np.nan, "t = nan"),
    ],
)
def test_energies_that_cannot_be_asked(policy: Policy, action: Any, t: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy.energy(STATES, action, t)


def test_choosing_needs_a_critic(policy: Policy) -> None:
    with pytest.raises(InputError, match="the best of 2: choosing among actions needs a critic"):
        Policy(policy.network, replace(CONFIG, candidates=2))
    assert Policy(policy.network, replace(CONFIG, candidates=2, choice="mean")).sample(STATES).shape == (4, ACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "policy.json: field 'colour' is unknown"),
        ({"format": 6}, "policy.json: format 6 is not known here; this version reads formats 1, 2, 3, 4, 5"),
        ({"sampler": {"solver": "euler"}}, "policy.json: field sampler.solver"),
        ({"energy": as_json(NETWORK) | {"blocks": 2}}, "policy.safetensors: has .* bytes where policy.json describes"),
        ({"task": {}}, "policy.json: field task.dataset"),
    ],
)
def test_a_description_that_does_not_fit_is_named(folder: Path, change: dict[str, Any], message: str) -> None:
    edit(folder, change)
    with pytest.raises(InputError, match=message):
        load_policy(folder)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors", "critic.safetensors"])
def test_a_damaged_or_missing_file_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:20])
    with pytest.raises(InputError, match=f"{name}: (has 20 bytes|not readable as JSON)"):
        load_policy(folder)
    (folder / name).write_bytes(whole[:-9] + b"123456789")
    with pytest.raises(InputError, match=f"{name}: (is damaged or another policy's|not readable as JSON)"):
        load_policy(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: cannot be read: No such file|has no policy.json"):
        load_policy(folder)


# --- Distilled --------------------------------------------------------------------------------------------------------


@pytest.fixture
def student(policy: Policy) -> Policy:
    """One that acts in one step, of the same task and critic."""
    config = OneStepConfig(width=8, blocks=1, expansion=1)
    network = eqx.filter_jit(OneStep)(OBS, ACT, config, key=jax.random.key(2))
    described = replace(policy.config, energy=None, one_step=config, provenance={"teacher": policy.digest})
    return Policy(network, described, policy.critic)


def test_a_distilled_policy_is_saved_and_acts_the_same(student: Policy, tmp_path: Path) -> None:
    student.save(tmp_path / "student")
    loaded = load_policy(tmp_path / "student")
    for k in (1, 3):
        one, other = student.replace(candidates=k), loaded.replace(candidates=k)
        actions = one.sample(STATES)
        np.testing.assert_array_equal(other.sample(STATES), actions)
        assert (actions >= LOW).all() and (actions <= HIGH).all() and len(np.unique(actions)) > 4


def test_a_distilled_policy_has_no_energy(student: Policy, policy: Policy) -> None:
    action, message = np.array([[0.0, 5.0]] * 4), f"is distilled.* ask its teacher, of digest '{policy.digest}'"
    for ask in (student.energy, student.log_prob, lambda s, a: log_ratio(policy, student, s, a)):
        with pytest.raises(InputError, match=message):
            ask(STATES, action)


def test_a_policy_has_one_network() -> None:
    for changes in ({"energy": None}, {"one_step": OneStepConfig()}):
        with pytest.raises(InputError, match="energy, one_step, actor: exactly one of the three"):
            replace(CONFIG, **changes)


def test_a_digest_is_of_all_that_a_policy_is(policy: Policy, folder: Path) -> None:
    assert load_policy(folder, seed=3).digest == load_policy(folder).digest
    assert (
        len({policy.digest, another(1).digest, another(2).digest, policy.best_of(2).digest, policy.mean_of(2).digest})
        == 5
    )


# --- Saving -----------------------------------------------------------------------------------------------------------


def another(seed: int, *, critic: bool = False) -> Policy:
    """A policy of other weights and another description."""
    energy = eqx.filter_jit(Energy)(OBS, ACT, NETWORK, key=jax.random.key(seed))
    config = replace(CONFIG, provenance={"beta": float(seed)}, critic=SHAPE if critic else None)
    return Policy(energy, config, eqx.filter_jit(init_critic)(OBS, ACT, SHAPE, key=jax.random.key(seed + 100)))


def states(folder: Path) -> dict[str, bytes]:
    """What is in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


@contextmanager
def each_state_of(folder: Path) -> Iterator[list[dict[str, bytes]]]:
    """Every state that a kill at any line of what writes files would leave the folder in."""
    seen: list[dict[str, bytes]] = []
    watched = {files.__file__, policy_folder.__file__}

    def look(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in watched:
            return None
        found = states(folder)
        if not seen or found != seen[-1]:
            seen.append(found)
        return look

    tracer = sys.gettrace()
    sys.settrace(look)
    try:
        yield seen
    finally:
        sys.settrace(tracer)


def put(state: dict[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in state.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("critics", [(True, True), (True, False), (False, True)])
def test_a_kill_at_any_moment_leaves_the_old_policy_or_the_new(critics: tuple[bool, bool], tmp_path: Path) -> None:
    old, new, third = another(1, critic=critics[0]), another(2, critic=critics[1]), another(3, critic=True)
    folder, killed = tmp_path / "policy", tmp_path / "killed"
    old.save(folder)
    names = {"policy.json", "policy.safetensors", "README.md"}
    assert set(states(folder)) == names | ({"critic.safetensors"} if critics[0] else set())
    with each_state_of(folder) as seen:
        new.save(folder)
    assert set(states(folder)) == names | ({"critic.safetensors"} if critics[1] else set())
    assert len(seen) >= 5
    found = []
    for state in seen:
        put(state, killed)
        loaded = load_policy(killed)
        one = {1.0: old, 2.0: new}[loaded.config.provenance["beta"]]
        for part in ("network", "critic") if one.config.critic else ("network",):
            assert jax.tree.all(jax.tree.map(np.array_equal, getattr(loaded, part), getattr(one, part)))
        found.append(loaded.config.provenance["beta"])
        if "policy.new.safetensors" in state:  # the next save ends the one that was cut off, and may be cut off itself
            with each_state_of(killed) as later:
                third.save(killed)
            # What a process that lives has aside is kept, and this one does.
            assert {name for name in states(killed) if name[0] != "."} == names | {"critic.safetensors"}
            for state in later:
                put(state, killed)
                assert load_policy(killed).config.provenance["beta"] in (found[-1], 3.0)
    assert found == sorted(found) and {1.0, 2.0} == set(found)


def test_a_policy_that_is_there_already_is_not_written_again(policy: Policy, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    policy.save(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_policy_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "policy"
    another(1).save(folder)
    read, pending = policy_folder._read, [another(2)]

    def replaced_meanwhile(*arguments: Any) -> Any:
        if pending:
            pending.pop().save(folder)
        return read(*arguments)

    monkeypatch.setattr(policy_folder, "_read", replaced_meanwhile)
    assert load_policy(folder).config.provenance["beta"] == 2.0


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_an_older_layout_is_read_and_replaced(folder: Path, version: int) -> None:
    older = json.loads((folder / "policy.json").read_text()) | {"format": version}
    del older["one_step"]  # what neither knew
    if version == 1:
        del older["sha256"]
    (folder / "policy.json").write_text(json.dumps(older))
    loaded = load_policy(folder)
    assert loaded.config.format == policy_folder.FORMAT
    another(2).save(folder)
    assert load_policy(folder).config.provenance["beta"] == 2.0


def test_what_could_not_be_loaded_is_not_saved(policy: Policy, folder: Path) -> None:
    before = states(folder)
    for changes, message in (
        ({"provenance": {"beta": float("nan")}}, "cannot be written: Out of range float values"),
        ({"provenance": {"beta": object()}}, "cannot be written: Object of type object"),
        ({"scaling": replace(CONFIG.scaling, obs_std=(1.0, 0.0, 1.0))}, r"field scaling.obs_std.1: is 0.0"),
    ):
        with pytest.raises(InputError, match=f"policy.json: {message}"):
            policy.replace(**changes).save(folder)
    assert states(folder) == before


def test_a_data_sets_name_that_cannot_be_printed_is_saved_without(policy: Policy, tmp_path: Path) -> None:
    policy.replace(task=replace(CONFIG.task, dataset="log\x1b[2J\udcff.npz")).save(tmp_path / "policy")
    assert load_policy(tmp_path / "policy").config.task.dataset == "log?[2J?.npz"


def test_a_folder_that_cannot_be_written_is_named(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/policy.* cannot be written: Not a directory"):
        policy.save(tmp_path / "file" / "policy")


def test_what_is_no_policys_folder_is_told_apart(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "policies" / "beta1-seed0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    for path, message in (
        (tmp_path / "nosuch", "nosuch: there is no such folder"),
        (folder / "policy.json", "policy.json: is no folder; give the folder that policy.json lies in"),
        (run, "run: holds policies but is none itself; give one of them, such as .*/run/policies/beta1-seed0$"),
        (run / "policies", "policies: holds policies but is none itself; give one of them, such as .*beta1-seed0$"),
        (tmp_path / "begun", "begun: is a run's folder without policies; finish the run"),
        (tmp_path / "empty", "empty: is no policy's folder, as it has no policy.json"),
    ):
        with pytest.raises(InputError, match=message):
            load_policy(path)
