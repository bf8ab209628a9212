"""The preset `fast` as tests have it where what matters is not how well it learns: what remains of it is compiling."""

from dataclasses import replace

import pytest

from tiltrl import presets
from tiltrl.presets import FAST, Preset

_SHORT = FAST.scaled(0.001)
TINY: Preset = replace(
    _SHORT,
    behavior=replace(_SHORT.behavior, network=replace(FAST.behavior.network, blocks=1), batch=16),
    critic=replace(_SHORT.critic, width=16, v_ensemble=2, batch=16),
    sampler=replace(FAST.sampler, calls=2),
    annotate=replace(FAST.annotate, k=4, states=64),
    align=replace(_SHORT.align, batch=8),
)
"""Its stages and kinds of networks, small, and few steps."""


def small_presets(patch: pytest.MonkeyPatch) -> None:
    """Have the command line, called in this process, and its critics train so."""
    patch.setitem(presets.PRESETS, "fast", TINY)
    for name, critic in presets.CRITICS["fast"].items():
        small = TINY.critic if name == "advantage" else presets.shortened(critic, 0.0005)
        patch.setitem(presets.CRITICS["fast"], name, small)
