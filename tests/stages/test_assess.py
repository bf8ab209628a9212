"""The trust check goes through the held-out steps by parts, and finds what it would in one go."""

from __future__ import annotations

import jax
import numpy as np

from tiltrl.stages.critics.check import check_critic
from tiltrl.stages.critics.networks import CriticShape, init_critic
from tiltrl.stages.critics.score import CriticScore
from tiltrl.stages.critics.train import assess
from tiltrl.types import Scaling, Task, Transitions

STEPS, K = 5000, 3  # more than one part


def test_the_check_by_parts_is_the_check_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    shape = CriticShape(8, 1, layer_norm=False, q_ensemble=2, v_ensemble=2, dueling=True)
    score = CriticScore(
        init_critic(2, 1, shape, key=jax.random.key(0)), shape, Scaling((0.0, 0.0), (1.0, 1.0), (-2.0,), (1.0,)), 1.0
    )
    last = np.arange(STEPS) % 50 == 49
    held_out = Transitions(
        obs=rng.normal(size=(STEPS, 2)).astype(np.float32),
        action=rng.uniform(-2, 1, (STEPS, 1)).astype(np.float32),
        reward=rng.normal(size=STEPS).astype(np.float32),
        next_obs=rng.normal(size=(STEPS, 2)).astype(np.float32),
        terminal=last & (rng.random(STEPS) < 0.5),
        timeout=last,
        task=Task("made up", None, (-2.0,), (1.0,), 2),
    )
    candidates = rng.uniform(-2, 1, (STEPS, K, 1)).astype(np.float32)
    found = assess(score, held_out, candidates, 0.9)

    repeated, flat = np.repeat(held_out.obs, K, axis=0), candidates.reshape(-1, 1)
    logged = score(held_out.obs, held_out.action)
    expected = check_critic(
        advantage=logged - score(repeated, flat).reshape(STEPS, K).mean(axis=1),
        value=score.value(held_out.obs),
        reward=held_out.reward,
        terminal=held_out.terminal,
        timeout=held_out.timeout,
        last_value=score.value(held_out.next_obs),
        discount=0.9,
        candidate_values=score.ensemble(repeated, flat).reshape(-1, STEPS, K),
        random_above_data=found.random_above_data,
    )
    names = ("rank", "rank_low", "rank_high", "spread", "disagreement", "reliability", "trust")
    for name in names:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-5)
    assert 0.3 < found.random_above_data < 0.7  # the logged actions are as random
