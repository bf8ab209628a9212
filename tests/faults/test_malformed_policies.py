"""Damaged and hostile policy folders, through the command line: one line, status 2, nothing written, no wait."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from hostile_policies import field, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refuse import ANY_TEXT, HUGE, Refuse, refuse, replaced_by, zygote
from zygote import Zygote

from tiltrl.data import load
from tiltrl.diffusion.energy import Energy, EnergyConfig
from tiltrl.policy import Policy, PolicyConfig
from tiltrl.stages.annotate import SamplerConfig
from tiltrl.stages.critics.networks import CriticShape, init_critic
from tiltrl.types import Scaling

__all__ = ["refuse", "zygote"]

OF_A_POLICY = {
    "--episodes": ("0", "-1", "10001", HUGE, "x", "1.5", ""),
    "--seed": ("-1", HUGE, "x", "1.0"),
    "--best-of": ("0", "-1", "4097", HUGE, "x"),
    "--mean-of": ("0", "4097", "x"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A policy with a critic, for the environment of the bundled data."""
    folder = tmp_path_factory.mktemp("saved") / "policy"
    task = load("demo[:1]").task
    shape = CriticShape(width=8, depth=1, layer_norm=False, q_ensemble=2, v_ensemble=1, dueling=False)
    network = EnergyConfig(action_width=8, time_width=4, obs_width=4, blocks=1, expansion=1, time_features=4)
    config = PolicyConfig(
        task=task,
        scaling=Scaling((0.0,) * task.obs_dim, (1.0,) * task.obs_dim, task.action_low, task.action_high),
        energy=network,
        sampler=SamplerConfig(calls=3),
        critic=shape,
        candidates=2,
    )
    energy = eqx.filter_jit(Energy)(task.obs_dim, task.act_dim, network, key=jax.random.key(0))
    critic = eqx.filter_jit(init_critic)(task.obs_dim, task.act_dim, shape, key=jax.random.key(1))
    Policy(energy, config, critic).save(folder)
    return folder


@pytest.fixture
def policy(saved: Path, refuse: Refuse) -> Path:
    return Path(shutil.copytree(saved, refuse.cwd / "p"))


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in OF_A_POLICY.items() for value in values]
)
def test_options_of_evaluate(refuse: Refuse, policy: Path, option: str, value: str) -> None:
    refuse("evaluate", "p", option, value, says=option.strip("-").split("-")[0])


