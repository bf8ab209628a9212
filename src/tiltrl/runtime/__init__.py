"""Runs exported policies with NumPy and onnxruntime alone, for a robot's computer.

`pip install --no-deps tiltrl numpy onnxruntime` is all it needs: nothing here imports JAX or any other package. On the
command line, `python -m tiltrl.runtime POLICY.onnx` measures a policy, in an environment or at a fixed rate.
"""

from tiltrl.runtime.card import Anomaly, Card
from tiltrl.runtime.networks import Critic, Energy
from tiltrl.runtime.observations import BadObservation
from tiltrl.runtime.policy import Policy, Step

__all__ = ["Anomaly", "BadObservation", "Card", "Critic", "Energy", "Policy", "Step"]
