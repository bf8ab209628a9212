"""The README.md of a policy's folder: a model card, as the Hugging Face hub shows it.

Its last line holds the SHA-256 of the text before. As long as that is right nobody has edited the card, and it is
replaced when the policy is; a card that was edited in any way, or is of another origin, is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from tiltrl.environments import described_spec
from tiltrl.errors import InputError
from tiltrl.files import read_file, write_atomically
from tiltrl.policy_folder import PolicyConfig

CARD = "README.md"
MOST_CARD = 1_000_000
"""Bytes."""
_MARK = "<!-- written by TiltRL, and rewritten with the policy until it is edited; sha256:"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")  # what needs no quotes in YAML
_SAID = ("stage", "beta", "kl", "objective", "trust", "rewards", "label_fraction", "preferences", "answers", "teacher")


def write_card(folder: Path, config: PolicyConfig) -> None:
    """Write a policy's card into its folder, unless there is one that somebody has edited.

    Raises:
        InputError: the folder cannot be written.
    """
    path, text = folder / CARD, card(config).encode()
    there = own_card(path)
    if there != text and (there is not None or not os.path.lexists(path)):
        write_atomically(path, text)


def own_card(path: Path) -> bytes | None:
    """What the file holds, if it is a card that nobody has edited since `write_card`; None of anything else."""
    if path.is_symlink():
        return None
    try:
        content = read_file(path, MOST_CARD)
    except InputError:
        return None
    text, mark, rest = content.rpartition(_MARK.encode())
    return content if mark and rest == f"{_digest(text)} -->\n".encode() else None


def card(config: PolicyConfig, name: str = "path/to/this/folder") -> str:
    """The model card; a function of what it is given alone.

    Args:
        config: the policy's description.
        name: what `load_policy` finds the policy by.
    """
    task, told = config.task, config.provenance
    env_id = None if task.env_spec is None else described_spec(task.env_spec, "env_spec").id
    tags = ["reinforcement-learning", "offline-reinforcement-learning", "efficient-diffusion-alignment"]
    if env_id is not None and _TAG.fullmatch(env_id):
        tags.append(env_id)
    front = ["library_name: tiltrl", "pipeline_tag: reinforcement-learning", "license: unknown", "tags:"]
    front += [f"- {json.dumps(tag)}" for tag in tags]
    trained = [f"- {key.replace('_', ' ')}: {_code(told[key])}" for key in _SAID if told.get(key) is not None]
    trained += [f"- seed: {_code(told['seed'])}"] if "seed" in told else []
    versions = told.get("versions")
    if isinstance(versions, dict):
        found = ", ".join(f"{key} {value}" for key, value in sorted(versions.items()))
        trained.append(f"- versions: {_code(found)}")
    kind = (
        "diffusion policy"
        if config.energy is not None
        else "one-step policy, distilled from a diffusion policy"
        if config.one_step is not None
        else "baseline policy"
    )
    where = "no environment is named" if env_id is None else f"environment {_code(env_id)}"
    text = f"""---
{chr(10).join(front)}
---

# {"Policy" if env_id is None else f"Policy for {_code(env_id)}"}

A {kind}, learned from logged data by TiltRL: Efficient Diffusion Alignment
([arXiv 2407.09024](https://arxiv.org/abs/2407.09024)) in JAX.

```python
import tiltrl

policy = tiltrl.load_policy({json.dumps(name)})
action = policy.sample(obs)  # obs: (..., {task.obs_dim}) -> (..., {task.act_dim}), in the environment's units
```

Arrays are safetensors and the description is JSON: loading executes nothing.

## Task and data

- {where}; {task.obs_dim} observations, {task.act_dim} actions
- data set: {_code(task.dataset)}
- fingerprint of the data: {_code(told.get("data", "not recorded"))}

## Training

{chr(10).join(trained) or "- not recorded"}
- acts by {_acting(config)}

## Not to be used for

- Anything in which people or property can come to harm: nothing about its behavior is guaranteed, least of all in
  states that the data does not hold.
- Comparisons with published D4RL scores, unless the data set is D4RL's own: scores on regenerated data are not.
- Densities: energies are log-densities up to a constant of the state, and compare actions of one state only.

## License

Not stated. It is for who trained the policy to state, here and as `license` at the top, and the data's own terms may
bind them.
"""
    return f"{text}\n{_MARK}{_digest(f'{text}{chr(10)}'.encode())} -->\n"


def _acting(config: PolicyConfig) -> str:
    if not config.acting:
        return "a single action"
    return f"the {config.acting} sampled actions{', as its critic values them' if config.chooses else ''}"


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _code(value: object) -> str:
    """A value as code in one line, from which nothing can break out."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{''.join(c if c.isprintable() and c != '`' else '?' for c in text)[:300]}`"
