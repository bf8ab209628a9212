"""Small ONNX files as `tiltrl export` writes them, of linear networks that a test can work out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

OBS, ACT, CANDIDATES = 3, 2, 2
LOW, HIGH = [-2.0, -1.0], [2.0, 3.0]
WEIGHTS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]], np.float32)
QUANTILES = [[0.0, 10.0], [0.1, 5.0], [0.5, 0.0], [1.0, -10.0]]
RANGE = {"obs_low": [-50.0, -2.0, -2.0], "obs_high": [50.0, 2.0, 2.0]}


def description(**changes: Any) -> dict[str, Any]:
    """What a policy's file says of itself; a change of ... drops the field."""
    value = {
        "format": 2,
        "kind": "policy",
        "obs_dim": OBS,
        "act_dim": ACT,
        "candidates": CANDIDATES,
        "choice": "best",
        "calls": 5,
        "action_low": LOW,
        "action_high": HIGH,
        "task": {"dataset": "made", "env_id": None, "obs_keys": []},
        "anomaly": {"score": "denoising_error", "quantiles": QUANTILES} | RANGE,
        "license": "MIT",
    } | changes
    return {name: item for name, item in value.items() if item is not ...}


def save(
    path: Path, nodes: Sequence[Any], inputs: dict[str, Any], outputs: dict[str, Any], text: str | None, **arrays: Any
) -> Path:
    """Write a model; `text` is the metadata, None for none."""

    def info(name: str, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        list(nodes),
        "policy",
        [info(*item) for item in inputs.items()],
        [info(*item) for item in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if text is not None:
        helper.set_model_props(model, {"tiltrl": text})
    path.write_bytes(model.SerializeToString())
    return path


def policy_file(path: Path, *, batch: Any = "batch", **changes: Any) -> Path:
    """`action = clip(obs @ WEIGHTS + first noise)`, `denoising_error = sum of obs` (where it has a table)."""
    value = description(**changes)
    nodes = [
        helper.make_node("Gather", ["noise", "zero"], ["first"], axis=1),
        helper.make_node("MatMul", ["obs", "weights"], ["mean"]),
        helper.make_node("Add", ["mean", "first"], ["free"]),
        helper.make_node("Max", ["free", "low"], ["above"]),
        helper.make_node("Min", ["above", "high"], ["action"]),
    ]
    outputs: dict[str, Any] = {"action": [batch, ACT]}
    if value.get("anomaly"):
        nodes.append(helper.make_node("ReduceSum", ["obs", "axes"], ["denoising_error"], keepdims=0))
        outputs["denoising_error"] = [batch]
    return save(
        path,
        nodes,
        {"obs": [batch, OBS], "noise": [batch, CANDIDATES, ACT]},
        outputs,
        json.dumps(value),
        zero=np.int64(0),
        weights=WEIGHTS,
        low=np.float32(LOW),
        high=np.float32(HIGH),
        axes=np.array([1]),
    )


def fragile_file(path: Path) -> Path:
    """As `policy_file`, of the noise of the number that is the largest in `obs`: fails where there is no such noise."""
    model = onnx.load(str(policy_file(path)))
    largest = helper.make_node("ReduceMax", ["obs"], ["largest"], keepdims=0)
    number = helper.make_node("Cast", ["largest"], ["number"], to=onnx.TensorProto.INT64)
    model.graph.node[0].input[1] = "number"
    nodes = [largest, number, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    return path


def energy_file(path: Path) -> Path:
    """`energy = t * sum of action - sum of obs`."""
    nodes = [
        helper.make_node("ReduceSum", ["obs", "axes"], ["seen"], keepdims=0),
        helper.make_node("ReduceSum", ["action", "axes"], ["done"], keepdims=0),
        helper.make_node("Mul", ["t", "done"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "seen"], ["energy"]),
    ]
    inputs = {"obs": ["batch", OBS], "action": ["batch", ACT], "t": ["batch"]}
    text = json.dumps(description(kind="energy", candidates=..., anomaly=None))
    return save(path, nodes, inputs, {"energy": ["batch"]}, text, axes=np.array([1]))


def critic_file(path: Path) -> Path:
    """`value = sum of obs - sum of action`."""
    nodes = [
        helper.make_node("ReduceSum", ["obs", "axes"], ["seen"], keepdims=0),
        helper.make_node("ReduceSum", ["action", "axes"], ["done"], keepdims=0),
        helper.make_node("Sub", ["seen", "done"], ["value"]),
    ]
    inputs = {"obs": ["batch", OBS], "action": ["batch", ACT]}
    text = json.dumps(description(kind="critic", candidates=..., anomaly=None))
    return save(path, nodes, inputs, {"value": ["batch"]}, text, axes=np.array([1]))
