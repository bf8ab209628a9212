"""What an exported file says of itself: the JSON in its metadata, checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from tiltrl.errors import InputError

FORMAT = 2
KINDS = ("policy", "energy", "critic")
CHOICES = ("best", "mean")
SCORE = "denoising_error"
"""The output that says how unusual an action is."""
_MOST_TEXT = 1_000_000  # characters; a table of a thousand quantiles has some thirty thousand
_MOST_SIZE = 1_000_000
_MOST_CANDIDATES = 10_000


@dataclass(frozen=True)
class Anomaly:
    """What is usual: the scores of the logged actions by a behavior model, the larger the stranger; and observations.

    `shares[i]`, ascending, of them have a score of `scores[i]`, descending, or more.
    """

    score: str  # name of the output
    shares: np.ndarray
    scores: np.ndarray
    low: np.ndarray  # where parts of an observation begin and end to be beyond anything logged
    high: np.ndarray

    def share(self, score: float | np.ndarray, obs: np.ndarray) -> Any:
        """The empirical p-value: the share of logged actions that score as much, linear between the table's rows.

        0 for what scores as the most unusual of them or more, and whatever the score, which far from all data may be
        any, for an observation of which a part lies further outside of the logged range than half of its width.

        Args:
            score: one, or one for each row.
            obs: (obs,) or (rows, obs).
        """
        within = np.logical_and.reduce((obs >= self.low) & (obs <= self.high), axis=-1)
        return within * np.interp(-score, -self.scores, self.shares, left=0.0, right=1.0)


@dataclass(frozen=True)
class Card:
    """What an exported file is, and what acting with it needs."""

    kind: str  # "policy", "energy" or "critic"
    obs_dim: int
    act_dim: int
    candidates: int  # actions drawn for each observation. 1 where it is no policy
    choice: str  # taken of several: "best", the critic's favorite, or "mean"
    action_low: tuple[float, ...]  # bounds, in the environment's units
    action_high: tuple[float, ...]
    dataset: str
    env_id: str | None  # the environment that the data was recorded in
    obs_keys: tuple[str, ...]  # parts of a Dict observation in the order they are joined; none: plain vectors
    anomaly: Anomaly | None
    facts: Mapping[str, Any]  # the whole description as it stands in the file: license, versions, parity and the like

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name of each of the model's inputs, and its shape without the batch."""
        obs, action = (self.obs_dim,), (self.act_dim,)
        return {
            "policy": {"obs": obs, "noise": (self.candidates, self.act_dim)},
            "energy": {"obs": obs, "action": action, "t": ()},
            "critic": {"obs": obs, "action": action},
        }[self.kind]

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Name of each of the model's outputs, and its shape without the batch."""
        if self.kind == "policy":
            return {"action": (self.act_dim,)} | ({self.anomaly.score: ()} if self.anomaly else {})
        return {"energy": ()} if self.kind == "energy" else {"value": ()}


def read_card(text: str, where: str) -> Card:
    """The description in a file's metadata.

    Args:
        text: its JSON.
        where: what messages begin with, such as the file's path.

    Raises:
        InputError: it is not the JSON of a description, is of another version, or a field is missing or wrong.
    """
    if len(text) > _MOST_TEXT:
        raise InputError(f"{where}: its description has {len(text)} characters; at most {_MOST_TEXT} are read")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: its description is not JSON: {error}") from error
    whole = _Fields(value, f"{where}: its description")
    found = whole.get("format")
    if found != FORMAT or isinstance(found, bool):
        raise InputError(
            f"{where}: is of format {found!r:.40}, and this version of tiltrl reads {FORMAT}; export the policy with "
            "the version that runs it"
        )
    kind = whole.text("kind")
    if kind not in KINDS:
        raise InputError(f"{where}: its description: kind is {kind!r:.40}; one of {', '.join(KINDS)} is needed")
    obs_dim, act_dim = (whole.size(name, _MOST_SIZE) for name in ("obs_dim", "act_dim"))
    low, high = (whole.numbers(name) for name in ("action_low", "action_high"))
    if len(low) != act_dim or len(high) != act_dim or any(a >= b for a, b in zip(low, high, strict=True)):
        raise InputError(
            f"{where}: its description: action_low and action_high are to be {act_dim} numbers each, low below high"
        )
    task = _Fields(whole.get("task"), f"{where}: its description: task")
    return Card(
        kind=kind,
        obs_dim=obs_dim,
        act_dim=act_dim,
        candidates=whole.size("candidates", _MOST_CANDIDATES) if kind == "policy" else 1,
        choice=_choice(whole) if kind == "policy" else "mean",
        action_low=low,
        action_high=high,
        dataset=task.text("dataset"),
        env_id=None if task.get("env_id") is None else task.text("env_id"),
        obs_keys=task.texts("obs_keys"),
        anomaly=_anomaly(whole.get("anomaly"), obs_dim, f"{where}: its description: anomaly"),
        facts=value,
    )


