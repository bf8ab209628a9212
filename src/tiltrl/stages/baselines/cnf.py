"""CNF: a policy in the latent space of a normalizing flow (Akimov et al. 2022, arXiv 2211.11096).

*Let Offline RL Flow: Training Conservative Agents in the Latent Space of Normalizing Flows* fits a flow from a uniform
latent box to the logged actions by their likelihood, then freezes it and learns a policy that outputs latents: whatever
it says, the flow makes an action of it that the data could hold. As in the authors' release, the policy is drawn to the
logged actions, each weighted by `exp((Q(s, a) - Q(s, pi(s))) / lambda)` (AWAC, Nair et al. 2020, arXiv 2006.09359), and
Q regresses `r + discount min_i Q_i(s', pi(s'))`. The release's flow also has learned linear maps between its couplings;
here the dimensions only move on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.stages.baselines.common import Given, Outcome, Perceptron
from tiltrl.stages.baselines.flow import Flow, FlowActor, FlowShape
from tiltrl.stages.critics.iql import Batch
from tiltrl.stages.critics.networks import MLP, Critic, CriticShape, apply_ensemble, init_critic, join
from tiltrl.stages.critics.online import critic_losses
from tiltrl.training.loop import Draw, Metrics, Session, Update, fit, random_rows
from tiltrl.training.optimizer import cosine_adam, optimizer_step, polyak
from tiltrl.training.stream import example

MOST_WEIGHT = 100.0
"""Larger weights of logged actions are cut off, as in the release."""


@dataclass(frozen=True)
class CNFConfig:
    """How flow, critic and policy are trained. The defaults are those of CNF's release for locomotion."""

    steps: int = 300_000  # of the flow, then of policy and critic
    flow_share: float = 1 / 3  # of the steps; 100 epochs of medium data in the release, in batches of 1024
    batch: int = 512
    flow_learning_rate: float = 5e-4
    flow_clip: float = 0.1  # norm of the flow's gradient at most
    learning_rate: float = 3e-4  # of policy and critic
    cosine: bool = False
    network: FlowShape = field(default_factory=FlowShape)
    width: int = 256  # of the critic
    depth: int = 3
    layer_norm: bool = False
    temperature: float = 1 / 3  # the lambda of the weights, for returns of the transformed rewards
    discount: float = 0.99
    polyak: float = 0.002  # how far the target networks move each step
    pessimism: float = 1.0  # deviations of the Q networks taken off their mean, were they to select
    candidates: int = 1

    @property
    def flow_steps(self) -> int:
        """Steps of the flow alone."""
        return round(self.steps * self.flow_share)

    @property
    def actor(self) -> FlowShape:
        """Shape of the actor."""
        return self.network

    @property
    def own_critic(self) -> CriticShape:
        """Shape of the critic's networks."""
        return CriticShape(self.width, self.depth, self.layer_norm, 2, 1, dueling=False)


FAST_CNF = CNFConfig(
    steps=20_000,
    flow_share=0.5,
    batch=256,
    flow_learning_rate=1e-3,
    flow_clip=1.0,
    learning_rate=1e-3,
    cosine=True,
    network=FlowShape(layers=6, width=64, policy_width=128, policy_depth=2),
    width=128,
    depth=2,
    layer_norm=True,
    polyak=0.02,
)
"""At the fast preset's scale. Targets move faster, so that values have reached back from the ends in fewer steps."""


def flow_loss(flow: Flow, batch: Batch) -> Float[Array, ""]:
    """Negative log-likelihood of the logged actions, in nats an action."""
    return -jnp.mean(flow.log_prob(batch.action, batch.obs))


def policy_loss(policy: Perceptron, flow: Flow, q: MLP, batch: Batch, temperature: float) -> Float[Array, ""]:
    """Weighted distance (L1, a mean over dimensions) of the policy's actions from the logged ones.

    Args:
        policy: trained.
        flow: makes actions of its latents; constant.
        q: weighs by the least of its networks' values; constants.
        batch: logged transitions.
        temperature: of the weights, in units of Q; the smaller, the fewer logged actions count.
    """
    action = FlowActor(policy, flow).action(batch.obs)

    def value(action: Array) -> Array:
        return jnp.min(apply_ensemble(q, join(batch.obs, action)), axis=-1)

    advantage = jax.lax.stop_gradient(value(batch.action) - value(action))
    weight = jnp.minimum(jnp.exp(advantage / temperature), MOST_WEIGHT)
    return jnp.mean(weight[:, None] * jnp.abs(action - batch.action))


