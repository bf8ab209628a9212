"""Whatever the episodes: written in any format and loaded again, they are the same numbers; Minari sees them too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic import ENV_SPEC

from tiltrl.data import load
from tiltrl.data.describe import describe
from tiltrl.data.transforms import join
from tiltrl.data.write import write_d4rl, write_minari, write_npz
from tiltrl.environments import in_order
from tiltrl.types import Task, Transitions

FORMATS: dict[str, Callable[[Transitions, Path], None]] = {
    "set": lambda data, path: write_minari(data, path, "set-v0"),
    "set.npz": write_npz,
    "set.hdf5": write_d4rl,
    "set.h5": write_d4rl,
}
every_format = pytest.mark.parametrize(("name", "write"), FORMATS.items(), ids=FORMATS)
bounded = settings(max_examples=30, deadline=None, database=None, derandomize=True)
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def numbers(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, shape, elements=FLOATS)


@st.composite
def logs(draw: st.DrawFn, obs_dim: int | None = None) -> Transitions:
    """Episodes of any lengths (one has a second step) and ends; each starts anew; actions up to the very bounds."""
    lengths = draw(st.permutations([draw(st.integers(2, 6)), *draw(st.lists(st.integers(1, 6), max_size=5))]))
    obs_dim, act_dim = obs_dim or draw(st.integers(1, 4)), draw(st.integers(1, 3))
    steps, last = sum(lengths), np.cumsum(lengths) - 1
    ends = np.isin(np.arange(steps), last)
    terminal = np.zeros(steps, bool)
    terminal[last] = draw(arrays(bool, len(lengths)))
    rows = draw(numbers(steps + len(lengths), obs_dim))  # one more observation than steps in each episode
    after = np.arange(steps) + 1 + np.cumsum(ends) - ends
    bounds = draw(st.lists(st.tuples(st.floats(-9, 0, width=32), st.floats(0.5, 9, width=32)), min_size=3, max_size=3))
    low, high = (np.array(side[:act_dim], np.float32) for side in zip(*bounds, strict=True))
    share = draw(arrays(np.float32, (steps, act_dim), elements=st.floats(0, 1, width=32)))
    references = draw(st.sampled_from([(None, None), (-1.5, 100.25)]))
    return Transitions(
        obs=rows[after - 1],
        action=(low + share * (high - low)).clip(low, high),
        reward=draw(numbers(steps)),
        next_obs=rows[after],
        terminal=terminal,
        timeout=ends & ~terminal,
        task=Task(
            "set",
            draw(st.sampled_from([None, ENV_SPEC])),
            tuple(low.astype(float).tolist()),
            tuple(high.astype(float).tolist()),
            obs_dim,
            *references,
        ),
    )


def assert_same(found: Transitions, data: Transitions) -> None:
    for field in fields(Transitions):
        if field.name != "task":
            array = getattr(found, field.name)
            np.testing.assert_array_equal(array, getattr(data, field.name), err_msg=field.name)
            assert array.dtype == getattr(data, field.name).dtype
    np.testing.assert_array_equal(found.starts, data.starts)


@every_format
@bounded
@given(data=logs())
def test_what_is_written_is_loaded(name: str, write: Callable[[Transitions, Path], None], data: Transitions) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(data, path)
        found = load(path)
    assert_same(found, data)
    for field in ("env_spec", "action_low", "action_high", "obs_dim"):
        assert getattr(found.task, field) == getattr(data.task, field), field
    if data.task.ref_min is not None:  # where there are none the registry's are taken
        assert (found.task.ref_min, found.task.ref_max) == (data.task.ref_min, data.task.ref_max)
    assert describe(found).fingerprint == describe(data).fingerprint


@bounded
@given(data=logs(obs_dim=6), sizes=st.sampled_from([(6,), (1, 5), (3, 1, 2)]), nested=st.booleans())
def test_dict_observations_and_what_minari_reads(data: Transitions, sizes: tuple[int, ...], nested: bool) -> None:
    names = in_order(["observation", "desired_goal", "achieved_goal"])[: len(sizes)]
    keys = [f"all/{name}" for name in names] if nested else names
    task = Task(**{field.name: getattr(data.task, field.name) for field in fields(Task)} | {"obs_keys": tuple(keys)})
    data = Transitions(**{f.name: getattr(data, f.name) for f in fields(Transitions)} | {"task": task})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "me" / "set-v0"
        write_minari(data, path, "me/set-v0", obs_sizes=sizes, seed=3)
        found = load(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINARI_DATASETS_PATH", folder)
            theirs = minari.load_dataset("me/set-v0")
            episodes = list(theirs)
    assert_same(found, data)
    assert found.task.obs_keys == tuple(keys)
    assert (theirs.total_steps, len(episodes)) == (len(data), len(data.ends))
    for episode, start, end in zip(episodes, data.starts, data.ends, strict=True):
        rows = slice(start, end + 1)
        seen = task.flat_obs(episode.observations)
        np.testing.assert_array_equal(seen, np.concatenate([data.obs[rows], data.next_obs[end : end + 1]]))
        for theirs_name, ours in (
            ("actions", data.action),
            ("rewards", data.reward),
            ("terminations", data.terminal),
            ("truncations", data.timeout),
        ):
            np.testing.assert_array_equal(getattr(episode, theirs_name), ours[rows])


@settings(bounded, max_examples=15)
@given(data=logs(), formats=st.permutations(list(FORMATS)), cut=st.floats(0.0, 1.0))
def test_from_format_to_format_and_in_two_halves(data: Transitions, formats: list[str], cut: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = data
        for number, name in enumerate(formats):
            path = Path(folder) / f"{number}{name}"
            FORMATS[name](found, path)
            found = load(path)
        at = round(cut * len(data.ends))
        if 0 < at < len(data.ends):
            halves = load(f"{path}[:{at}]+{path}[{at}:]")
            assert halves.fingerprint() == data.fingerprint()
    assert_same(found, data)
    assert_same(join(found, found).take(np.arange(len(data), 2 * len(data))), data)