def _choice(whole: _Fields) -> str:
    found = whole.text("choice")
    return found if found in CHOICES else whole.wrong("choice", found, f"one of {', '.join(CHOICES)}")


def _anomaly(value: Any, obs_dim: int, where: str) -> Anomaly | None:
    if value is None:
        return None
    fields = _Fields(value, where)
    if (score := fields.text("score")) != SCORE:
        raise InputError(f"{where}: score is {score!r:.40}; {SCORE!r} is needed")
    rows = fields.get("quantiles")
    if not isinstance(rows, list) or len(rows) < 2:
        raise InputError(f"{where}: quantiles is {rows!r:.100}; at least two pairs [share, score] are needed")
    table = np.array([fields.checked_numbers(f"quantiles[{i}]", row, length=2) for i, row in enumerate(rows)])
    shares, scores = table.T
    ordered = (np.diff(shares) > 0).all() and (np.diff(scores) <= 0).all()
    if not ordered or shares[0] < 0 or shares[-1] > 1:
        raise InputError(f"{where}: the shares of quantiles are to ascend within 0 to 1, the scores to descend")
    low, high = (np.array(fields.checked_numbers(n, fields.get(n), obs_dim)) for n in ("obs_low", "obs_high"))
    if (low > high).any():
        raise InputError(f"{where}: obs_low lies above obs_high; the range of the logged observations is needed")
    return Anomaly(score, shares, scores, low - (high - low) / 2, high + (high - low) / 2)


class _Fields:
    """An object of the JSON, of which each field is asked for with what it has to be."""

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise InputError(f"{where} is {value!r:.100}; an object is needed")
        self._value = value
        self._where = where

    def get(self, name: str) -> Any:
        """The field, whatever it is."""
        if name not in self._value:
            raise InputError(f"{self._where}: {name} is missing")
        return self._value[name]

    def text(self, name: str) -> str:
        """A text."""
        value = self.get(name)
        return value if _is_text(value) else self.wrong(name, value, "a text that can be printed")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.get(name)
        if not isinstance(value, list) or not all(map(_is_text, value)):
            self.wrong(name, value, "a list of texts that can be printed")
        return tuple(value)

    def size(self, name: str, most: int) -> int:
        """A whole number from 1."""
        value = self.get(name)
        fits = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
        return value if fits else self.wrong(name, value, f"a whole number from 1 to {most}")

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return self.checked_numbers(name, self.get(name))

    def checked_numbers(self, name: str, value: Any, length: int | None = None) -> tuple[float, ...]:
        """The value as finite numbers."""
        fits = isinstance(value, list) and all(map(_is_finite, value)) and length in (None, len(value))
        return tuple(map(float, value)) if fits else self.wrong(name, value, _described(length))

    def wrong(self, name: str, value: Any, needed: str) -> NoReturn:
        """Refuse a field."""
        raise InputError(f"{self._where}: {name} is {value!r:.100}; {needed} is needed")


def _described(length: int | None) -> str:
    return "a list of finite numbers" if length is None else f"a list of {length} finite numbers"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()  # it is shown on terminals


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is no number")
