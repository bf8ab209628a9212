"""CNF's losses by hand, its two phases, and the policy it finds between two logged actions."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.stages.baselines import cnf
from tiltrl.stages.baselines.cnf import FAST_CNF, MOST_WEIGHT, CNFConfig, flow_loss, policy_loss, train_cnf
from tiltrl.stages.baselines.common import Given, Outcome, Perceptron
from tiltrl.stages.baselines.flow import FlowShape
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, CriticShape, init_critic

SMALL = CNFConfig(
    steps=1600,
    flow_share=0.5,
    batch=64,
    flow_learning_rate=1e-2,
    flow_clip=1.0,
    learning_rate=1e-2,
    cosine=True,
    network=FlowShape(layers=4, width=16, depth=1, policy_width=16, policy_depth=1),
    width=16,
    depth=1,
    temperature=1 / 3,
    polyak=0.05,
)


def given() -> Given:
    """One state; actions near -1/2 and near 1/2 with rewards 0 and 1, after which all is over."""
    rng = np.random.default_rng(0)
    side = np.repeat([-0.5, 0.5], 256)
    action = np.stack([side, -side], axis=1) + 0.05 * rng.normal(size=(512, 2))
    ones = jnp.ones((512, 1))
    data = Batch(ones, jnp.asarray(action, jnp.float32), jnp.asarray(side > 0, jnp.float32), ones, jnp.zeros(512))
    return Given(data, np.ones((1, 1), np.float32), lambda obs, k: obs[None], None, None)


def like_action(slope: float) -> MLP:
    """Two Q networks on one observation and one action: slope times (1 + action), and more."""
    shape = CriticShape(width=4, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
    zeros = jax.tree.map(jnp.zeros_like, eqx.filter_jit(init_critic)(1, 1, shape, key=jax.random.key(0)).q)
    where = lambda n: (n.layers[0].weight, n.layers[0].bias, n.layers[1].weight)  # noqa: E731
    first, bias, last = where(zeros)
    slopes = jnp.array([slope, slope + 1.0])
    return eqx.tree_at(where, zeros, (first.at[:, 0, 0].set(1.0), bias.at[:, 0].set(1.0), last.at[:, 0, 0].set(slopes)))


def test_the_policy_loss_by_hand() -> None:
    """An untrained flow changes nothing, and a policy of zeros acts 0: `exp((Q(a) - Q(0)) / T) |a|`."""
    actor = eqx.filter_jit(FlowShape(layers=2, width=4, depth=1, policy_width=4, policy_depth=1).make)(
        1, 1, key=jax.random.key(0)
    )
    policy: Perceptron = jax.tree.map(jnp.zeros_like, actor.policy)
    action = np.array([0.5, -0.25, 0.9])
    batch = Batch(jnp.ones((3, 1)), jnp.asarray(action)[:, None], jnp.zeros(3), jnp.ones((3, 1)), jnp.zeros(3))
    for slope in (1.0, 4.0):
        weight = np.minimum(np.exp(slope * action / 0.5), MOST_WEIGHT)
        found = policy_loss(policy, actor.flow, like_action(slope), batch, 0.5)
        np.testing.assert_allclose(found, np.mean(weight * np.abs(action)), rtol=1e-4)
    np.testing.assert_allclose(flow_loss(actor.flow, batch), np.log(2.0), rtol=1e-5)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return train_cnf(given(), SMALL, jax.random.key(0)[None])


def test_the_flow_learns_where_the_data_lies(outcome: Outcome) -> None:
    flow = jax.tree.map(lambda leaf: leaf[0], outcome.actor.flow)
    latent = jax.random.uniform(jax.random.key(1), (2000, 2), minval=-1.0, maxval=1.0)
    action = np.asarray(eqx.filter_jit(flow.decode)(latent, jnp.ones(1)))
    near = [np.linalg.norm(action - center, axis=1) < 0.25 for center in ([0.5, -0.5], [-0.5, 0.5])]
    assert min(side.mean() for side in near) > 0.3  # of the box's area they are a twentieth each
    assert (near[0] | near[1]).mean() > 0.75


def test_the_policy_takes_the_better_of_two_actions_and_the_critic_knows_both(outcome: Outcome) -> None:
    actor, critic = (jax.tree.map(lambda leaf: leaf[0], part) for part in outcome)
    np.testing.assert_allclose(actor.action(jnp.ones(1)), [0.5, -0.5], atol=0.1)
    logged = jnp.array([[-0.5, 0.5], [0.5, -0.5]])
    np.testing.assert_allclose(critic(jnp.ones((2, 1)), logged), [0.0, 1.0], atol=0.1)


def test_the_flow_is_frozen_once_the_policy_learns_and_before_that_alone_learns() -> None:
    def trained(steps: int, share: float) -> Outcome:
        return train_cnf(given(), replace(SMALL, steps=steps, flow_share=share, cosine=False), jax.random.key(0)[None])

    flow_only, both = trained(10, 1.0), trained(20, 0.5)
    for a, b in zip(*map(jax.tree.leaves, (flow_only.actor.flow, both.actor.flow)), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = [
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (flow_only.actor.policy, both.actor.policy)), strict=True)
    ]
    assert all(moved)


@pytest.mark.slow
def test_a_member_among_others_is_the_one_that_is_alone() -> None:
    short, keys = replace(SMALL, steps=10), jax.random.split(jax.random.key(1), 2)
    both, alone = train_cnf(given(), short, keys), train_cnf(given(), short, keys[:1])
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_budget_of_few_steps_leaves_both_phases_a_schedule(steps: int) -> None:
    optimizers, _, _ = cnf._step(replace(FAST_CNF, steps=steps))
    assert all(jax.tree.leaves(jax.eval_shape(one.init, jnp.zeros(2))) for one in optimizers)