def arrays(change: Callable[[bytes], bytes], name: str = "policy.safetensors") -> Callable[[Path], None]:
    """Changes a file of arrays; without check sums, as a careful attacker's would be right."""

    def damage(folder: Path) -> None:
        field("format", 1)(folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes what a file of arrays says of itself."""

    def rewrite(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        found = json.loads(content[8 : 8 + size])
        changed = json.dumps(change(found) or found).encode()
        return struct.pack("<Q", len(changed)) + changed + content[8 + size :]

    return arrays(rewrite)


def first(facts: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in facts.items() if name != "__metadata__")


POLICIES: dict[str, Callable[[Path], None]] = {
    "no description": lambda folder: (folder / "policy.json").unlink(),
    "no arrays": lambda folder: (folder / "policy.safetensors").unlink(),
    "no critic": lambda folder: (folder / "critic.safetensors").unlink(),
    "an empty description": text(""),
    "a description that is no JSON": text("{format: 1}"),
    "a truncated description": lambda folder: os.truncate(folder / "policy.json", 100),
    "a list": text("[]"),
    "a number": text("1"),
    "null": text("null"),
    "a string": text('"policy"'),
    "no UTF-8": text(b"\xff\xfe{}"),
    "deep nesting": text("[" * 100_000 + "]" * 100_000),
    "deep objects": text('{"a":' * 50_000 + "1" + "}" * 50_000),
    "a number of a million digits": text('{"format": 1' + "0" * 1_000_000 + "}"),
    "a description of 20 MB": text('{"format": 1, "x": "' + "x" * 20_000_000 + '"}'),
    "a description that is a folder": replaced_by(Path.mkdir, "policy.json"),
    "a description that is a pipe": replaced_by(os.mkfifo, "policy.json"),
    "a description that is a device": replaced_by(lambda path: path.symlink_to("/dev/zero"), "policy.json"),
    "a description elsewhere": replaced_by(lambda path: path.symlink_to("/etc/hostname"), "policy.json"),
    "a description that links to itself": replaced_by(lambda path: path.symlink_to(path), "policy.json"),
    "another format": field("format", 99),
    "a format in words": field("format", "two"),
    "a format of true": field("format", True),
    "no format": field("format", ...),
    "an unknown field": field("nosuch", 1),
    "no task": field("task", ...),
    "a task of null": field("task", None),
    "a task that is a list": field("task", []),
    "an unknown field in the task": field("task.nosuch", 1),
    "no obs_dim": field("task.obs_dim", ...),
    "obs_dim 0": field("task.obs_dim", 0),
    "obs_dim below 0": field("task.obs_dim", -11),
    "obs_dim beyond all memory": field("task.obs_dim", 10**12),
    "obs_dim beyond 64 bits": field("task.obs_dim", 10**30),
    "obs_dim in words": field("task.obs_dim", "eleven"),
    "obs_dim 11.5": field("task.obs_dim", 11.5),
    "another obs_dim": field("task.obs_dim", 12),
    "no action bounds": field("task.action_low", []),
    "bounds of NaN": field("task.action_low", [float("nan")] * 3),
    "an environment to import": field("task.env_spec", '{"id": "os:Hopper-v5", "entry_point": "os:system"}'),
    "an environment that is no JSON": field("task.env_spec", "Hopper-v5"),
    "a mean of NaN": field("scaling.obs_mean", [float("nan")] * 11),
    "a deviation of 0": field("scaling.obs_std", [0.0] * 11),
    "a deviation of infinity": field("scaling.obs_std", [float("inf")] * 11),
    "a mean in words": field("scaling.obs_mean", ["a"] * 11),
    "a mean too short": field("scaling.obs_mean", [0.0]),
    "bounds upside down": field("scaling.action_low", [9.0] * 3),
    "a width below 0": field("energy.action_width", -8),
    "a width of 0": field("energy.action_width", 0),
    "a width beyond all memory": field("energy.action_width", 10**9),
    "another width": field("energy.action_width", 16),
    "a billion blocks": field("energy.blocks", 10**9),
    "no blocks": field("energy.blocks", -1),
    "an energy of null": field("energy", None),
    "no calls": field("sampler.calls", 0),
    "a billion calls": field("sampler.calls", 10**9),
    "an unknown sampler": field("sampler.nosuch", "x"),
    "a critic's width below 0": field("critic.width", -8),
    "a huge ensemble": field("critic.q_ensemble", 10**9),
    "no candidates": field("candidates", 0),
    "a billion candidates": field("candidates", 10**9),
    "pessimism NaN": field("pessimism", float("nan")),
    "pessimism in words": field("pessimism", "much"),
    "no check sums": field("sha256", ...),
    "check sums of another": field("sha256", {"policy.safetensors": "0" * 64, "critic.safetensors": "0" * 64}),
    "check sums elsewhere": field("sha256", {"../policy.safetensors": "0" * 64}),
    "empty arrays": arrays(lambda _: b""),
    "seven bytes of arrays": arrays(lambda content: content[:7]),
    "truncated arrays": arrays(lambda content: content[:-1]),
    "arrays of garbage": arrays(lambda content: b"\x80\x04" * (len(content) // 2)),
    "a byte too many": arrays(lambda content: content + b"\0"),
    "a truncated critic": arrays(lambda content: content[: len(content) // 2], "critic.safetensors"),
    "a header longer than the file": arrays(lambda content: struct.pack("<Q", 1 << 40) + content[8:]),
    "a header of the most bytes": arrays(lambda content: struct.pack("<Q", (1 << 64) - 1) + content[8:]),
    "a header of no bytes": arrays(lambda content: struct.pack("<Q", 0) + content[8:]),
    "a header that is no JSON": arrays(lambda content: content[:8] + b"x" + content[9:]),
    "another shape": header(lambda facts: first(facts).update(shape=[1])),
    "a shape below 0": header(lambda facts: first(facts).update(shape=[-1])),
    "a gigantic shape": header(lambda facts: first(facts).update(shape=[1 << 40, 1 << 40])),
    "another type": header(lambda facts: first(facts).update(dtype="I64")),
    "an unknown type": header(lambda facts: first(facts).update(dtype="OBJ")),
    "offsets behind the end": header(lambda facts: first(facts).update(data_offsets=[0, 1 << 40])),
    "offsets upside down": header(lambda facts: first(facts).update(data_offsets=[8, 0])),
    "no arrays in it": header(lambda _: {"__metadata__": {}}),
    "another name": header(lambda facts: {f"{name}x": value for name, value in facts.items()}),
    "NaN in the arrays": arrays(lambda content: content[:-4] + np.float32("nan").tobytes()),
    "arrays that are a folder": replaced_by(Path.mkdir),
    "arrays that are a pipe": replaced_by(os.mkfifo),
    "arrays that are a device": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "arrays elsewhere": replaced_by(lambda path: path.symlink_to(sys.executable)),
    "arrays of a terabyte": replaced_by(lambda path: (path.touch(), os.truncate(path, 1 << 40))),
}


@pytest.mark.parametrize("case", POLICIES)
def test_policies(refuse: Refuse, policy: Path, case: str) -> None:
    POLICIES[case](policy)
    refuse("evaluate", "p", "--episodes", "1", says="p")


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=5,
)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_change_of_a_policys_description(
    zygote: Zygote, saved: Path, tmp_path_factory, data: st.DataObject
) -> None:
    folders = [tmp_path_factory.mktemp(name) for name in ("cwd", "aside")]
    shutil.copytree(saved, folders[0] / "p")
    content = json.loads((saved / "policy.json").read_text())
    inner = [content, *(value for value in content.values() if isinstance(value, dict) and value)]
    place = data.draw(st.sampled_from(inner))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(ANY_JSON)
    (folders[0] / "p" / "policy.json").write_text(json.dumps(content))
    # What happens to be a policy all the same is refused for the number of its episodes.
    Refuse(zygote, *folders)("evaluate", "p", "--episodes", "0")


def test_there_are_enough_of_them() -> None:
    assert len(POLICIES) + sum(map(len, OF_A_POLICY.values())) >= 100
