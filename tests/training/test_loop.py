"""The training loop on a small regression: members, resuming, averages and rates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltrl.errors import InputError
from tiltrl.training.loop import Diverged, Quiet, TrainState, fit
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner

STEPS = 30
X = jnp.linspace(-1.0, 1.0, 16)
KEYS = jax.random.split(jax.random.key(0), 3)


class Kept:
    """A session that stores the state, and starts from one."""

    def __init__(self, state: Any = None, step: int = 0):
        self.state, self.step, self.heard = state, step, []

    def restore(self, train: TrainState) -> tuple[TrainState, int]:
        return (train, 0) if self.state is None else (self.state, self.step)

    def record(self, step: int, steps: int, metrics: dict[str, Any] | None, train: TrainState) -> None:
        self.state, self.step = train, step
        if metrics is not None:
            self.heard.append((step, steps, metrics["loss"].shape))

    def diverged(self, failure: Diverged) -> tuple[TrainState, int]:
        raise failure


def train(keys: jax.Array, session: Kept | None = None, steps: int = STEPS, decay: float = 0.9) -> Learner:
    """Fit y = 2 x from random weights, on a noisy random batch at every step."""
    optimizer = cosine_adam(0.1, STEPS, cosine=True)

    def update(learner: Learner, _: None, x: jax.Array, key: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        index_key, noise_key = jax.random.split(key)
        batch = x[jax.random.randint(index_key, (4,), 0, len(x))]
        target = 2.0 * batch + 0.1 * jax.random.normal(noise_key, (4,))
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((w * batch - target) ** 2))(learner.params)
        return gradient_step(learner, gradient, optimizer, decay), {"loss": loss}

    state = jax.vmap(lambda key: init_learner(jax.random.normal(key), optimizer))(keys)
    return fit(update, state, member_data=None, shared_data=X, keys=keys, steps=steps, chunk=8, session=session)


def test_one_member_of_many_is_that_member_alone() -> None:
    together = train(KEYS)
    assert len(np.unique(together.params)) == 3
    for i in range(3):
        alone = train(KEYS[i : i + 1])
        np.testing.assert_allclose(together.params[i], alone.params[0], rtol=1e-6)
        np.testing.assert_allclose(together.average[i], alone.average[0], rtol=1e-6)


@pytest.mark.parametrize("half", [8, 13])  # at the end of a chunk, and within one
def test_two_halves_are_the_whole_bit_for_bit(half: int) -> None:
    session = Kept()
    train(KEYS, session, steps=half)
    resumed = train(KEYS, Kept(session.state, session.step))
    for a, b in zip(jax.tree.leaves(train(KEYS)), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_session_hears_of_every_chunk() -> None:
    session = Kept()
    train(KEYS, session)
    assert session.heard == [(step, STEPS, (3,)) for step in (8, 16, 24, 30)]


def test_a_finished_run_takes_no_more_steps() -> None:
    session = Kept()
    done = train(KEYS, session)
    np.testing.assert_array_equal(train(KEYS, Kept(session.state, STEPS)).params, done.params)


def test_no_decay_makes_the_average_the_parameters() -> None:
    learner = train(KEYS, decay=0.0)
    np.testing.assert_array_equal(learner.average, learner.params)


def test_the_average_by_hand() -> None:
    optimizer = cosine_adam(0.1, 10, cosine=False)
    learner = init_learner(jnp.array(1.0), optimizer)
    average = 1.0
    for step in range(40):
        learner = gradient_step(learner, jnp.array(1.0), optimizer, 0.5)
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * float(learner.params)
    assert float(learner.average) == pytest.approx(average, rel=1e-5)
    assert float(learner.step) == 40


def step_sizes(steps: int, **settings: Any) -> list[float]:
    """How far Adam moves at each step under a gradient that stays 1: its learning rate."""
    optimizer = cosine_adam(0.1, steps, **settings)
    learner, sizes = init_learner(jnp.array(0.0), optimizer), []
    for _ in range(steps + 1):
        moved = gradient_step(learner, jnp.array(1.0), optimizer, 0.0)
        sizes.append(float(learner.params - moved.params))
        learner = moved
    return sizes


def test_rates() -> None:
    np.testing.assert_allclose(step_sizes(8, cosine=False), 0.1, rtol=1e-4)
    half_wave = 0.05 * (1 + np.cos(np.pi * np.arange(9) / 8))
    np.testing.assert_allclose(step_sizes(8, cosine=True), half_wave, rtol=1e-3, atol=1e-6)
    # A fifth of ten steps to rise, the other eight as above.
    np.testing.assert_allclose(step_sizes(10, cosine=True, warmup=0.2), [0.0, 0.05, *half_wave], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(step_sizes(4, cosine=False, warmup=0.5)[:4], [0.0, 0.05, 0.1, 0.1], rtol=1e-3, atol=1e-6)


def test_gradients_longer_than_the_clip_are_shortened_to_it_and_others_are_not() -> None:
    optimizer, plain = cosine_adam(0.1, 8, cosine=False, clip=1.0), cosine_adam(0.1, 8, cosine=False)
    gradient = {"a": jnp.array(3.0), "b": jnp.array(4.0)}  # of norm 5
    given, expected = init_learner(gradient, optimizer), init_learner(gradient, plain)
    for scale, factor in ((1.0, 0.2), (0.1, 1.0)):  # Adam's first step alone would not tell: all are as long
        given = gradient_step(given, jax.tree.map(lambda g, s=scale: s * g, gradient), optimizer, 0.0)
        shortened = jax.tree.map(lambda g, s=scale * factor: s * g, gradient)
        expected = gradient_step(expected, shortened, plain, 0.0)
    for name in gradient:
        assert float(given.params[name]) == pytest.approx(float(expected.params[name]), rel=1e-6)
        assert float(given.params[name]) != pytest.approx(float(gradient[name]) - 0.2, rel=1e-6)


def test_the_second_moment_forgets_at_its_rate() -> None:
    sizes = {}
    for decay in (0.5, 0.999):
        optimizer = cosine_adam(0.1, 8, cosine=False, second_moment=decay)
        learner = init_learner(jnp.array(0.0), optimizer)
        for gradient in (100.0, 1.0, 1.0, 1.0):
            before, learner = learner, gradient_step(learner, jnp.array(gradient), optimizer, 0.0)
        sizes[decay] = float(before.params - learner.params)
    # Bias-corrected averages of 100, 1, 1, 1 and of their squares, by hand.
    mean = sum(0.9**k * g for k, g in enumerate((1, 1, 1, 100))) * 0.1 / (1 - 0.9**4)
    for decay, size in sizes.items():
        square = sum(decay**k * g**2 for k, g in enumerate((1, 1, 1, 100))) * (1 - decay) / (1 - decay**4)
        assert size == pytest.approx(0.1 * mean / square**0.5, rel=1e-4)


@pytest.mark.parametrize("before", [1, 2, 5])  # how the steps before were cut into bursts
def test_a_state_that_turns_bad_is_found_to_the_step_with_the_state_before_and_its_batch(before: int) -> None:
    """The weights of step 7 are NaN although its loss was finite, so that no metric tells before step 8."""

    def draw(_: None, __: None, key: jax.Array) -> jax.Array:
        return jax.random.normal(key)

    def update(state: jax.Array, _: None, __: None, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        noise, count = draw(None, None, key), jnp.round(state)
        return jnp.where(count == 6, jnp.nan, count + 1.0), {"loss": 0.0 * count + noise}

    class Failing(Kept):
        def diverged(self, failure: Diverged) -> tuple[TrainState, int]:
            self.failure = failure
            raise KeyboardInterrupt

    session = Failing()
    arguments = {"member_data": None, "shared_data": None, "keys": KEYS, "draw": draw, "chunk": 8}
    fit(update, jnp.zeros(3), steps=before, session=session, **arguments)
    resumed = Failing(session.state, before)
    with pytest.raises(KeyboardInterrupt):
        fit(update, jnp.zeros(3), steps=20, session=resumed, **arguments)
    failure = resumed.failure
    assert failure.step == 7 and np.isnan(failure.values[0])
    np.testing.assert_array_equal(failure.before.state, 6.0)
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(KEYS, 6)
    np.testing.assert_array_equal(failure.batch, jax.vmap(jax.random.normal)(step_keys))


def test_without_a_session_divergence_is_one_sentence() -> None:
    def update(state: jax.Array, _: None, __: None, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state + 1.0, {"loss": jnp.where(state >= 4.0, jnp.inf, state)}

    with pytest.raises(InputError, match=r"loss = \[inf, inf, inf\] at step 5: training diverged; lower the learning"):
        fit(update, jnp.zeros(3), member_data=None, shared_data=None, keys=KEYS, steps=9, session=Quiet())
