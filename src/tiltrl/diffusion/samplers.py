"""DPM-Solver++ of order 2 (Lu et al. 2022, arXiv 2211.01095), single- and multistep, in data prediction.

Both take `denoise(a_t, t) -> a_0`, noise at the first time, and a grid of times; both call `denoise` once an interval.
`h` below is the step in `lambda = log(alpha / sigma)`, in which the exact solution is linear in the prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tiltrl.diffusion.schedule import alpha_sigma, log_snr, log_snr_times, quadratic_times, uniform_times

Denoiser = Callable[[Float[Array, "*batch act"], Float[Array, ""]], Float[Array, "*batch act"]]
Solver = Literal["2m", "2mf", "2s"]
Grid = Literal["uniform", "log_snr", "quadratic"]


def _advance(
    action: Float[Array, "*batch act"], s: Float[Array, ""], t: Float[Array, ""], clean: Float[Array, "*batch act"]
) -> Float[Array, "*batch act"]:
    """Move from time s to t, exact where the data prediction is constant (DPM-Solver++-1, which is DDIM)."""
    alpha_t, sigma_t = alpha_sigma(t)
    _, sigma_s = alpha_sigma(s)
    return sigma_t / sigma_s * action - alpha_t * jnp.expm1(log_snr(s) - log_snr(t)) * clean


def dpmpp_2s(
    denoise: Denoiser, noise: Float[Array, "*batch act"], times: Float[Array, " calls+1"]
) -> Float[Array, "*batch act"]:
    """Singlestep: a second-order step spans two intervals, its inner point is the grid point between.

    An odd number of intervals ends with one step of first order. This is what the authors' release uses.
    """
    pairs = (times.shape[0] - 1) // 2

    def step(action: Array, stu: tuple[Array, Array, Array]) -> tuple[Array, None]:
        s, inner, t = stu
        first = denoise(action, s)
        middle = denoise(_advance(action, s, inner, first), inner)
        r = (log_snr(inner) - log_snr(s)) / (log_snr(t) - log_snr(s))
        return _advance(action, s, t, first + (middle - first) / (2.0 * r)), None

    starts = 2 * jnp.arange(pairs)
    action, _ = jax.lax.scan(step, noise, (times[starts], times[starts + 1], times[starts + 2]))
    if (times.shape[0] - 1) % 2:
        action = _advance(action, times[-2], times[-1], denoise(action, times[-2]))
    return action


def dpmpp_2m(
    denoise: Denoiser, noise: Float[Array, "*batch act"], times: Float[Array, " calls+1"]
) -> Float[Array, "*batch act"]:
    """Multistep: every step but the first extrapolates linearly from the previous prediction."""
    return _multistep(denoise, noise, times, _extrapolation(times))


def dpmpp_2mf(
    denoise: Denoiser, noise: Float[Array, "*batch act"], times: Float[Array, " calls+1"]
) -> Float[Array, "*batch act"]:
    """Multistep, the last step of first order too (DPM-Solver's `lower_order_final`): for few calls.

    To extrapolate over the longest of few steps in `lambda` adds noise to what is already the clean action, nearly.
    """
    return _multistep(denoise, noise, times, _extrapolation(times).at[-1:].set(0.0))


def _extrapolation(times: Float[Array, " calls+1"]) -> Float[Array, " calls-1"]:
    """By how much of the last change each step but the first goes beyond its prediction."""
    h = jnp.diff(log_snr(times))
    return 0.5 * h[1:] / h[:-1]


def _multistep(
    denoise: Denoiser,
    noise: Float[Array, "*batch act"],
    times: Float[Array, " calls+1"],
    weights: Float[Array, " calls-1"],
) -> Float[Array, "*batch act"]:
    first = denoise(noise, times[0])
    action = _advance(noise, times[0], times[1], first)

    def step(carry: tuple[Array, Array], stw: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        action, previous = carry
        s, t, weight = stw
        current = denoise(action, s)
        clean = current + weight * (current - previous)
        return (_advance(action, s, t, clean), current), None

    (action, _), _ = jax.lax.scan(step, (action, first), (times[1:-1], times[2:], weights))
    return action


SOLVERS = {"2m": dpmpp_2m, "2mf": dpmpp_2mf, "2s": dpmpp_2s}
GRIDS = {"uniform": uniform_times, "log_snr": log_snr_times, "quadratic": quadratic_times}


def sample(
    denoise: Denoiser, noise: Float[Array, "*batch act"], *, calls: int, solver: Solver, grid: Grid
) -> Float[Array, "*batch act"]:
    """Actions from standard normal noise after `calls` network calls, clipped to the unit box."""
    return jnp.clip(SOLVERS[solver](denoise, noise, GRIDS[grid](calls)), -1.0, 1.0)
