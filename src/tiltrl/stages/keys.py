"""Random keys: one stream for each seed and purpose, the same from Python and from the command line."""

from __future__ import annotations

from typing import Literal

import jax
from jaxtyping import PRNGKeyArray

Purpose = Literal["behavior", "critic", "candidates", "align", "act", "distill", "support", "baseline"]
_PURPOSES: tuple[Purpose, ...] = ("behavior", "critic", "candidates", "align", "act", "distill", "support", "baseline")


def stage_key(seed: int, purpose: Purpose) -> PRNGKeyArray:
    """The key of one purpose; it does not depend on how many other seeds there are."""
    return jax.random.fold_in(jax.random.key(seed), _PURPOSES.index(purpose))
