"""The denoising actor as a map from noise to action, and that its training finds the better of two actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.stages.baselines.common import Given
from tiltrl.stages.baselines.diffusion_ql import DenoisingShape, DiffusionQLConfig, train_diffusion_ql
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.online import act

SHAPE = DenoisingShape(width=16, depth=1, steps=5)
CONFIG = DiffusionQLConfig(
    steps=800, batch=32, learning_rate=1e-2, width=16, depth=1, polyak=0.05, eta=1.0, layer_norm=False
)


def nothing(obs: np.ndarray, k: int) -> np.ndarray:
    raise AssertionError("it asks its own policy for actions")


def two_actions() -> Given:
    """One state, actions -0.5 and 0.5 with rewards 0 and 1, discount 1/2."""
    ones = jnp.ones((2, 1))
    data = Batch(ones, jnp.array([[-0.5], [0.5]]), jnp.array([0.0, 1.0]), ones, jnp.full(2, 0.5))
    return Given(data, np.ones((2, 1)), nothing, None, None)


def test_an_action_is_the_end_of_the_chain_that_its_noise_describes() -> None:
    """Also where several noises share a state, and whatever their number of axes."""
    actor = SHAPE.make(3, 2, key=jax.random.key(0))
    assert actor.noise_dim == 10
    obs, noise = jax.random.normal(jax.random.key(1), (4, 1, 3)), jax.random.normal(jax.random.key(2), (4, 6, 10))
    found = actor(noise, obs)
    assert found.shape == (4, 6, 2) and (jnp.abs(found) <= 1).all()
    one = act(actor.denoiser, obs[3], noise[3, 5].reshape(5, 1, 2))
    np.testing.assert_allclose(found[3, 5], one[0], atol=1e-6)
    np.testing.assert_allclose(actor(noise[3, 5], obs[3, 0]), one[0], atol=1e-6)


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("depth", 1000), ("steps", 0)])
def test_a_shape_of_no_network_is_refused(field: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{field} = {value}; it must lie in 1 to "):
        DenoisingShape(**{field: value})


@pytest.mark.slow
def test_each_policy_climbs_to_the_better_logged_action_and_its_critic_knows_that_it_will() -> None:
    """The best policy's values are 1 and 2: it takes the better action ever after."""
    actor, critic = train_diffusion_ql(two_actions(), CONFIG, jax.random.split(jax.random.key(0), 2))
    assert critic is not None
    noise, ones = jax.random.normal(jax.random.key(1), (500, 5)), jnp.ones((1, 1))
    actions = jax.vmap(lambda a: a(noise, ones))(actor)
    values = jax.vmap(lambda c: c(jnp.ones((2, 1)), jnp.array([[-0.5], [0.5]])))(critic)
    for found, (low, high) in zip(actions, values, strict=True):
        assert found.shape == (500, 1)
        np.testing.assert_allclose(jnp.mean(found), 0.5, atol=0.15)  # imitation alone: 0
        assert jnp.mean(found > 0) > 0.9  # and one half
        np.testing.assert_allclose(high - low, 1.0, atol=0.1)
        assert 1.7 < high < 2.3  # above 1.5, the value of imitating
    assert not np.allclose(actions[0], actions[1], atol=1e-4)  # a key of its own
