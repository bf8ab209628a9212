"""The network of a distilled policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.diffusion.one_step import OneStep, OneStepConfig
from tiltrl.errors import InputError

NETWORK = OneStep(3, 2, OneStepConfig(width=8, blocks=1, expansion=2), key=jax.random.key(0))


def test_a_batch_is_its_examples_and_a_state_serves_many_noises() -> None:
    noise, obs = jax.random.normal(jax.random.key(1), (4, 5, 2)), jax.random.normal(jax.random.key(2), (4, 3))
    actions = NETWORK(noise, obs[:, None])
    assert actions.shape == (4, 5, 2) and NETWORK.act_dim == 2
    for i in range(4):
        for k in range(5):
            np.testing.assert_allclose(NETWORK(noise[i, k], obs[i]), actions[i, k], rtol=1e-5, atol=1e-6)


def test_actions_end_inside_the_unit_box_where_the_gradient_still_sees_them() -> None:
    far = 100.0 * jnp.ones(2)
    assert float(jnp.abs(NETWORK.unclipped(far, jnp.zeros(3))).max()) > 1.0
    assert float(jnp.abs(NETWORK(far, jnp.zeros(3))).max()) == 1.0
    assert bool(jnp.all(jax.jacobian(NETWORK.unclipped)(far, jnp.zeros(3)) != 0.0))


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("blocks", 65), ("expansion", 1 << 40)])
def test_what_is_no_network_is_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} = {value}; it must lie in"):
        OneStepConfig(**{name: value})
