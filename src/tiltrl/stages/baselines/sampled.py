"""Baselines that act by the behavior model as it is, and train nothing of their own.

Diffusion behavior cloning takes one of its actions. IDQL (Hansen-Estruch et al. 2023, *IDQL: Implicit Q-Learning as an
Actor-Critic Method with Diffusion Policies*, arXiv 2304.10573) takes, of many, the one that IQL's critic prefers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampledConfig:
    """How many actions are chosen among."""

    candidates: int = 1
    steps: int = 0  # of training


IDQL_CONFIG = SampledConfig(candidates=64)
"""As many as in IDQL's release; its evaluation takes the best of them."""
