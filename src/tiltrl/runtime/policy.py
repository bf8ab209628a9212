"""A policy on a robot's computer: actions, how unusual each is, and what is done where it must not act."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from tiltrl.errors import InputError
from tiltrl.runtime.model import Model, one_line
from tiltrl.runtime.observations import NOT_FINITE, SHAPE, TYPE, BadObservation, vectors

OUTPUT, ANOMALY = "output", "anomaly"
REASONS = (SHAPE, TYPE, NOT_FINITE, OUTPUT, ANOMALY)

Fallback = Callable[[Any], Any]
"""`(observation as it was given) -> action`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision."""

    action: np.ndarray  # (act,), float32, within the bounds, in the environment's units
    share: float | None  # empirical p-value: of logged actions at least as unusual; 0: none; None: unknown
    replaced: str | None  # why the action is the fallback's, one of `REASONS`; None: it is the policy's


class Policy:
    """An exported policy. Not for several threads at once: its random numbers are a sequence.

    Attributes:
        card: what the file says of itself.
        counts: how often each of `REASONS` occurred since the policy was opened, and "steps", of all observations.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        seed: int = 0,
        threads: int = 1,
        bound: float | None = None,
        fallback: np.ndarray | list[float] | Fallback | None = None,
        on_bad_input: Literal["raise", "fallback"] = "raise",
    ):
        """Open the file and run it once.

        Args:
            path: of a file that `tiltrl export` wrote.
            seed: fixes the sequence of noises, and so of actions.
            threads: how many onnxruntime computes with. One is mostly fastest, the networks being small.
            bound: actions whose `share` is below this are replaced by the fallback. None: none are.
            fallback: an action, or a function that makes one from the observation as it was given (from
                `act_batch`: its row). Default: the middle of the bounds.
            on_bad_input: what an observation does that has a wrong size or type, or NaN or infinite values, or for
                which the networks come out so or cannot be run: raise, or be answered by the fallback.

        Raises:
            InputError: an argument or the file cannot be used, or onnxruntime is not installed.
        """
        if on_bad_input not in ("raise", "fallback"):
            raise InputError(f"on_bad_input = {on_bad_input!r}; one of 'raise' and 'fallback' is needed")
        if bound is not None and not (isinstance(bound, Real) and 0.0 < bound < 1.0):
            raise InputError(f"bound = {bound!r}; a share above 0 and below 1 is needed, such as 0.001")
        self._model = Model(path, "policy", threads)
        self.card = card = self._model.card
        if bound is not None and card.anomaly is None:
            raise InputError(f"{os.fspath(path)}: was exported without --anomaly, so bound = {bound} cannot be held")
        self._bound = None if bound is None else float(bound)
        self._raises = on_bad_input == "raise"
        self._low, self._high = np.array(card.action_low, np.float32), np.array(card.action_high, np.float32)
        self._noise_shape = (card.candidates, card.act_dim)
        middle = (self._low + self._high) / 2
        self._fallback = fallback if callable(fallback) else self._fixed(middle if fallback is None else fallback)
        self.counts: dict[str, int] = dict.fromkeys(("steps", *REASONS), 0)
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Start the sequence of noises anew. Counts go on."""
        try:
            self._random = np.random.Generator(np.random.PCG64(seed))
        except (TypeError, ValueError) as error:
            raise InputError(f"seed = {seed!r}; a whole number from 0 is needed") from error

    def act(self, obs: Any) -> np.ndarray:
        """The action (act,) for one observation; as `step`, without what is known about it."""
        return self.step(obs).action

    def step(self, obs: Any) -> Step:
        """Decide for one observation.

        Args:
            obs: (obs,) in the environment's units, or a Dict as the environment gives it.

        Raises:
            BadObservation: an InputError, with `on_bad_input="raise"`.
            InputError: a fallback function returns what is no action.
        """
        self.counts["steps"] += 1
        noise = self._random.standard_normal((1, *self._noise_shape), np.float32)
        try:
            row = vectors(obs, self.card.obs_keys, self.card.obs_dim)
            if row.ndim != 1:
                raise BadObservation(SHAPE, f"obs has shape {row.shape}; one observation is needed, else `act_batch`")
            if not np.isfinite(row).all():
                raise BadObservation(NOT_FINITE, "obs holds NaN or infinite values")
            action, *score = self._run(row[None], noise)
            if not (np.isfinite(action).all() and all(map(np.isfinite, score))):
                raise BadObservation(OUTPUT, "the networks come out as NaN or infinite for this obs")
        except BadObservation as error:
            self.counts[error.reason] += 1
            if self._raises:
                raise
            return Step(self._instead(obs), None, error.reason)
        share = float(self.card.anomaly.share(score[0][0], row)) if self.card.anomaly else None
        if self._bound is not None and share is not None and share < self._bound:
            self.counts[ANOMALY] += 1
            return Step(self._instead(obs), share, ANOMALY)
        return Step(self._within(action[0]), share, None)

    def act_batch(self, obs: Any) -> np.ndarray:
        """Actions (batch, act) for observations (batch, obs): by the noises and rules of as many calls of `step`.

        Raises:
            BadObservation: the array as a whole has a wrong size or type, or onnxruntime fails on it; or, with
                `on_bad_input="raise"`, a row is not finite or has no finite action.
            InputError: a fallback function returns what is no action.
        """
        given = vectors(obs, self.card.obs_keys, self.card.obs_dim)
        if given.ndim != 2 or not len(given):
            raise BadObservation(SHAPE, f"obs has shape {given.shape}; (batch, {self.card.obs_dim}) is needed")
        self.counts["steps"] += len(given)
        noise = self._random.standard_normal((len(given), *self._noise_shape), np.float32)
        fine = np.logical_and.reduce(np.isfinite(given), axis=1)
        action, *score = self._run(np.where(fine[:, None], given, np.float32(0)), noise)
        sound = np.logical_and.reduce(np.isfinite(np.column_stack([action, *score])), axis=1)
        wrong = {NOT_FINITE: ~fine, OUTPUT: fine & ~sound}
        if self._bound is not None and self.card.anomaly is not None:
            wrong[ANOMALY] = fine & sound & (self.card.anomaly.share(score[0], given) < self._bound)
        for reason, rows in wrong.items():
            self.counts[reason] += int(rows.sum())
        if self._raises and not (fine & sound).all():
            first = np.flatnonzero(~(fine & sound))[0]
            reason = OUTPUT if fine[first] else NOT_FINITE
            raise BadObservation(reason, f"obs[{first}] is not finite, or the networks come out so for it")
        action = self._within(action)
        for i in np.flatnonzero(np.logical_or.reduce(list(wrong.values()))):
            action[i] = self._instead(given[i])
        return action

    def _run(self, obs: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        try:
            return self._model.run({"obs": obs, "noise": noise})
        except Exception as error:  # onnxruntime's exceptions have no common class of their own
            raise BadObservation(OUTPUT, f"the networks cannot be run for this obs: {one_line(error)}") from error

    def _within(self, action: np.ndarray) -> np.ndarray:
        """Within the bounds, whatever the file computes."""
        return np.minimum(np.maximum(action, self._low), self._high)

    def _instead(self, obs: Any) -> np.ndarray:
        """The fallback's action."""
        if callable(self._fallback):
            return self._within(self._checked(self._fallback(obs)))
        return self._fallback.copy()

    def _fixed(self, fallback: Any) -> np.ndarray:
        action = self._checked(fallback)
        if (self._within(action) != action).any():
            raise InputError(
                f"fallback is {action.tolist()}; within {self._low.tolist()} and {self._high.tolist()} is needed"
            )
        return action

    def _checked(self, fallback: Any) -> np.ndarray:
        try:
            action = np.asarray(fallback, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"fallback is {fallback!r:.100}; an action is needed") from error
        if action.shape != self._low.shape or not np.isfinite(action).all():
            raise InputError(f"fallback is {action.tolist()!r:.100}; {len(self._low)} finite numbers are needed")
        return action
