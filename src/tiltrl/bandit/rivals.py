"""The generative models that the paper's Figure 7 sets beside the bottleneck diffusion model (EDA).

A Gaussian and a VAE are sampled in one go but cannot have what the data has: a hole, a gap, a sharp edge. An
energy-based model can, and gives log-densities too, but has to be sampled by a Markov chain as long as it takes to get
from one mode to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.bandit.datasets import Points
from tiltrl.training.loop import Metrics, Session, State, Update, fit
from tiltrl.training.optimizer import Learner, cosine_adam, gradient_step, init_learner

EnergyFunction = Callable[[Float[Array, "2"]], Float[Array, ""]]
"""Energy of one point, in nats: the density is proportional to `exp(-energy)`."""

LOG_TWO_PI = float(np.log(2.0 * np.pi))
EBM_CALLS = (100, 1000)  # Langevin steps of the two samplers, as in Figure 7


@dataclass(frozen=True)
class Fitted:
    """A model of points in the plane, ready to be sampled."""

    name: str
    sample: Callable[[int, PRNGKeyArray], Points]
    seconds: float  # wall-clock time of training, compilation included
    calls: int  # network calls a sample


@dataclass(frozen=True)
class VAEConfig:
    """How the variational autoencoder is trained; sizes for a laptop."""

    latent: int = 2
    width: int = 128
    depth: int = 2  # hidden layers of the encoder, and of the decoder
    log_deviation: float = -2.5  # of the decoder, at first: from one as wide as the data, the posterior collapses
    steps: int = 4_000
    batch: int = 256
    learning_rate: float = 3e-3  # decayed to zero by a cosine
    average: float = 0.999  # decay of the weights' running average


@dataclass(frozen=True)
class EBMConfig:
    """How the energy-based model is trained; sizes for a laptop.

    Chains are sampled as they are trained: the same step, at temperature 1. What a finite step does to the stationary
    law is then learned with the energy rather than left as an error of the sampler.
    """

    width: int = 128
    depth: int = 2  # hidden layers
    zoom: float = 4.0  # factor on the network's input: in bare coordinates it learns edges and thin arms too slowly
    steps: int = 6_000
    batch: int = 128  # points a step, and chains a step
    learning_rate: float = 3e-3  # decayed to zero by a cosine
    average: float = 0.999  # of the weights: contrastive divergence circles its optimum, the average lies inside
    buffer: int = 8  # batches of chains that are kept
    restart: float = 0.005  # share of the chains in use begun anew; a chain lives 1000 Langevin steps on average
    chain_steps: int = 5  # Langevin steps a training step
    step_size: float = 1e-4  # a quarter of the variance across a ring, the thinnest thing in the six sets
    magnitude: float = 1e-3  # weight of the squared energies, which keeps their level near 0
    wall: float = 1.5  # chains are reflected at +-wall in each coordinate


def fit_gaussian(points: Points) -> Fitted:
    """Maximum likelihood of a Gaussian with full covariance."""
    start = time.perf_counter()
    mean = points.mean(axis=0, dtype=np.float64)
    root = np.linalg.cholesky(np.cov(points.T, ddof=0, dtype=np.float64))

    def sample(n: int, key: PRNGKeyArray) -> Points:
        return (mean + np.asarray(jax.random.normal(key, (n, 2))) @ root.T).astype(np.float32)

    return Fitted("Gaussian", sample, time.perf_counter() - start, calls=0)


class VAE(eqx.Module):
    """Encoder to the mean and log-deviation of each latent, decoder to the mean of the point; both on one example."""

    encoder: Callable[[Float[Array, "2"]], Float[Array, " twice_latent"]]
    decoder: Callable[[Float[Array, " latent"]], Float[Array, "2"]]
    log_deviation: Float[Array, ""]  # of the decoder's noise, one for both coordinates


def kl_to_standard(mean: Float[Array, " latent"], log_deviation: Float[Array, " latent"]) -> Float[Array, ""]:
    """KL divergence, in nats, of a diagonal Gaussian from the standard one (Kingma & Welling 2014, Appendix B)."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(2.0 * log_deviation) - 1.0 - 2.0 * log_deviation)


