"""What people preferred: at a state, one action to others. Read from files, checked, and made alignment data.

A file holds pairs (`obs`, `chosen`, `rejected`) or answered questions (`obs`, the actions `a`, `b`, ..., and `choice`),
see docs/preferences.md.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from tiltrl.data.assemble import action_bounds
from tiltrl.data.columns import Rows, open_rows
from tiltrl.errors import InputError
from tiltrl.types import Candidates, Task

LETTERS = ascii_lowercase
"""What the actions of a question are called, in this order."""
CHOICE, TIE = "choice", "tie"

Contradictions = Literal["keep", "drop"]
"""What becomes of pairs of actions that were preferred both ways at the same state."""


@dataclass(frozen=True)
class Preferences:
    """Answered questions: at each state one action was preferred to m others; in the environment's units."""

    obs: Float[np.ndarray, "states obs"]
    chosen: Float[np.ndarray, "states act"]
    rejected: Float[np.ndarray, "states m act"]
    source: str  # the file, as messages name it
    unanswered: int = 0  # questions left out because nobody answered
    ties: int = 0  # or because no action was better
    contradictory: int = 0  # answers that another one contradicts
    contradictions: Contradictions = "keep"  # what became of those

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def k(self) -> int:
        """Actions to choose among."""
        return 1 + self.rejected.shape[1]

    @property
    def digest(self) -> str:
        """SHA-256 over the arrays: equal answers, equal digest, whatever the file."""
        digest = hashlib.sha256()
        for array in (self.obs, self.chosen, self.rejected):
            digest.update(f"{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def candidates(self) -> Candidates:
        """Alignment data in which q only says which action is best: 1 for the chosen one, 0 for the others.

        The chosen one's place varies: were it always the first, a policy without any opinion would seem to agree.
        Nor are states in the file's order, of which alignment holds out every so many-th.
        """
        rng = np.random.default_rng(0)
        order, best = rng.permutation(len(self)), rng.integers(self.k, size=len(self))
        first = np.concatenate([self.chosen[:, None], self.rejected], axis=1)[order]
        rows = np.arange(len(self))
        action = first.copy()
        action[rows, best], action[:, 0] = first[:, 0], first[rows, best]
        q = np.zeros((len(self), self.k), np.float32)
        q[rows, best] = 1.0
        return Candidates(self.obs[order], action, q)

    def describe(self) -> str:
        """What there is, and what was left out, in one line."""
        told = [f"preferences: {len(self)} answered questions of {self.source}, {self.k} actions each"]
        if self.unanswered or self.ties:
            told.append(f"{self.unanswered} unanswered and {self.ties} ties left out")
        if self.contradictory:
            what = "kept" if self.contradictions == "keep" else "dropped"
            told.append(f"{self.contradictory} contradict another one, {what}")
        return "; ".join(told)


def read_preferences(path: str | os.PathLike[str], task: Task, contradictions: Contradictions = "keep") -> Preferences:
    """Read a .csv, .parquet or .npz file of pairs or of answered questions.

    Args:
        path: the file. With a column `choice` it holds questions, else pairs.
        task: what the behavior was recorded in; sizes and bounds must agree.
        contradictions: whether answers that another one contradicts are kept.

    Raises:
        InputError: the file cannot be read, lacks a column, or holds what cannot be used; names the line or row.
    """
    with open_rows(Path(os.path.expanduser(path))) as rows:
        if CHOICE in rows.table.names:
            return _answered(rows, task, contradictions)
        obs, chosen, rejected = (rows.vectors(field) for field in ("obs", "chosen", "rejected"))
        return _checked(obs, chosen, rejected, task, contradictions, rows.where, rows.place)


def from_pairs(
    obs: ArrayLike,
    chosen: ArrayLike,
    rejected: ArrayLike,
    task: Task,
    contradictions: Contradictions = "keep",
    name: str = "preferences",
) -> Preferences:
    """Checked preferences from arrays with one row a state.

    Args:
        obs: (states, obs) what was seen.
        chosen: (states, act) the preferred action, in the environment's units.
        rejected: (states, act) or (states, m, act) what it was preferred to.
        task: what the behavior was recorded in, such as `policy.config.task`.
        contradictions: whether answers that another one contradicts are kept.
        name: how messages call them.

    Raises:
        InputError: sizes disagree, a value is not finite or out of bounds, or the chosen action is among the rejected.
    """
    given = {"obs": obs, "chosen": chosen, "rejected": rejected}
    found, best, others = (_array(value, field, name) for field, value in given.items())
    return _checked(found, best, others, task, contradictions, name, lambda row: f"row {row}")


def also_among(obs: Float[np.ndarray, "rows obs"], some: Bool[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Which rows' states are those of some of the rows, too: several people may have answered the same question."""
    states = {state.tobytes() for state in obs[some]}
    return np.array([state.tobytes() in states for state in obs], bool)


# --- Questions --------------------------------------------------------------------------------------------------------


def _answered(rows: Rows, task: Task, contradictions: Contradictions) -> Preferences:
    letters = LETTERS[: next((i for i, letter in enumerate(LETTERS) if not rows.has(letter)), len(LETTERS))]
    if len(letters) < 2:
        raise InputError(
            f"{rows.where}: holds {len(letters)} actions a question; two or more are needed to compare, as columns "
            f"a.0, a.1, ... and b.0, b.1, ...; it has {', '.join(rows.table.names)}"
        )
    obs, words = rows.vectors("obs"), rows.words(CHOICE)
    actions = {letter: rows.vectors(letter) for letter in letters}
    _same_length({"obs": obs, **actions, CHOICE: np.array(words)}, rows.where)
    choice = np.array([_choice(word, letters, rows, row) for row, word in enumerate(words)], np.int64)
    answered = np.flatnonzero(choice >= 0)
    ties = sum(word.lower() == TIE for word in words)
    if not len(answered):
        raise InputError(
            f"{rows.where}: none of its {len(words)} questions is answered; write {', '.join(letters)} into the column "
            f"{CHOICE}, or {TIE}"
        )
    numbers = [_numbers(actions[letter], letter, (task.act_dim,), rows.where, rows.place) for letter in letters]
    stacked, chosen = np.stack(numbers, axis=1)[answered], choice[answered]
    others = np.arange(len(letters)) != chosen[:, None]
    return _checked(
        obs[answered],
        stacked[~others],
        stacked[others].reshape(len(answered), -1, task.act_dim),
        task,
        contradictions,
        rows.where,
        lambda row: rows.place(int(answered[row])),
        unanswered=len(words) - len(answered) - ties,
        ties=ties,
    )


def _choice(word: str, letters: str, rows: Rows, row: int) -> int:
    """The index of the action that was chosen; -1 for none."""
    answer = re.sub(r"(?<=\d)\.0*$", "", word.lower())  # whole numbers with gaps are often written as 1.0
    if answer in ("", TIE):
        return -1
    numbers = [str(number) for number in range(1, len(letters) + 1)]
    if len(answer) == 1 and answer in letters:
        return letters.index(answer)
    if answer in numbers:
        return numbers.index(answer)
    raise InputError(
        f"{rows.where}: {rows.place(row)}, column {CHOICE}: {word!r:.80}; {', '.join(letters)} or {', '.join(numbers)} "
        f"is needed, or {TIE} or nothing for no answer"
    )


# --- Checks -----------------------------------------------------------------------------------------------------------


def _checked(
    obs: np.ndarray,
    chosen: np.ndarray,
    rejected: np.ndarray,
    task: Task,
    contradictions: Contradictions,
    where: str,
    place: Callable[[int], str],
    unanswered: int = 0,
    ties: int = 0,
) -> Preferences:
    _same_length({"obs": obs, "chosen": chosen, "rejected": rejected}, where)
    obs = _numbers(obs, "obs", (task.obs_dim,), where, place)
    if not len(obs):
        raise InputError(f"{where}: holds no answered question; one at least is needed")
    chosen = _numbers(chosen, "chosen", (task.act_dim,), where, place)
    if rejected.ndim == 1 and task.act_dim == 1:
        rejected = rejected[:, None]
    rejected = rejected[:, None] if rejected.ndim == 2 else rejected
    if rejected.ndim == 3 and not rejected.shape[1]:
        raise InputError(f"{where}: rejected has shape {rejected.shape}; a state needs one rejected action at least")
    m = rejected.shape[1] if rejected.ndim == 3 else 1
    rejected = _numbers(rejected, "rejected", (m, task.act_dim), where, place)
    chosen, rejected = (
        _within(array, field, task, where, place) for field, array in (("chosen", chosen), ("rejected", rejected))
    )
    equal = (chosen[:, None] == rejected).all(axis=2).any(axis=1)
    if equal.any():
        raise InputError(
            f"{where}: {place(int(np.argmax(equal)))}: the chosen action is also a rejected one; a question needs "
            f"actions that differ ({int(equal.sum())} such rows)"
        )
    against = _contradictory(obs, chosen, rejected)
    kept = np.ones(len(obs), bool) if contradictions == "keep" else ~against
    if not kept.any():
        raise InputError(f"{where}: every answer contradicts another one; nothing is left once those are dropped")
    counts = unanswered, ties, int(against.sum())
    return Preferences(obs[kept], chosen[kept], rejected[kept], where, *counts, contradictions)


def _array(value: Any, field: str, where: str) -> np.ndarray:
    """What somebody gave as one array; lists within lists may be no such thing."""
    try:
        return np.asarray(value)
    except ValueError as error:
        lengths = sorted({len(row) if isinstance(row, Sized) else 1 for row in value})
        found = f"rows of {lengths[0]} to {lengths[-1]} values" if len(lengths) > 1 else "lists of several lengths"
        raise InputError(f"{where}: {field} has {found}; every row needs as many numbers as any other") from error


def _same_length(fields: dict[str, np.ndarray], where: str) -> None:
    """Refuse fields that have not all one row a state."""
    lengths = {field: len(array) if array.ndim else None for field, array in fields.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = [f"{field} has {'no rows' if rows is None else rows}" for field, rows in lengths.items()]
        raise InputError(f"{where}: rows differ in number: {', '.join(told)}; each field needs one row a state")


def _numbers(
    array: np.ndarray, field: str, shape: tuple[int, ...], where: str, place: Callable[[int], str]
) -> Float[np.ndarray, "rows *shape"]:
    """Finite float32 numbers, each row of that shape; -0 becomes 0, which it equals."""
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where}: {field}: type {array.dtype}; numbers are needed")
    if array.ndim == 1 and shape == (1,):
        array = array[:, None]
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise InputError(
            f"{where}: {field} has rows of shape {array.shape[1:]}; the behavior's data needs {shape} (its states have "
            "as many numbers as obs, its actions as many as each action)"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
        found = array.astype(np.float32) + np.float32(0.0)
    bad = ~np.isfinite(found)
    if bad.any():
        row, *column = (int(index) for index in np.argwhere(bad)[0])
        inside = ".".join(map(str, column))
        raise InputError(
            f"{where}: {place(row)}, {field}.{inside}: {array[(row, *column)]!s}; finite float32 numbers are needed"
        )
    return found


def _within(
    action: Float[np.ndarray, "rows *m act"], field: str, task: Task, where: str, place: Callable[[int], str]
) -> Float[np.ndarray, "rows *m act"]:
    """The same actions, clipped to bounds that they exceed by rounding."""
    low, high, slack = action_bounds(task, where)
    outside = (action < low - slack) | (action > high + slack)
    if outside.any():
        row, *column = (int(index) for index in np.argwhere(outside)[0])
        inside = ".".join(map(str, column))
        raise InputError(
            f"{where}: {place(row)}, {field}.{inside}: {action[(row, *column)]!s}; the action space is "
            f"{task.action_low} to {task.action_high}"
        )
    return action.clip(low, high)


def _contradictory(
    obs: Float[np.ndarray, "rows obs"], chosen: Float[np.ndarray, "rows act"], rejected: Float[np.ndarray, "rows m act"]
) -> Bool[np.ndarray, " rows"]:
    """Which answers prefer one action to another where, at the same state, another answer has it the other way."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(obs)):
        groups[obs[row].tobytes()].append(row)
    found = np.zeros(len(obs), bool)
    for rows in groups.values():
        said = {(chosen[row].tobytes(), other.tobytes()) for row in rows for other in rejected[row]}
        for row in rows if len(rows) > 1 else ():
            found[row] = any((other.tobytes(), chosen[row].tobytes()) in said for other in rejected[row])
    return found
