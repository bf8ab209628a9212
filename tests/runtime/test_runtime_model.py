"""A file is opened only if it is what `tiltrl export` writes; what else it is, is told in one line."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported import ACT, CANDIDATES, LOW, OBS, critic_file, energy_file, policy_file
from onnx import helper

from tiltrl.errors import InputError
from tiltrl.runtime import Critic, Energy, Policy
from tiltrl.runtime.container import metadata


def refused(path: Path, message: str, opener: Callable[[Path], Any] = Policy) -> None:
    with pytest.raises(InputError, match=message) as caught:
        opener(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_the_card_says_what_the_file_does(tmp_path: Path) -> None:
    card = Policy(policy_file(tmp_path / "p.onnx")).card
    assert (card.kind, card.obs_dim, card.act_dim, card.candidates) == ("policy", OBS, ACT, CANDIDATES)
    assert (card.dataset, card.env_id, card.obs_keys, card.action_low) == ("made", None, (), tuple(LOW))
    assert card.facts["license"] == "MIT"


def test_what_is_no_file_is_refused_unopened(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "is no file")
    refused(tmp_path, "is no file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is no file")  # and does not wait for somebody to write into it


def test_any_cut_or_other_content_is_refused(tmp_path: Path) -> None:
    whole = policy_file(tmp_path / "p.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for end in [0, 1, 2, *range(3, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(path, "cut.onnx: ")
    for content in (b"PK\x03\x04" * 99, b"<html>", b"\xff" * 99, b"\x00" * 99):
        path.write_bytes(content)
        refused(path, "is no file of `tiltrl export`, or is damaged")


def test_flipped_bytes_are_refused_or_run(tmp_path: Path) -> None:
    whole = policy_file(tmp_path / "p.onnx").read_bytes()
    path, random = tmp_path / "flipped.onnx", np.random.default_rng(0)
    opened = 0
    for place in random.choice(len(whole), 200, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << random.integers(8)]) + whole[place + 1 :])
        try:
            Policy(path)
            opened += 1
        except InputError as error:
            assert str(error).startswith(str(path))
    assert opened < 200


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with open(path, "wb") as file:
        file.truncate((1 << 30) + 1)
    refused(path, "more than 1073741824 bytes")


@pytest.mark.parametrize(
    ("make", "opener", "message"),
    [
        (energy_file, Policy, "is of kind 'energy'; one of kind 'policy' is needed here"),
        (critic_file, Energy, "is of kind 'critic'; one of kind 'energy'"),
        (policy_file, Critic, "is of kind 'policy'; one of kind 'critic'"),
    ],
)
def test_another_kind_is_refused(tmp_path: Path, make: Any, opener: Any, message: str) -> None:
    refused(make(tmp_path / "f.onnx"), message, opener)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"format": 1}, "is of format 1, and this version of tiltrl reads 2"),
    ({"format": ...}, "format is missing"),
    ({"format": True}, "is of format True"),
    ({"kind": "actor"}, "kind is 'actor'; one of policy, energy, critic"),
    ({"kind": ["policy"]}, "kind is .*; a text that can be printed is needed"),
    ({"obs_dim": 0}, "obs_dim is 0; a whole number from 1"),
    ({"obs_dim": 3.0}, "obs_dim is 3.0; a whole number"),
    ({"act_dim": "2"}, "act_dim is '2'"),
    ({"candidates": ...}, "candidates is missing"),
    ({"candidates": 10**9}, "candidates is 1000000000"),
    ({"choice": "worst"}, "choice is 'worst'; one of best, mean is needed"),
    ({"action_low": [0.0]}, "2 numbers each, low below high"),
    ({"action_low": [2.0, 3.0]}, "low below high"),
    ({"action_low": [None, 0.0]}, "action_low is .*; a list of finite numbers"),
    ({"action_high": [1e999, 1.0]}, "description is not JSON: it holds Infinity"),
    ({"action_high": [10**400, 1.0]}, "action_high is .*; a list of finite numbers"),
    ({"task": "demo"}, "task is 'demo'; an object is needed"),
    ({"task": {"dataset": "x", "obs_keys": []}}, "env_id is missing"),
    ({"task": {"dataset": "x", "env_id": 3, "obs_keys": []}}, "env_id is 3; a text"),
    ({"task": {"dataset": "x", "env_id": None, "obs_keys": "a"}}, "obs_keys is 'a'; a list of texts"),
    ({"anomaly": []}, r"anomaly is \[\]; an object"),
    ({"anomaly": {"score": "action", "quantiles": []}}, "score is 'action'; 'denoising_error' is needed"),
    ({"anomaly": {"score": "denoising_error", "quantiles": [[0.0, 1.0], [1.0, 0.0]]}}, "obs_low is missing"),
    ({"kind": "policy\x1b[31m"}, "kind is .*; a text that can be printed is needed"),
    ({"anomaly": {"score": "denoising_error", "quantiles": [[0.0, 1.0]]}}, "at least two pairs"),
    ({"anomaly": {"score": "denoising_error", "quantiles": [[0.0], [1.0]]}}, r"quantiles\[0\] is \[0.0\]; a list of 2"),
    ({"anomaly": {"score": "denoising_error", "quantiles": [[0.5, 1.0], [0.4, 0.0]]}}, "are to ascend"),
    ({"anomaly": {"score": "denoising_error", "quantiles": [[0.0, 0.0], [0.4, 1.0]]}}, "scores to descend"),
    ({"anomaly": {"score": "denoising_error", "quantiles": [[0.0, 1.0], [1.4, 0.0]]}}, "within 0 to 1"),
    ({"obs_dim": 4, "anomaly": None}, "its inputs are .* but by its description"),
    ({"candidates": 3}, "its inputs are .* but by its description"),
    ({"act_dim": 1, "action_low": [0.0], "action_high": [1.0]}, "its inputs are"),
    ({"batch": 1}, "its inputs are"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_a_wrong_description_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused(policy_file(tmp_path / "p.onnx", **changes), message)


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """A policy's file, with its model changed by onnx's own means."""
    model = onnx.load(str(policy_file(path)))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def described(text: str) -> Callable[[Any], None]:
    return lambda model: helper.set_model_props(model, {"tiltrl": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: helper.set_model_props(model, {"other": "1"}), "has no metadata of the name 'tiltrl'"),
        (described("{"), "description is not JSON"),
        (described("[" * 100_000), "description is not JSON"),
        (described("[]"), r"description is \[\]; an object is needed"),
        (described(" " * 1_000_001), "has 1000001 characters"),
        (lambda model: model.graph.output.pop(), "its outputs are"),
        (lambda model: model.ClearField("graph"), "holds no graph"),
        (lambda model: model.graph.node.pop(), "is damaged, or onnxruntime cannot run it"),
    ],
)
def test_a_model_without_what_it_needs_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    refused(changed(tmp_path / "p.onnx", change), message)


def test_what_a_file_says_cannot_command_the_terminal(tmp_path: Path) -> None:
    def colored(model: Any) -> None:
        model.graph.node[0].op_type = "Red\x1b[31m"

    path = changed(tmp_path / "p.onnx", colored)
    with pytest.raises(InputError, match=r"Red\?\[31m") as caught:
        Policy(path)
    assert str(caught.value).isprintable()


def test_an_output_of_another_shape_than_declared_is_refused(tmp_path: Path) -> None:
    def transposed(model: Any) -> None:
        node = helper.make_node("Transpose", ["noise"], ["action"], perm=[0, 2, 1])
        del model.graph.node[:4]
        model.graph.node[0].CopyFrom(node)

    refused(changed(tmp_path / "p.onnx", transposed), r"p\.onnx: ")


# --- What onnxruntime would follow ------------------------------------------------------------------------------------


def in_another_file(model: Any) -> None:
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"


def constant_in_another_file(model: Any) -> None:
    node = helper.make_node("Constant", [], ["more"], value=onnx.numpy_helper.from_array(np.zeros(1), "x"))
    node.attribute[0].t.data_location = onnx.TensorProto.EXTERNAL
    model.graph.node.append(node)


def branching(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))


def with_functions(model: Any) -> None:
    model.functions.add().name = "f"


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.add().dims.append(3)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (in_another_file, "weights in another file"),
        (constant_in_another_file, "weights in another file"),
        (branching, "a graph within its graph"),
        (with_functions, "functions"),
        (sparse, "sparse tensors"),
        (lambda model: model.training_info.add(), "instructions for training"),
    ],
)
def test_what_no_exported_policy_holds_is_refused(tmp_path: Path, change: Any, what: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    refused(changed(tmp_path / "p.onnx", change), f"it holds {what}")


def test_a_graph_in_two_parts_hides_nothing(tmp_path: Path) -> None:
    """Protobuf merges a field that occurs twice, so the second part is looked into as well."""
    part = onnx.ModelProto()
    in_another_file(changed_model := onnx.load(str(policy_file(tmp_path / "p.onnx"))))
    part.graph.initializer.append(changed_model.graph.initializer[1])
    (tmp_path / "p.onnx").write_bytes((tmp_path / "p.onnx").read_bytes() + part.SerializeToString())
    refused(tmp_path / "p.onnx", "weights in another file")


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a",  # a text without its size
        b"\x0a\x05abc",  # shorter than it says
        b"\x08" + b"\xff" * 11,  # a number without an end
        b"\xba\x80\x80\x80\x10\x00",  # a tag beyond 32 bits, of which others see the last
        b"\x0b",  # a group
    ],
)
def test_what_is_no_protobuf_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="cut short|no protobuf message"):
        metadata(content)


def test_fixed_size_fields_are_passed_over() -> None:
    entry = onnx.StringStringEntryProto(key="a", value="b").SerializeToString()
    content = b"\x3a\x00" + b"\x19" + bytes(8) + b"\x1d" + bytes(4) + b"\x72" + bytes([len(entry)]) + entry
    assert metadata(content) == {"a": "b"}


def test_onnxruntime_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)

    path = policy_file(tmp_path / "p.onnx")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="onnxruntime is not installed: `pip install onnxruntime`"):
        Policy(path)
