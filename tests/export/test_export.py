"""A policy's file computes what the policy does, and is not written where it would not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from tiltrl.acting import actions_at
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.errors import InputError
from tiltrl.export import export_onnx, parity
from tiltrl.export.anomaly import anomaly_table
from tiltrl.export.functions import acting
from tiltrl.export.graph import translate
from tiltrl.export.rules import RULES
from tiltrl.policy import Policy, PolicyConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.networks import CriticShape, init_critic
from tiltrl.types import Scaling, Task, Transitions

OBS, ACT, STEPS = 3, 2, 400
LOW, HIGH = (-2.0, 0.0), (2.0, 10.0)
NETWORK = EnergyConfig(
    action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4, action_scale=0.5, dropout=0.0
)
SHAPE = CriticShape(width=8, depth=1, layer_norm=True, q_ensemble=2, v_ensemble=1, dueling=True)
CONFIG = PolicyConfig(
    task=Task("set", json.dumps({"id": "Made-v0"}), LOW, HIGH, OBS),
    scaling=Scaling((1.0, 0.0, -1.0), (2.0, 1.0, 0.5), LOW, HIGH),
    energy=NETWORK,
    sampler=SamplerConfig(calls=3, solver="2mf", grid="quadratic"),
)


def transitions() -> Transitions:
    random = np.random.default_rng(0)
    obs = random.normal(size=(STEPS, OBS)).astype(np.float32)
    action = random.uniform(LOW, HIGH, size=(STEPS, ACT)).astype(np.float32)
    ends = np.arange(STEPS) % 100 == 99
    return Transitions(obs, action, np.zeros(STEPS, np.float32), obs, np.zeros(STEPS, bool), ends, CONFIG.task)


DATA = transitions()


@pytest.fixture(scope="module")
def behavior() -> Policy:
    return Policy(eqx.filter_jit(Energy)(OBS, ACT, NETWORK, key=jax.random.key(0)), CONFIG)


@pytest.fixture(scope="module")
def policy(behavior: Policy) -> Policy:
    """One that chooses among three actions by a critic."""
    critic = eqx.filter_jit(init_critic)(OBS, ACT, SHAPE, key=jax.random.key(1))
    return Policy(behavior.network, replace(CONFIG, critic=SHAPE, candidates=3), critic)


def answers(path: Path, **inputs: np.ndarray) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs), strict=True))


def told(path: Path) -> dict[str, Any]:
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == "tiltrl"
    return json.loads(entry.value)


@pytest.fixture(scope="module")
def exported(policy: Policy, behavior: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "policy.onnx"
    assert export_onnx(policy, path, DATA, behavior=behavior, license="MIT").error < 1e-5
    return path


def test_the_file_takes_the_candidate_that_the_critic_prefers(policy: Policy, exported: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(50, 3, ACT)).astype(np.float32)
    obs = DATA.obs[:50]
    found = answers(exported, obs=obs, noise=noise)["action"]
    normalized, critic = CONFIG.scaling.normalize_obs(obs), policy.critic
    assert critic is not None
    unit = jax.jit(lambda o, n: actions_at(policy.network, o, n, CONFIG.sampler))(normalized, noise)
    actions = CONFIG.scaling.to_env(unit)
    value = jax.jit(lambda o, a: critic(o, a, CONFIG.pessimism))
    q = np.stack([np.asarray(value(normalized, unit[:, k])) for k in range(3)], axis=1)
    np.testing.assert_allclose(found, actions[np.arange(50), q.argmax(1)], atol=1e-4)
    assert len(set(q.argmax(1))) == 3


def test_the_file_takes_the_mean_where_the_policy_does(behavior: Policy, tmp_path: Path) -> None:
    path = export_onnx(behavior.mean_of(5), tmp_path / "mean.onnx", DATA).path
    noise = np.random.default_rng(1).normal(size=(50, 5, ACT)).astype(np.float32)
    unit = jax.jit(lambda o, n: actions_at(behavior.network, o, n, CONFIG.sampler))(
        CONFIG.scaling.normalize_obs(DATA.obs[:50]), noise
    )
    found = answers(path, obs=DATA.obs[:50], noise=noise)["action"]
    np.testing.assert_allclose(found, CONFIG.scaling.to_env(np.mean(unit, axis=1)), atol=1e-4)
    assert (told(path)["candidates"], told(path)["choice"]) == (5, "mean")


def test_actions_lie_within_the_bounds(exported: Path) -> None:
    noise = np.full((9, 3, ACT), 50.0, np.float32)
    found = answers(exported, obs=DATA.obs[:9], noise=noise)["action"]
    assert np.all(found >= LOW) and np.all(found <= HIGH) and np.any(found == HIGH)


def test_rows_are_independent_and_of_any_number(exported: Path) -> None:
    noise = np.random.default_rng(2).normal(size=(7, 3, ACT)).astype(np.float32)
    together = answers(exported, obs=DATA.obs[:7], noise=noise)
    for i in range(7):
        alone = answers(exported, obs=DATA.obs[i : i + 1], noise=noise[i : i + 1])
        np.testing.assert_allclose(alone["action"][0], together["action"][i], atol=1e-5)


def test_the_error_of_denoising_is_that_of_the_behavior(behavior: Policy, exported: Path) -> None:
    noise = np.random.default_rng(3).normal(size=(20, 3, ACT)).astype(np.float32)
    found = answers(exported, obs=DATA.obs[:20], noise=noise)
    wanted = behavior.denoising_error(DATA.obs[:20], found["action"])
    np.testing.assert_allclose(found["denoising_error"], wanted, rtol=1e-4)


def test_the_table_of_quantiles_is_that_of_logged_actions(behavior: Policy, exported: Path) -> None:
    table = np.array(told(exported)["anomaly"]["quantiles"])
    errors = behavior.denoising_error(DATA.obs, DATA.action)
    assert table[0, 0] == 0.0 and table[-1, 0] == 1.0 and np.all(np.diff(table[:, 0]) > 0)
    np.testing.assert_allclose(table[[0, -1], 1], [errors.max(), errors.min()], rtol=1e-5)
    for share, error in table[::10]:
        assert abs(np.mean(errors >= error) - share) <= 1.01 / STEPS


def test_the_range_of_logged_observations_comes_along(exported: Path) -> None:
    found = told(exported)["anomaly"]
    np.testing.assert_array_equal(found["obs_low"], DATA.obs.min(axis=0))
    np.testing.assert_array_equal(found["obs_high"], DATA.obs.max(axis=0))


def test_the_file_describes_itself(policy: Policy, exported: Path) -> None:
    found = told(exported)
    assert (found["format"], found["kind"], found["candidates"], found["calls"]) == (2, "policy", 3, 3)
    assert (found["obs_dim"], found["act_dim"]) == (OBS, ACT)
    assert found["action_low"] == list(LOW) and found["action_high"] == list(HIGH)
    assert found["task"] == {"dataset": "set", "env_id": "Made-v0", "obs_keys": []}
    assert found["inputs"]["noise"]["shape"] == ["batch", 3, ACT]
    assert (found["license"], found["policy"]) == ("MIT", policy.digest)
    assert found["fingerprint"] == DATA.fingerprint()
    assert found["parity"]["observations"] == STEPS and found["parity"]["error"] < 1e-5
    assert {"tiltrl", "jax", "onnx"} <= found["versions"].keys()


def test_the_same_policy_gives_the_same_bytes(policy: Policy, behavior: Policy, exported: Path, tmp_path: Path) -> None:
    export_onnx(policy, tmp_path / "again.onnx", DATA, behavior=behavior, license="MIT")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_an_energy_of_every_time(behavior: Policy, tmp_path: Path) -> None:
    export_onnx(behavior, tmp_path / "energy.onnx", DATA, what="energy")
    for t in (0.0, 0.001, 0.3, 1.0):
        times = np.full(30, t, np.float32)
        found = answers(tmp_path / "energy.onnx", obs=DATA.obs[:30], action=DATA.action[:30], t=times)["energy"]
        np.testing.assert_allclose(found, behavior.energy(DATA.obs[:30], DATA.action[:30], t), rtol=1e-4, atol=1e-4)


def test_a_critic(policy: Policy, tmp_path: Path) -> None:
    export_onnx(policy, tmp_path / "critic.onnx", DATA, what="critic")
    found = answers(tmp_path / "critic.onnx", obs=DATA.obs[:30], action=DATA.action[:30])["value"]
    assert policy.critic is not None
    wanted = policy.critic(*policy._pairs(DATA.obs[:30], DATA.action[:30])[:2], CONFIG.pessimism)
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=1e-4, atol=1e-5)


def test_a_distilled_policy(tmp_path: Path) -> None:
    shape = OneStepConfig(width=8, blocks=1, expansion=1)
    network = eqx.filter_jit(OneStep)(OBS, ACT, shape, key=jax.random.key(0))
    student = Policy(network, replace(CONFIG, energy=None, one_step=shape))
    export_onnx(student, tmp_path / "student.onnx", DATA)
    noise = np.random.default_rng(4).normal(size=(9, 1, ACT)).astype(np.float32)
    unit = np.asarray(network(noise[:, 0], CONFIG.scaling.normalize_obs(DATA.obs[:9])))
    found = answers(tmp_path / "student.onnx", obs=DATA.obs[:9], noise=noise)["action"]
    np.testing.assert_allclose(found, CONFIG.scaling.to_env(unit), atol=1e-4)
    assert told(tmp_path / "student.onnx")["calls"] == 1


@pytest.mark.parametrize("solver", ["2m", "2s"])
def test_every_solver(behavior: Policy, solver: Any, tmp_path: Path) -> None:
    sampler = SamplerConfig(calls=5, solver=solver, grid="log_snr")
    assert export_onnx(behavior.replace(sampler=sampler), tmp_path / "p.onnx", DATA).error < 1e-5


def test_a_file_that_says_something_else_is_not_written(
    behavior: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exp_of_twice(graph: Any, equation: Any, given: Any) -> Any:
        (x,) = given
        return graph.emit("Sigmoid", x.shape, graph.emit("Add", x.shape, x, x))

    from tiltrl.export import rules

    monkeypatch.setattr(rules, "RULES", rules.RULES | {"logistic": exp_of_twice})
    with pytest.raises(InputError, match=r"differs from the policy by .* no file was written"):
        export_onnx(behavior, tmp_path / "p.onnx", DATA)
    assert list(tmp_path.iterdir()) == []


def test_a_tie_between_candidates_is_no_difference(policy: Policy, tmp_path: Path) -> None:
    """A critic that values all alike but for rounding: whichever is taken is right."""
    assert policy.critic is not None
    flat = jax.tree.map(lambda leaf: leaf * 1e-7, policy.critic)
    found = export_onnx(Policy(policy.network, policy.config, flat), tmp_path / "p.onnx", DATA)
    assert found.error < 1e-5


def test_a_choice_that_the_critic_does_not_make_is_a_difference(
    policy: Policy, behavior: Policy, exported: Path
) -> None:
    """The file of the other way round: a critic that likes what the policy's dislikes."""
    against = Policy(policy.network, policy.config, jax.tree.map(lambda leaf: -leaf, policy.critic))
    with pytest.raises(InputError, match="differs"):
        parity.compare(against, behavior, acting(policy, behavior), exported.read_bytes(), DATA.obs, DATA.action)


