"""The bottleneck diffusion model (EDA, Section 3.1): a scalar network whose action gradient is the score.

`f(a_t | s, t)` is one number. Its gradient gives the noise prediction, `eps = -sigma_t grad f` (Eq. 9), so that at the
optimum `f = log mu_t(a_t | s, t) + C(s, t)` (Eq. 11): one forward pass is a log-density up to a constant of (s, t).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tiltrl.config_io import check_ranges
from tiltrl.diffusion.schedule import alpha_sigma, log_snr
from tiltrl.errors import InputError


@dataclass(frozen=True)
class EnergyConfig:
    """Shape of the bottleneck network. The defaults are the paper's (EDA, Appendix D and the authors' release)."""

    action_width: int = 128  # the action's share of the embedding
    time_width: int = 32  # the diffusion time's share
    obs_width: int = 96  # the observation's share
    blocks: int = 3  # residual blocks
    expansion: int = 4  # hidden width of a block, as a multiple of the embedding
    dropout: float = 0.1  # on each block's input, while training the behavior only
    time_features: int = 32  # Gaussian Fourier features of t: half sines, half cosines
    time_scale: float = 30.0  # standard deviation of the (fixed) Fourier frequencies
    time_input: Literal["t", "log_snr"] = "t"  # what those features are of; log_snr: a quarter of lambda_t
    action_scale: float | None = None  # deviation of clean actions, to precondition by; None: f is the bare network
    detail: float = 0.2  # the finest structure that preconditioning amplifies, as a share of `action_scale`

    def __post_init__(self) -> None:
        """Refuse what is no network, or none that fits into a computer: shapes may come from a file of anybody's.

        Raises:
            InputError: a number lies outside its bounds, or `time_features` is odd.
        """
        check_ranges(
            self,
            action_width=(1, 8192),
            time_width=(1, 8192),
            obs_width=(1, 8192),
            blocks=(0, 64),
            expansion=(1, 64),
            dropout=(0, 0.99),
            time_features=(2, 8192),
            time_scale=(0, 1e6),
            action_scale=(1e-6, 1e6),
            detail=(0, 1e6),
        )
        if self.time_features % 2:
            raise InputError(
                f"time_features = {self.time_features}; half are sines, half cosines: give an even number from 2 on"
            )

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.action_width + self.time_width + self.obs_width


def linear(layer: eqx.nn.Linear, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    """The layer on every row.

    Not `jax.vmap(layer)(x)`: its product `W x` has the batch last, and each layer would be transposed back.
    """
    assert layer.bias is not None, "every layer of this network has one"
    return x @ layer.weight.T + layer.bias


class Block(eqx.Module):
    """Residual block `h + fc2(silu(fc1(layer_norm(dropout(h)))))`."""

    norm: eqx.nn.LayerNorm
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    dropout: float = eqx.field(
        static=True
    )  # static: every leaf of a model is an array, so optax and vmap take it whole

    def __init__(self, width: int, hidden: int, dropout: float, *, key: PRNGKeyArray):
        k1, k2 = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.fc1 = eqx.nn.Linear(width, hidden, key=k1)
        self.fc2 = eqx.nn.Linear(hidden, width, key=k2)
        self.dropout = dropout

    def __call__(self, h: Float[Array, "rows width"], *, key: PRNGKeyArray | None = None) -> Float[Array, "rows width"]:
        """The block on every row; with a key, dropout is on."""
        x = h if key is None else eqx.nn.Dropout(self.dropout)(h, key=key)
        return h + linear(self.fc2, jax.nn.silu(linear(self.fc1, jax.vmap(self.norm)(x))))


class Energy(eqx.Module):
    """The scalar network `f(a_t | s, t)`, on one example or on any batch of them.

    Give batches whole rather than by `jax.vmap`: the rows then share one matrix product a layer. Its inputs are in the
    networks' units (`types.Scaling`): actions lie in [-1, 1] before diffusion.

    With an `action_scale` s the network `g` learns only what a Gaussian of that deviation does not explain:
    `f(a_t) = -c^2 |a_t|^2 / 2 + alpha s (sigma^2 + d^2)^(-1/2) g(c a_t)`, `c = (sigma^2 + alpha^2 s^2)^(-1/2)`. It then
    reads inputs and is asked for gradients of size one at every t, where a bare network must span two decades. With
    d = 0 these are the factors of Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*
    (NeurIPS 2022, Table 1), integrated over the action. But densities stay finite as sigma falls, and an unbounded gain
    makes energies noisy there: d = `detail` s is the deviation below which g is left to its own slopes.
    """

    frequencies: Float[Array, " half"]
    embed_time: eqx.nn.Linear
    time_out: eqx.nn.Linear
    embed_action: eqx.nn.Linear
    embed_obs: eqx.nn.Linear
    join: eqx.nn.Linear
    blocks: tuple[Block, ...]
    out: eqx.nn.Linear
    action_scale: float | None = eqx.field(static=True)
    detail: float = eqx.field(static=True)
    time_input: Literal["t", "log_snr"] = eqx.field(static=True)

    def __init__(self, obs_dim: int, act_dim: int, config: EnergyConfig, *, key: PRNGKeyArray):
        keys = iter(jax.random.split(key, 7 + config.blocks))
        self.frequencies = config.time_scale * jax.random.normal(next(keys), (config.time_features // 2,))
        self.embed_time = eqx.nn.Linear(config.time_features, config.time_width, key=next(keys))
        self.time_out = eqx.nn.Linear(config.time_width, config.time_width, key=next(keys))
        self.embed_action = eqx.nn.Linear(act_dim, config.action_width, key=next(keys))
        self.embed_obs = eqx.nn.Linear(obs_dim, config.obs_width, key=next(keys))
        self.join = eqx.nn.Linear(config.width, config.width, key=next(keys))
        self.out = eqx.nn.Linear(config.width, act_dim, key=next(keys))
        self.action_scale = config.action_scale
        self.detail = config.detail
        self.time_input = config.time_input
        hidden = config.expansion * config.width
        self.blocks = tuple(Block(config.width, hidden, config.dropout, key=next(keys)) for _ in range(config.blocks))

    @property
    def act_dim(self) -> int:
        """Number of action dimensions."""
        return self.out.weight.shape[0]

    @property
    def noise_dim(self) -> int:
        """Numbers of noise that a sample begins with."""
        return self.act_dim

    def __call__(
        self,
        action: Float[Array, "*batch act"],
        obs: Float[Array, "*#batch obs"],
        t: Float[Array, "*#batch"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "*batch"]:
        """`f(a_t | s, t)`. With a key, dropout is on; without, the network is deterministic.

        Observations and times are broadcast: what many actions share, such as the state of K candidates, is embedded
        once.
        """
        if self.action_scale is None:
            return self._network(action, obs, t, key)
        alpha, sigma = alpha_sigma(t)
        c = jax.lax.rsqrt(sigma**2 + (alpha * self.action_scale) ** 2)[..., None]
        gain = alpha * self.action_scale * jax.lax.rsqrt(sigma**2 + (self.detail * self.action_scale) ** 2)
        scaled = c * action
        return -0.5 * jnp.sum(scaled**2, axis=-1) + gain * self._network(scaled, obs, t, key)

    def _network(
        self,
        action: Float[Array, "*batch act"],
        obs: Float[Array, "*#batch obs"],
        t: Float[Array, "*#batch"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "*batch"]:
        moment = t if self.time_input == "t" else log_snr(t) / 4.0
        angles = 2.0 * jnp.pi * moment[..., None] * jax.lax.stop_gradient(self.frequencies)
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        time = linear(self.time_out, jax.nn.silu(linear(self.embed_time, features)))
        # `join` of the three embeddings side by side, as a sum of three products.
        sizes = self.embed_action.weight.shape[0], self.time_out.weight.shape[0]
        by_action, by_time, by_obs = jnp.split(self.join.weight.T, [sizes[0], sum(sizes)])
        assert self.join.bias is not None, "it has one"
        shared = time @ by_time + linear(self.embed_obs, obs) @ by_obs + self.join.bias
        h = linear(self.embed_action, action) @ by_action + shared
        lead, h = h.shape[:-1], h.reshape(-1, h.shape[-1])
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        for block, block_key in zip(self.blocks, keys, strict=True):
            h = block(h, key=block_key)
        return jnp.sum(linear(self.out, jax.nn.silu(h)), axis=-1).reshape(lead)


Field = Callable[..., Float[Array, "*batch"]]
"""`(a_t, s, t, key=None) -> f`: an energy network, or a sum of several."""


def noise_prediction(
    energy: Field,
    action: Float[Array, "*batch act"],
    obs: Float[Array, "*#batch obs"],
    t: Float[Array, "*#batch"],
    *,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "*batch act"]:
    """`eps(a_t | s, t) = -sigma_t grad_a f` (Eq. 9)."""
    _, sigma = alpha_sigma(t)
    # The gradient of a sum: no row's energy depends on another's action.
    return -sigma[..., None] * jax.grad(lambda a: jnp.sum(energy(a, obs, t, key=key)))(action)


def data_prediction(
    energy: Field,
    action: Float[Array, "*batch act"],
    obs: Float[Array, "*#batch obs"],
    t: Float[Array, "*#batch"],
) -> Float[Array, "*batch act"]:
    """The clean action expected given `a_t`: `(a_t - sigma_t eps) / alpha_t`."""
    alpha, sigma = (scale[..., None] for scale in alpha_sigma(t))
    return (action - sigma * noise_prediction(energy, action, obs, t)) / alpha
