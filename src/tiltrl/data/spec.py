"""How data sets are named: `a+b`, `d4rl:hopper-medium-v2`, `log.npz?obs=state&action=u`, `runs/x[:0.1]`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """What a file of arrays calls each field; None: found by its usual names."""

    obs: tuple[str, ...] = ()  # several are joined, in this order; (): found
    action: str | None = None
    reward: str | None = None  # where a file has none, rewards are zero
    next_obs: str | None = None
    terminal: str | None = None
    timeout: str | None = None
    episode: str | None = None  # a number that is the same for all steps of one episode
    env: str | None = None  # id of the Gymnasium environment to evaluate in, such as Hopper-v5
