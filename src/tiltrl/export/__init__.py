"""Policies as single ONNX files: normalization, the whole sampler, mean or best of several, and bounds.

`graph` translates JAX's traced programs, `rules` holds one rule a primitive, `functions` what is exported, `parity`
compares with JAX before anything is written. What they make runs by `tiltrl.runtime`, or any other ONNX runtime.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from tiltrl.errors import InputError
from tiltrl.export.anomaly import anomaly_table, some_rows
from tiltrl.export.functions import Exported, Kind, acting, critic, energy
from tiltrl.files import writable, write_atomically
from tiltrl.policy import Policy, versions
from tiltrl.runtime.card import FORMAT
from tiltrl.types import Transitions, as_json

CHECKED = 10_000
"""Logged observations at which a file is compared with the policy."""


@dataclass(frozen=True)
class Export:
    """A file that was written."""

    path: Path
    size: int  # bytes
    observations: int  # at which it was compared with the policy
    error: float  # the largest difference, of actions as a share of half their range
    ties: int  # observations where the critic liked two candidates alike, and either may have been taken


def export_onnx(
    policy: Policy,
    path: str | os.PathLike[str],
    data: Transitions,
    *,
    what: Kind = "policy",
    behavior: Policy | None = None,
    license: str | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Export:
    """Write one ONNX file, unless it computes something else than the policy.

    Args:
        policy: `policy.mean_of(...)` and `policy.replace(sampler=...)` say how many actions and network calls.
        path: ends in `.onnx`.
        data: logged data of the policy's task, to compare at, and for what is usual.
        what: the policy itself, its energy, or its critic.
        behavior: a policy whose errors of denoising tell how unusual an action is; with that the file of a policy has
            a second output and a table of quantiles.
        license: of the file, such as "MIT"; only written down.
        on_progress: called with (stage, rows done, rows in all).

    Raises:
        InputError: the extra `onnx` is missing, the path cannot be written, the policy lacks what is asked for, the
            data or the behavior is of another task, or the file's answers differ from the policy's.
    """
    try:
        import onnx

        from tiltrl.export.graph import translate
        from tiltrl.export.parity import compare
        from tiltrl.export.rules import RULES
    except ImportError as error:
        raise InputError(f"export_onnx: {error.name} is not installed: pip install 'tiltrl[onnx]'") from error
    target = writable(Path(path), ".onnx")
    _check_task(policy, data, behavior, what)
    exported = _exported(policy, what, behavior)
    tell = on_progress or (lambda stage, done, total: None)
    table = None if behavior is None else anomaly_table(behavior, data, partial(tell, "usual"))
    tell("translate", 0, 1)
    try:
        model = translate(exported.function, exported.inputs, tuple(exported.outputs), RULES)
    except ValueError as error:
        raise InputError(
            f"what = {what}: this version of JAX traces a program that cannot be exported: {error}"
        ) from error
    tell("translate", 1, 1)
    rows = some_rows(len(data), CHECKED)
    pairs = data.obs[rows], data.action[rows]
    found = compare(policy, behavior, exported, model.SerializeToString(), *pairs, partial(tell, "compare"))
    told = _description(policy, exported, data, table, license) | {
        "versions": versions() | {"onnx": version("onnx")},
        "parity": {"observations": len(rows), "error": found.error, "ties": found.ties},
    }
    onnx.helper.set_model_props(model, {"tiltrl": json.dumps(as_json(told), allow_nan=False)})
    model.doc_string = f"TiltRL {what} of {data.task.dataset}"
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    write_atomically(target, content)
    return Export(target, len(content), len(rows), found.error, found.ties)


def _exported(policy: Policy, what: Kind, behavior: Policy | None) -> Exported:
    if what == "energy":
        return energy(policy)
    return critic(policy) if what == "critic" else acting(policy, behavior)


def _check_task(policy: Policy, data: Transitions, behavior: Policy | None, what: Kind) -> None:
    if what not in get_args(Kind):
        raise InputError(f"what = {what!r}; it is one of {', '.join(get_args(Kind))}")
    task = policy.config.task
    sizes = task.obs_dim, task.act_dim
    if policy.config.actor is not None:
        method = policy.config.provenance.get("method")
        raise InputError(f"policy: is a baseline's ({method!r:.40}); diffusion and distilled policies are exported")
    if (found := (data.task.obs_dim, data.task.act_dim)) != sizes:
        raise InputError(f"data {data.task.dataset}: has (obs, act) of {found}, but the policy's task has {sizes}")
    if what == "policy" and policy.config.energy is not None and policy.config.sampler.calls < 2:
        raise InputError(
            "calls = 1: one call from pure noise magnifies rounding 150 times, so no two programs agree; use 2 or "
            "more, or a distilled policy, which acts in one"
        )
    if behavior is None:
        return
    if what != "policy":
        raise InputError(f"what = {what}: only a policy's actions are compared with a behavior; leave it out")
    if (stage := behavior.config.provenance.get("stage", "behavior")) != "behavior":
        raise InputError(
            f"behavior: is of stage {stage!r:.40}, so what is unusual to it is not what is unusual in the data; give "
            "the behavior policy, such as policies/behavior-seed0 of the run"
        )
    theirs = behavior.config.task
    if (theirs.obs_dim, theirs.act_dim) != sizes:
        raise InputError(
            f"behavior: has (obs, act) of {(theirs.obs_dim, theirs.act_dim)}, but the policy's task has {sizes}"
        )


def _description(
    policy: Policy, exported: Exported, data: Transitions, table: Any, license: str | None
) -> dict[str, Any]:
    """What the file's metadata says but for versions and parity."""
    config, task = policy.config, policy.config.task
    spec = {} if task.env_spec is None else json.loads(task.env_spec)
    calls = config.sampler.calls if config.energy is not None else 1
    own = {"candidates": config.candidates, "choice": config.choice, "calls": calls}

    def described(arrays: Any) -> dict[str, Any]:
        return {
            name: {"shape": ["batch" if n is None else n for n in shape], "dtype": "float32", "units": UNITS[name]}
            for name, shape in arrays.items()
        }

    return {
        "format": FORMAT,
        "kind": exported.kind,
        "obs_dim": task.obs_dim,
        "act_dim": task.act_dim,
        **(own if exported.kind == "policy" else {}),
        "action_low": config.scaling.action_low,
        "action_high": config.scaling.action_high,
        "task": {"dataset": task.dataset, "env_id": spec.get("id"), "obs_keys": task.obs_keys},
        "inputs": described(exported.inputs),
        "outputs": described(exported.outputs),
        "anomaly": table,
        "license": license,
        "fingerprint": data.fingerprint(),
        "policy": policy.digest,
    }


UNITS = {
    "obs": "the environment's",
    "action": "the environment's, within the bounds",
    "noise": "standard normal, one row for each candidate action",
    "t": "diffusion time, 0.001 to 1",
    "energy": "nats up to a constant of observation and t: compares actions of one observation, and is no log-density",
    "value": "the critic's, of the transformed rewards",
    "denoising_error": "share of the noise's variance that the behavior model does not predict",
}
"""Of every input and output."""
