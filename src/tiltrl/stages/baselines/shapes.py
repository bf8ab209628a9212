"""Every shape of a baseline's actor, told apart by its `kind`: what a policy's folder may describe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tiltrl.stages.baselines.diffusion_ql import DenoisingShape
from tiltrl.stages.baselines.flow import FlowShape
from tiltrl.stages.baselines.gaussian import DeterministicShape, GaussianShape
from tiltrl.stages.baselines.guidance import GuidedShape

ActorShape = Annotated[
    DeterministicShape | GaussianShape | DenoisingShape | GuidedShape | FlowShape, Field(discriminator="kind")
]