class CNFState(NamedTuple):
    """Networks, target networks and optimizer states."""

    flow: Flow
    policy: Perceptron
    q: MLP
    v: MLP
    target: MLP
    flow_opt: optax.OptState
    policy_opt: optax.OptState
    critic_opt: optax.OptState
    step: Float[Array, ""]


class _Optimizers(NamedTuple):
    flow: optax.GradientTransformation
    others: optax.GradientTransformation


@lru_cache(maxsize=8)
def _step(config: CNFConfig) -> tuple[_Optimizers, Update[CNFState], Draw]:
    """Optimizers, step and its batch: the same functions for an equal configuration, so that it compiles once."""
    rates = config.flow_learning_rate, config.learning_rate
    # At least one step each, as a schedule needs, where a small budget leaves none.
    flow_optimizer = cosine_adam(rates[0], max(1, config.flow_steps), cosine=config.cosine, clip=config.flow_clip)
    optimizer = cosine_adam(rates[1], max(1, config.steps - config.flow_steps), cosine=config.cosine)

    def draw(_: None, data: Batch, key: PRNGKeyArray) -> Batch:
        return random_rows(data, config.batch, key)

    def fit_flow(state: CNFState, batch: Batch) -> tuple[CNFState, Metrics]:
        loss, gradient = jax.value_and_grad(flow_loss)(state.flow, batch)
        flow, flow_opt = optimizer_step(flow_optimizer, gradient, state.flow_opt, state.flow)
        nothing = jnp.zeros(())
        metrics = {"flow_loss": loss, "policy_loss": nothing, "v_loss": nothing, "q_loss": nothing, "v": nothing}
        return state._replace(flow=flow, flow_opt=flow_opt), metrics

    def improve(state: CNFState, batch: Batch) -> tuple[CNFState, Metrics]:
        next_action = FlowActor(state.policy, state.flow).action(batch.next_obs)

        def critic_loss(networks: tuple[MLP, MLP]) -> tuple[Array, dict[str, Array]]:
            return critic_losses(*networks, state.target, batch, next_action)

        gradient, info = jax.grad(critic_loss, has_aux=True)((state.q, state.v))
        (q, v), critic_opt = optimizer_step(optimizer, gradient, state.critic_opt, (state.q, state.v))
        loss, gradient = jax.value_and_grad(policy_loss)(state.policy, state.flow, q, batch, config.temperature)
        policy, policy_opt = optimizer_step(optimizer, gradient, state.policy_opt, state.policy)
        target = polyak(q, state.target, config.polyak)
        state = state._replace(policy=policy, q=q, v=v, target=target, policy_opt=policy_opt, critic_opt=critic_opt)
        return state, info | {"policy_loss": loss, "flow_loss": jnp.zeros(())}

    def update(state: CNFState, _: None, data: Batch, key: PRNGKeyArray) -> tuple[CNFState, Metrics]:
        batch = draw(None, data, key)
        state, metrics = jax.lax.cond(state.step < config.flow_steps, fit_flow, improve, state, batch)
        return state._replace(step=state.step + 1.0), metrics

    return _Optimizers(flow_optimizer, optimizer), update, draw


def train_cnf(given: Given, config: CNFConfig, keys: PRNGKeyArray, session: Session | None = None) -> Outcome:
    """Fit one flow, policy and critic a key, to the data that is given.

    Args:
        given: data.
        config: steps, batch and the like.
        keys: one key a member.
        session: where to resume from and report to.
    """
    like = example(given.data)
    obs_dim, act_dim = like.obs.shape[1], like.action.shape[1]
    optimizers, update, draw = _step(config)

    def init(key: PRNGKeyArray) -> CNFState:
        critic_key, actor_key = jax.random.split(key)
        critic = init_critic(obs_dim, act_dim, config.own_critic, key=critic_key)
        actor = config.actor.make(obs_dim, act_dim, key=actor_key)
        return CNFState(
            actor.flow,
            actor.policy,
            critic.q,
            critic.v,
            critic.q,
            optimizers.flow.init(cast(Any, actor.flow)),
            optimizers.others.init(cast(Any, actor.policy)),
            optimizers.others.init(cast(Any, (critic.q, critic.v))),
            jnp.zeros(()),
        )

    init_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    state = fit(
        update,
        jax.jit(jax.vmap(init))(init_keys),
        member_data=None,
        shared_data=given.data,
        keys=train_keys,
        steps=config.steps,
        draw=draw,
        session=session,
    )
    return Outcome(FlowActor(state.policy, state.flow), Critic(q=state.target, v=state.v, dueling=False))
