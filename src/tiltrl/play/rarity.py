"""How unusual an action is where it is taken."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tiltrl.policy import Policy

_DRAWS = 64
_TIME = 0.1
"""Diffusion time of the energies: early enough to tell actions apart, late enough for the network to know the place."""


class Rarity:
    """The share of the behavior's own actions in a state that its energy finds likelier than a given action.

    Energies are known up to a constant of the state, so they are compared within one state only, with actions that the
    behavior draws there. Of those the shares are spread evenly over 0 to 1: an action above 0.95 is rarer than 95 % of
    what the behavior does there, and one in twenty of its own is.
    """

    def __init__(self, behavior: Policy):
        """Ask a behavior, whose own sequence of random numbers is left alone.

        Raises:
            InputError: it is distilled and has no energies.
        """
        _ = behavior.diffusion
        self._behavior = behavior.mean_of(1)

    def reset(self, seed: int) -> None:
        """Start the sequence of random numbers anew."""
        self._behavior.reset(seed)

    def __call__(self, obs: Float[np.ndarray, " obs"], action: Float[np.ndarray, " act"]) -> float:
        """The share, from 0 (the likeliest) to 1; all in the environment's units."""
        own = self._behavior.sample(np.repeat(obs[None], _DRAWS, axis=0))
        actions = np.concatenate([action[None], own])
        energy = self._behavior.energy(np.repeat(obs[None], len(actions), axis=0), actions, _TIME)
        return float(np.mean(energy[1:] > energy[0]))