def negative_elbo(vae: VAE, point: Float[Array, "2"], key: PRNGKeyArray) -> Float[Array, ""]:
    """One-draw estimate, in nats, of a bound on `-log p(point)` (Kingma & Welling 2014, arXiv 1312.6114, Eq. 7)."""
    mean, log_deviation = jnp.split(vae.encoder(point), 2)
    latent = mean + jnp.exp(log_deviation) * jax.random.normal(key, mean.shape)
    away = (point - vae.decoder(latent)) * jnp.exp(-vae.log_deviation)
    reconstruction = jnp.sum(0.5 * away**2 + vae.log_deviation + 0.5 * LOG_TWO_PI)
    return reconstruction + kl_to_standard(mean, log_deviation)


def fit_vae(points: Points, config: VAEConfig, key: PRNGKeyArray, session: Session | None = None) -> Fitted:
    """Maximize the evidence lower bound of points in the unit box."""
    start = time.perf_counter()
    encoder_key, decoder_key, train_key = jax.random.split(key, 3)
    shape = {"width_size": config.width, "depth": config.depth, "activation": jax.nn.silu}
    vae = VAE(
        eqx.nn.MLP(2, 2 * config.latent, key=encoder_key, **shape),
        eqx.nn.MLP(config.latent, 2, key=decoder_key, **shape),
        jnp.asarray(config.log_deviation),
    )
    # An MLP holds its activation as a leaf, which is no array: optimizer and loop get the rest.
    params, static = eqx.partition(vae, eqx.is_array)
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=True)

    def loss(params: VAE, batch: Float[Array, "batch 2"], key: PRNGKeyArray) -> Float[Array, ""]:
        keys = jax.random.split(key, config.batch)
        return jnp.mean(jax.vmap(negative_elbo, in_axes=(None, 0, 0))(eqx.combine(params, static), batch, keys))

    def update(learner: Learner, _: None, data: Float[Array, "n 2"], key: PRNGKeyArray) -> tuple[Learner, Metrics]:
        batch_key, loss_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(learner.params, _batch(data, config.batch, batch_key), loss_key)
        return gradient_step(learner, gradient, optimizer, config.average), {"negative_elbo": value}

    learner = _fit_one(update, init_learner(params, optimizer), points, train_key, config.steps, session)
    fitted = eqx.combine(learner.average, static)

    def sample(n: int, key: PRNGKeyArray) -> Points:
        return np.asarray(_decode(fitted, jax.random.normal(key, (n, config.latent + 2))))

    return Fitted("VAE", sample, time.perf_counter() - start, calls=1)


def reflect(points: Float[Array, "n 2"], wall: float) -> Float[Array, "n 2"]:
    """Fold the plane into the box [-wall, wall]^2, as mirrors at its sides would, however far a point has gone."""
    return wall - jnp.abs(jnp.mod(points + wall, 4.0 * wall) - 2.0 * wall)


def langevin(
    energy: EnergyFunction, points: Float[Array, "n 2"], key: PRNGKeyArray, *, steps: int, step_size: float, wall: float
) -> Float[Array, "n 2"]:
    """Unadjusted Langevin chains at temperature 1: `x <- x - step_size grad E(x) + sqrt(2 step_size) noise`.

    As the step goes to 0, their stationary law is `exp(-E)` in the box: reflection at the walls leaves it as it is,
    clipping would pile up points on the edge. Nothing is tempered, unlike in Du & Mordatch (2019), whose noise is far
    smaller than their step asks for.

    Args:
        energy: energy of one point, in nats.
        points: where the chains begin.
        key: of all the noise.
        steps: calls of the energy's gradient.
        step_size: in squared units of the box.
        wall: half the side of the box that holds the chains.
    """

    def one_step(points: Float[Array, "n 2"], key: PRNGKeyArray) -> tuple[Float[Array, "n 2"], None]:
        noise = jnp.sqrt(2.0 * step_size) * jax.random.normal(key, points.shape)
        return reflect(points - step_size * jax.vmap(jax.grad(energy))(points) + noise, wall), None

    return jax.lax.scan(one_step, points, jax.random.split(key, steps))[0]


class EnergyNetwork(eqx.Module):
    """A scalar network of the zoomed point."""

    net: eqx.nn.MLP
    zoom: float = eqx.field(static=True)

    def __call__(self, point: Float[Array, "2"]) -> Float[Array, ""]:
        """The energy of one point, in nats."""
        return self.net(self.zoom * point)


class EBMState(NamedTuple):
    """What contrastive divergence carries from step to step."""

    learner: Learner
    chains: Float[Array, "buffer batch 2"]


