"""Candidates of a bandit: drawn once, compared in many groups."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np

from tiltrl.bandit.model import BanditConfig, draw_candidates
from tiltrl.diffusion.energy import Energy


def test_every_candidate_is_in_one_group_of_each_regrouping() -> None:
    config = BanditConfig(k=4, candidates=64, regroupings=3, batch=16)
    config = replace(config, sampler=replace(config.sampler, calls=2))
    mu = jax.jit(lambda key: Energy(1, 2, config.behavior.network, key=key))(jax.random.key(0))
    groups = draw_candidates(mu, config, seed=0)
    assert groups.shape == (3 * 16, 4, 2)
    points, counts = np.unique(groups.reshape(-1, 2), axis=0, return_counts=True)
    assert len(points) == 64 and (counts == 3).all()
    first, second = groups[:16].reshape(-1, 2), groups[16:32].reshape(-1, 2)
    assert not np.array_equal(first, second)
