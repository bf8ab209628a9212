"""Functions become ONNX graphs that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from tiltrl.export.graph import OPSET, translate
from tiltrl.export.rules import RULES

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 3)).astype(np.float32)
PAIR = RANDOM.normal(size=(2, 4, 3)).astype(np.float32)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def pair(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.concatenate([x[:, None], y[:, None]], axis=1)


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda x, y: (x + 2.0 * y - x / (1.5 + y**2)) ** 3,
    "transcendental": lambda x, y: jnp.exp(-x) * jnp.sin(y) + jnp.cos(x) + jax.nn.sigmoid(x),
    "roots and logs": lambda x, y: jnp.sqrt(x**2 + 1) * jax.lax.rsqrt(y**2 + 0.1) + jnp.log(1.0 + x**2),
    "small differences": lambda x, y: jnp.expm1(1e-4 * x) * 1e4 + y,
    "choices": lambda x, y: jnp.where(jnp.maximum(x, y) == x, jax.nn.relu(x), jnp.minimum(y, 0.2)) + jnp.clip(y, -1, 1),
    "a product": lambda x, y: x @ WEIGHT + y @ WEIGHT,
    "a product with a stack": lambda x, y: jnp.einsum("bi,eij->bej", x, PAIR) + (y @ WEIGHT)[:, None],
    "a product of stacks": lambda x, y: jnp.einsum("bei,eij->bej", pair(x, y), PAIR),
    "mean and deviation": lambda x, y: (x - x.mean(-1, keepdims=True)) / (0.1 + y.std(-1, keepdims=True)),
    "rows flattened": lambda x, y: (pair(x, y).reshape(-1, 4) @ WEIGHT).reshape(-1, 2, 3).sum(1),
    "side by side": lambda x, y: jnp.concatenate([x, y, 2.0 * x], axis=-1) @ np.tile(WEIGHT, (3, 1)),
    "the largest": lambda x, y: jnp.where((jnp.argmax(x, axis=-1) == 2)[:, None], x, y),
    "a sum of what is the same": lambda x, y: (
        x * jnp.sum(jnp.broadcast_to(y.sum(1, keepdims=True), y.shape), -1, keepdims=True)
    ),
    "rows that are all alike": lambda x, y: (
        x + jnp.sum((jnp.broadcast_to(WEIGHT.T, (x.shape[0], 3, 4)).reshape(-1, 4) * 2.0).reshape(-1, 3, 4), 1) * y
    ),
    "a gradient": lambda x, y: jax.grad(lambda a: jnp.sum(jax.nn.silu(a @ WEIGHT) ** 2 * jnp.sum(y)))(x),
    "a loop": lambda x, y: jax.lax.scan(lambda c, t: (c + t * jnp.sin(c), None), x, jnp.linspace(0.1, 0.5, 4))[0] + y,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_computes_what_jax_computes_for_any_number_of_rows(name: str) -> None:
    function = jax.jit(FUNCTIONS[name])
    model = translate(lambda x, y: (FUNCTIONS[name](x, y),), {"x": (None, 4), "y": (None, 4)}, ["out"], RULES)
    for rows in (1, 5):
        x, y = RANDOM.normal(size=(2, rows, 4)).astype(np.float32)
        np.testing.assert_allclose(run(model, x=x, y=y)[0], np.asarray(function(x, y)), rtol=2e-5, atol=2e-6)


def test_what_does_not_depend_on_the_inputs_is_not_in_the_graph() -> None:
    def function(x: jax.Array) -> tuple[jax.Array]:
        scale = jnp.exp(jnp.sin(jnp.arange(4.0)) @ WEIGHT).sum()
        return (x * scale,)

    assert operators(translate(function, {"x": (None, 4)}, ["out"], RULES)) == ["Mul", "Identity"]


def test_what_steps_of_a_loop_share_is_computed_once() -> None:
    def function(x: jax.Array, y: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.scan(lambda c, t: (c + t * jnp.exp(y), None), x, jnp.arange(1.0, 5.0))[0],)

    made = operators(translate(function, {"x": (None, 4), "y": (None, 4)}, ["out"], RULES))
    assert made.count("Exp") == 1 and made.count("Mul") == 4


def test_weights_are_stored_once() -> None:
    model = translate(lambda x: ((x @ WEIGHT) @ WEIGHT.T @ WEIGHT,), {"x": (None, 4)}, ["out"], RULES)
    assert sum(np.prod(tensor.dims) == 12 for tensor in model.graph.initializer) == 2  # itself, and transposed


def test_what_no_output_needs_is_left_out() -> None:
    def function(x: jax.Array) -> tuple[jax.Array]:
        _ = jnp.exp(x)
        return (x + 1.0,)

    assert operators(translate(function, {"x": (None, 4)}, ["out"], RULES)) == ["Add", "Identity"]


def test_rows_are_a_dimension_by_name() -> None:
    model = translate(lambda x: (x + 1.0,), {"x": (None, 4)}, ["out"], RULES)
    (given,), (made,) = model.graph.input, model.graph.output
    for value in (given, made):
        batch, size = value.type.tensor_type.shape.dim
        assert (batch.dim_param, size.dim_value) == ("batch", 4)
    assert model.opset_import[0].version == OPSET


def test_a_process_that_computes_in_double_precision_exports_the_same() -> None:
    plain = translate(lambda x: (jnp.exp(x) * 0.1,), {"x": (None, 4)}, ["out"], RULES)
    with jax.enable_x64(True):
        assert translate(lambda x: (jnp.exp(x) * 0.1,), {"x": (None, 4)}, ["out"], RULES) == plain


def test_a_primitive_without_a_rule_is_named() -> None:
    with pytest.raises(ValueError, match="sort"):
        translate(lambda x: (jnp.sort(x, axis=-1),), {"x": (None, 4)}, ["out"], RULES)