def fit_ebm(
    points: Points, config: EBMConfig, key: PRNGKeyArray, session: Session | None = None
) -> tuple[Fitted, Fitted]:
    """One model of points in the unit box, to be sampled by short and by long chains.

    It is trained by persistent contrastive divergence with a replay buffer: Du & Mordatch (2019, arXiv 1903.08689),
    Algorithm 1, but for their spectral normalization, which so small a network does without.
    """
    start = time.perf_counter()
    net_key, chain_key, train_key = jax.random.split(key, 3)
    net = eqx.nn.MLP(2, "scalar", config.width, config.depth, jax.nn.silu, key=net_key)
    params, static = eqx.partition(EnergyNetwork(net, config.zoom), eqx.is_array)
    optimizer = cosine_adam(config.learning_rate, config.steps, cosine=True)
    walk = {"step_size": config.step_size, "wall": config.wall}

    def loss(params: EnergyNetwork, real: Float[Array, "batch 2"], fake: Float[Array, "batch 2"]) -> Float[Array, ""]:
        energy = jax.vmap(eqx.combine(params, static))
        low, high = energy(real), energy(fake)
        return jnp.mean(low) - jnp.mean(high) + config.magnitude * jnp.mean(low**2 + high**2)

    def update(state: EBMState, _: None, data: Float[Array, "n 2"], key: PRNGKeyArray) -> tuple[EBMState, Metrics]:
        slot_key, restart_key, begin_key, walk_key, batch_key = jax.random.split(key, 5)
        slot = jax.random.randint(slot_key, (), 0, config.buffer)
        anew = jax.random.bernoulli(restart_key, config.restart, (config.batch, 1))
        fake = jnp.where(anew, _uniform(begin_key, config.batch), state.chains[slot])
        fake = langevin(eqx.combine(state.learner.params, static), fake, walk_key, steps=config.chain_steps, **walk)
        real = _batch(data, config.batch, batch_key)
        value, gradient = jax.value_and_grad(loss)(state.learner.params, real, fake)
        learner = gradient_step(state.learner, gradient, optimizer, config.average)
        return EBMState(learner, state.chains.at[slot].set(fake)), {"contrastive_loss": value}

    chains = _uniform(chain_key, config.buffer * config.batch).reshape(config.buffer, config.batch, 2)
    state = EBMState(init_learner(params, optimizer), chains)
    state = _fit_one(update, state, points, train_key, config.steps, session)
    energy = eqx.combine(state.learner.average, static)
    seconds = time.perf_counter() - start

    def sampler(steps: int) -> Fitted:
        def sample(n: int, key: PRNGKeyArray) -> Points:
            begin_key, walk_key = jax.random.split(key)
            return np.asarray(_langevin(energy, _uniform(begin_key, n), walk_key, steps=steps, **walk))

        return Fitted(f"EBM, {steps} steps", sample, seconds, calls=steps)

    return sampler(EBM_CALLS[0]), sampler(EBM_CALLS[1])


_langevin = eqx.filter_jit(langevin)


@eqx.filter_jit
def _decode(vae: VAE, noise: Float[Array, "n latent_and_2"]) -> Float[Array, "n 2"]:
    # The noise is part of the model: without it, samples would be a smooth sheet rather than a density.
    return jax.vmap(vae.decoder)(noise[:, :-2]) + jnp.exp(vae.log_deviation) * noise[:, -2:]


def _batch(data: Float[Array, "n 2"], size: int, key: PRNGKeyArray) -> Float[Array, "size 2"]:
    return data[jax.random.randint(key, (size,), 0, data.shape[0])]


def _uniform(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    # In the unit box, where the data is; the walls lie further out.
    return jax.random.uniform(key, (n, 2), minval=-1.0, maxval=1.0)


def _fit_one(
    update: Update[State], state: State, points: Points, key: PRNGKeyArray, steps: int, session: Session | None
) -> State:
    """The training loop for a single member: its axis is put on, and taken off again."""
    data, stacked = jnp.asarray(points, jnp.float32), jax.tree.map(lambda leaf: leaf[None], state)
    stacked = fit(update, stacked, member_data=None, shared_data=data, keys=key[None], steps=steps, session=session)
    return jax.block_until_ready(jax.tree.map(lambda leaf: leaf[0], stacked))
