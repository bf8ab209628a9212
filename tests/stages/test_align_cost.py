"""What a step of the alignment computes at several temperatures, by XLA's own count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.stages.align import AlignConfig, train_policy

NETWORK = EnergyConfig(action_width=32, time_width=32, obs_width=32, blocks=1, expansion=4)


def flops(count: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of one step at so many temperatures."""
    keys = jax.random.key(0)[None]
    behavior = jax.vmap(lambda key: Energy(5, 3, NETWORK, key=key))(keys)
    given = behavior, jnp.zeros((1, 50, 5)), jnp.zeros((1, 50, 16, 3)), jnp.zeros((1, 50, 16))
    found = []

    def counted(update, state, *, member_data, shared_data, keys, **_):
        step = jax.vmap(update, in_axes=(0, 0, None, 0))
        found.append(jax.jit(step).lower(state, member_data, shared_data, keys).cost_analysis()["flops"])
        return state

    monkeypatch.setattr("tiltrl.stages.align.fit", counted)
    train_policy(*given, jnp.geomspace(0.1, 10.0, count), AlignConfig(batch=64), keys)
    return found[0]


@pytest.mark.slow
def test_the_behaviors_energies_are_computed_once_for_all_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    one, four, seven = (flops(count, monkeypatch) for count in (1, 4, 7))
    each = (seven - four) / 3
    # A policy's energies and their gradient are three passes, the behavior's energies one.
    assert (one - each) / each == pytest.approx(1 / 3, rel=0.1)
    assert four - one == pytest.approx(3 * each, rel=0.05)