def test_a_file_that_answers_nan_is_a_difference(behavior: Policy) -> None:
    made = acting(behavior, None)

    def nothing(obs: jax.Array, noise: jax.Array) -> tuple[jax.Array]:
        return (jnp.squeeze(noise, axis=1) * jnp.nan,)

    model = translate(nothing, made.inputs, ["action"], RULES).SerializeToString()
    with pytest.raises(InputError, match="differs from the policy by nan"):
        parity.compare(behavior, None, made, model, DATA.obs, DATA.action)


def test_observations_far_from_0_keep_their_digits(behavior: Policy, tmp_path: Path) -> None:
    """As of positions in a map: float32 has none left for a deviation of .05 around 1e5 unless the mean goes first."""
    scaling = replace(CONFIG.scaling, obs_mean=(1e5 + 0.003, 0.0, 0.0), obs_std=(0.05, 1.0, 1.0))
    obs = DATA.obs * np.array([0.05, 1.0, 1.0]) + np.array([1e5, 0.0, 0.0])
    far = replace(DATA, obs=obs.astype(np.float32))
    assert export_onnx(behavior.replace(scaling=scaling), tmp_path / "p.onnx", far, what="energy").error < 1e-5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda p, b, t: export_onnx(p, t / "policy.bin", DATA), "has to end in .onnx"),
        (lambda p, b, t: export_onnx(b, t / "p.onnx", DATA, what="critic"), "has no critic"),
        (lambda p, b, t: export_onnx(p, t / "p.onnx", DATA, what="energy", behavior=b), "only a policy's actions"),
        (lambda p, b, t: export_onnx(p, t, DATA), r"has to end in \.onnx"),
        (
            lambda p, b, t: export_onnx(p, t / "p.onnx", DATA, behavior=b.replace(provenance={"stage": "align"})),
            "is of stage 'align'",
        ),
        (lambda p, b, t: export_onnx(p, t / "p.onnx", DATA, what="polcy"), "one of policy, energy, critic"),
        (
            lambda p, b, t: export_onnx(b.replace(sampler=SamplerConfig(calls=1)), t / "p.onnx", DATA),
            "calls = 1: one call from pure noise",
        ),
        (lambda p, b, t: export_onnx(p, t / "file" / "p.onnx", DATA), "no folder that may be written"),
        (
            lambda p, b, t: export_onnx(p, t / "p.onnx", replace(DATA, task=replace(DATA.task, obs_dim=4))),
            r"has \(obs, act\) of \(4, 2\)",
        ),
    ],
)
def test_what_cannot_be_exported(
    policy: Policy, behavior: Policy, how: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        how(policy, behavior, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_unusual_is_measured_on_the_behaviors_own_data(behavior: Policy) -> None:
    other = behavior.replace(provenance={"data": "of something else"})
    with pytest.raises(InputError, match="was trained on of something else"):
        anomaly_table(other, DATA)
