"""TiltRL: from logged behavior to a better policy, by Efficient Diffusion Alignment (NeurIPS 2024, arXiv 2407.09024).

A diffusion model of the logged behavior is fine-tuned to agree with values of actions: `pi ∝ mu exp(Q / beta)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiltrl.api import align, align_preferences, distill, evaluate, fit_behavior, fit_critic
    from tiltrl.data import from_arrays, load
    from tiltrl.data.preferences import Preferences, from_pairs, read_preferences
    from tiltrl.errors import InputError
    from tiltrl.export import export_onnx
    from tiltrl.policy import Policy, load_policy, log_ratio
    from tiltrl.presets import FAST, PAPER
    from tiltrl.types import Candidates, Task, Transitions

__all__ = [
    "FAST",
    "PAPER",
    "Candidates",
    "InputError",
    "Policy",
    "Preferences",
    "Task",
    "Transitions",
    "align",
    "align_preferences",
    "distill",
    "evaluate",
    "export_onnx",
    "fit_behavior",
    "fit_critic",
    "from_arrays",
    "from_pairs",
    "load",
    "load_policy",
    "log_ratio",
    "read_preferences",
]

# Where each name lives. They are imported when they are first asked for: JAX takes a second to import, and whoever
# loads data only, or the command line until it has taken care of signals, can do without.
_HOMES = {
    name: f"tiltrl.{module}"
    for module, names in {
        "api": ("align", "align_preferences", "distill", "evaluate", "fit_behavior", "fit_critic"),
        "data": ("from_arrays", "load"),
        "data.preferences": ("Preferences", "from_pairs", "read_preferences"),
        "errors": ("InputError",),
        "export": ("export_onnx",),
        "policy": ("Policy", "load_policy", "log_ratio"),
        "presets": ("FAST", "PAPER"),
        "types": ("Candidates", "Task", "Transitions"),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
