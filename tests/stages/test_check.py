"""The trust check tells a good critic from a useless and a harmful one."""

from __future__ import annotations

import numpy as np
import pytest

from tiltrl.stages.critics.check import TRUST_FLOOR, TrustCheck, agreement, check_critic

EPISODES, LENGTH = 60, 20
RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=EPISODES * LENGTH)
ENDS = np.tile(np.arange(LENGTH) == LENGTH - 1, EPISODES)
AGREED = np.repeat(RNG.normal(size=(1, 50, 4)), 2, axis=0)


def judge(advantage: np.ndarray, candidate_values: np.ndarray = AGREED) -> TrustCheck:
    """Check a critic on episodes in which SIGNAL is what an action brings beyond V."""
    return check_critic(
        advantage=advantage,
        value=np.zeros_like(SIGNAL),
        reward=SIGNAL + RNG.normal(size=SIGNAL.shape),
        terminal=ENDS,
        timeout=np.zeros_like(ENDS),
        last_value=np.zeros_like(SIGNAL),
        discount=0.0,
        candidate_values=candidate_values,
        random_above_data=0.3,
    )


def test_a_critic_that_ranks_outcomes_is_good() -> None:
    check = judge(SIGNAL)
    assert check.rank == pytest.approx(np.sqrt(0.5), abs=0.05)  # signal and noise of equal variance
    assert check.rank_low < check.rank < check.rank_high
    assert check.verdict == "good"
    assert check.trust == pytest.approx(check.rank_low / check.rank)
    assert check.random_above_data == 0.3


def test_a_critic_that_ranks_them_backwards_is_harmful() -> None:
    check = judge(-SIGNAL)
    assert check.rank_high < 0 and check.verdict == "harmful" and check.trust == TRUST_FLOOR


def test_a_critic_of_noise_is_weak() -> None:
    check = judge(np.random.default_rng(5).normal(size=SIGNAL.shape))
    assert check.rank_low < 0 < check.rank_high
    assert check.verdict == "weak" and check.trust == TRUST_FLOOR


def test_a_good_ranking_that_the_networks_dispute_is_weak() -> None:
    check = judge(SIGNAL, RNG.normal(size=(2, 500, 4)))
    assert check.rank_low > 0 and check.reliability < 0.5 and check.verdict == "weak"


def test_a_constant_critic_has_no_rank() -> None:
    check = judge(np.full_like(SIGNAL, 3.0))
    assert check.rank == 0.0 and check.verdict == "weak" and check.trust == TRUST_FLOOR


def test_what_follows_a_timeout_counts_as_value() -> None:
    # Two steps an episode, no reward; the outcome is the value after the timeout, and only that.
    after = np.repeat(np.random.default_rng(1).normal(size=40), 2)
    last = np.tile([False, True], 40)
    settings = {
        "advantage": after,
        "value": np.zeros(80),
        "reward": np.zeros(80),
        "last_value": after,
        "discount": 0.9,
        "candidate_values": AGREED,
        "random_above_data": 0.0,
    }
    assert check_critic(terminal=~last & last, timeout=last, **settings).rank > 0.99
    assert check_critic(terminal=last, timeout=last, **settings).rank == 0.0


def test_networks_that_agree_are_reliable() -> None:
    spread, disagreement, reliability = agreement(AGREED)
    centered = AGREED[0] - AGREED[0].mean(axis=1, keepdims=True)
    assert (spread, disagreement, reliability) == pytest.approx((centered.std(), 0.0, 1.0))


def test_levels_of_states_are_no_disagreement() -> None:
    moved = AGREED + RNG.normal(size=(2, 50, 1))
    assert agreement(moved)[1:] == pytest.approx((0.0, 1.0))


def test_reliability_is_the_share_of_the_mean_that_is_no_noise() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 5000, 4)) + rng.normal(size=(2, 5000, 4))  # error of the mean: half the signal
    assert agreement(values)[2] == pytest.approx(2 / 3, abs=0.02)
    assert agreement(rng.normal(size=(2, 5000, 4)))[2] == pytest.approx(0.0, abs=0.05)


def test_one_network_cannot_disagree() -> None:
    assert agreement(AGREED[:1])[1:] == (0.0, 1.0)
    assert agreement(np.ones((1, 5, 4))) == (0.0, 0.0, 0.0)


def test_few_held_out_episodes_prove_nothing() -> None:
    """A bootstrap over one episode would call any positive correlation certain."""
    rng = np.random.default_rng(0)
    steps = 60
    outcome = rng.normal(size=steps)
    end = np.arange(steps) == steps - 1
    found = check_critic(
        advantage=outcome,
        value=np.zeros(steps),
        reward=outcome,
        terminal=end,
        timeout=np.zeros(steps, bool),
        last_value=np.zeros(steps),
        discount=0.0,
        candidate_values=np.stack([np.arange(12.0).reshape(3, 4)] * 2),
        random_above_data=0.1,
    )
    assert found.rank > 0.9
    assert (found.rank_low, found.rank_high, found.verdict) == (-1.0, 1.0, "weak")
    assert found.trust == TRUST_FLOOR
