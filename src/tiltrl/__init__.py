"""TiltRL: from logged behavior to a better policy, by Efficient Diffusion Alignment (NeurIPS 2024, arXiv 2407.09024).

A diffusion model of the logged behavior is fine-tuned to agree with values of actions: `pi ∝ mu exp(Q / beta)`.
"""

from tiltrl.api import align, evaluate, fit_behavior, fit_critic
from tiltrl.data import from_arrays, load
from tiltrl.errors import InputError
from tiltrl.policy import Policy, load_policy, log_ratio
from tiltrl.presets import FAST, PAPER
from tiltrl.types import Candidates, Task, Transitions

__all__ = [
    "FAST",
    "PAPER",
    "Candidates",
    "InputError",
    "Policy",
    "Task",
    "Transitions",
    "align",
    "evaluate",
    "fit_behavior",
    "fit_critic",
    "from_arrays",
    "load",
    "load_policy",
    "log_ratio",
]
