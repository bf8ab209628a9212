"""Exported energies and critics: numbers for actions, in NumPy."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tiltrl.errors import InputError
from tiltrl.runtime.model import Model
from tiltrl.runtime.observations import rows, vectors


class Energy:
    """`f(a | s, t)`: log-density of actions up to a constant of state and time; compare actions of one state only."""

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1):
        """Open an exported energy.

        Raises:
            InputError: the file cannot be used, is of another kind, or onnxruntime is not installed.
        """
        self._model = Model(path, "energy", threads)
        self.card = self._model.card

    def __call__(self, obs: Any, action: Any, t: Any = 0.0) -> np.ndarray:
        """Energies (*batch,) of actions (*batch, act) at observations (*batch, obs) and times in [0, 1].

        A time is one number or (*batch,); 0 means as little noise as the network was trained with, 0.001.

        Raises:
            InputError: sizes do not fit, a value is not finite, or a time lies outside [0, 1].
        """
        obs, action, lead = _pairs(self._model, obs, action)
        try:
            times = np.broadcast_to(np.asarray(t, np.float32), lead).reshape(-1)
        except (TypeError, ValueError) as error:
            raise InputError(f"t: {error}; one time, or one for each of the {lead} observations") from error
        if not ((times >= 0.0) & (times <= 1.0)).all():
            raise InputError(f"t = {t!r:.100}; diffusion times lie in [0, 1]")
        (energy,) = self._model.run({"obs": obs, "action": action, "t": times})
        return energy.reshape(lead)


class Critic:
    """`Q(s, a)` as the policy's candidates are compared by it."""

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1):
        """Open an exported critic.

        Raises:
            InputError: the file cannot be used, is of another kind, or onnxruntime is not installed.
        """
        self._model = Model(path, "critic", threads)
        self.card = self._model.card

    def __call__(self, obs: Any, action: Any) -> np.ndarray:
        """Values (*batch,) of actions (*batch, act) at observations (*batch, obs), in the environment's units.

        Raises:
            InputError: sizes do not fit, or a value is not finite.
        """
        obs, action, lead = _pairs(self._model, obs, action)
        (value,) = self._model.run({"obs": obs, "action": action})
        return value.reshape(lead)


def _pairs(model: Model, obs: Any, action: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Observations and actions row by row, and their common leading shape."""
    card = model.card
    states, actions = vectors(obs, card.obs_keys, card.obs_dim), rows("action", action, card.act_dim)
    lead = states.shape[:-1]
    if lead != actions.shape[:-1]:
        raise InputError(f"obs has leading shape {lead}, action {actions.shape[:-1]}; one action for each observation")
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise InputError("obs or action holds NaN or infinite values; finite numbers are needed")
    return states.reshape(-1, card.obs_dim), actions.reshape(-1, card.act_dim), lead
