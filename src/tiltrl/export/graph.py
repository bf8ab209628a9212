"""From a JAX function to an ONNX graph: its jaxpr, primitive by primitive, with whatever is known already computed.

A sampler's score is a gradient, so what is translated is the traced program, backward pass and all, and not the
functions it was made of. Loops are unrolled: times and their embeddings are then constants, and what every pass shares,
such as the embedded observation, is one node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core

OPSET, IR_VERSION = 17, 8
"""What onnxruntime from 1.12 on reads."""

Shape = tuple[Any, ...]
"""Dimensions: numbers, or JAX's symbols for what depends on the batch."""


@dataclass(frozen=True)
class Known:
    """A value that is computed at translation."""

    array: np.ndarray

    @property
    def shape(self) -> Shape:
        """Its dimensions; where JAX has broadcast it since, some are 1 that JAX has larger."""
        return self.array.shape


@dataclass(frozen=True)
class Node:
    """A value that the graph computes. ONNX broadcasts by itself, so `shape` may hold 1 where JAX has a number."""

    name: str
    shape: Shape


Value = Known | Node


@dataclass
class Graph:
    """An ONNX graph that grows. Asking for the same operation on the same values twice gives one node."""

    batch: Any  # JAX's symbol for the number of rows
    first: Node  # an input that has them
    nodes: list[Any] = field(default_factory=list)
    initializers: dict[str, Any] = field(default_factory=dict)
    _made: dict[Any, str] = field(default_factory=dict)

    def name(self, value: Value) -> str:
        """The name under which nodes take it; equal arrays are stored once."""
        if isinstance(value, Node):
            return value.name
        array = np.ascontiguousarray(value.array).reshape(value.array.shape)
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()[:24]
        if (name := f"c_{digest}") not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def emit(self, operator: str, shape: Shape, *inputs: Value, **attributes: Any) -> Node:
        """The result of an operator, of the given shape."""
        names = [self.name(value) for value in inputs]
        key = operator, tuple(names), repr(sorted(attributes.items()))
        if key not in self._made:
            self._made[key] = name = f"v{len(self._made)}"
            self.nodes.append(onnx.helper.make_node(operator, names, [name], **attributes))
        return Node(self._made[key], shape)

    def rows(self) -> Node:
        """The number of rows, as a vector of one."""
        return self.emit("Shape", (1,), self.first, start=0, end=1)

    def used_by(self, outputs: Sequence[str]) -> list[Any]:
        """The nodes that the outputs depend on, in order."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted |= set(node.input)
                kept.append(node)
        return kept[::-1]


Rule = Callable[[Graph, Any, list[Value]], Value | list[Value]]
"""`(graph, equation, values) -> value(s)`: what an equation of a jaxpr becomes."""


def translate(
    function: Callable[..., tuple[jax.Array, ...]],
    inputs: Mapping[str, tuple[int | None, ...]],
    outputs: Sequence[str],
    rules: Mapping[str, Rule],
) -> onnx.ModelProto:
    """A model that computes the function, in float32.

    Args:
        function: of arrays, to a tuple of arrays; its weights are whatever it closes over.
        inputs: name and shape of each argument; None: the number of rows, the same for all.
        outputs: a name for each result. The first dimension of each is the rows.
        rules: one for each primitive that depends on the inputs.

    Raises:
        ValueError: the function uses a primitive without a rule.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {name: tuple(batch if n is None else n for n in shape) for name, shape in inputs.items()}
    with jax.enable_x64(False):  # the networks are float32, whatever else the process computes
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes.values()))
    arguments = [Node(name, shape) for name, shape in shapes.items()]
    graph = Graph(batch, arguments[0])
    found = _run(graph, closed.jaxpr, closed.consts, arguments, rules)
    for name, value in zip(outputs, found, strict=True):
        graph.nodes.append(onnx.helper.make_node("Identity", [graph.name(value)], [name]))
    nodes = graph.used_by(outputs)
    used = {name for node in nodes for name in node.input}
    made = onnx.helper.make_graph(
        nodes,
        "policy",
        [_info(name, shape) for name, shape in shapes.items()],
        [_info(name, variable.aval.shape) for name, variable in zip(outputs, closed.jaxpr.outvars, strict=True)],
        [tensor for name, tensor in graph.initializers.items() if name in used],
    )
    return onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tiltrl"
    )


def _info(name: str, shape: Shape) -> Any:
    sizes = [n if isinstance(n, int) else "batch" for n in shape]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def _run(
    graph: Graph, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Value], rules: Mapping[str, Rule]
) -> list[Value]:
    """The values of a jaxpr's outputs."""
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, (Known(np.asarray(each)) for each in constants), strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Value:
        return Known(np.asarray(atom.val)) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        found = _equation(graph, equation, [read(atom) for atom in equation.invars], rules)
        values |= zip(equation.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, given: list[Value], rules: Mapping[str, Rule]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if name == "scan":
        return _unrolled(graph, params, given, rules)
    if name in ("jit", "pjit", "closed_call", "custom_jvp_call"):
        return _run(graph, inner.jaxpr, inner.consts, given, rules)
    if (computed := _computed(equation, given)) is not None:
        return computed
    if name not in rules:
        raise ValueError(f"{name}, a primitive of this function, has no rule to become ONNX")
    found = rules[name](graph, equation, given)
    return found if isinstance(found, list) else [found]


def _computed(equation: Any, given: Sequence[Value]) -> list[Value] | None:
    """The results where everything is known: of arithmetic by NumPy, of the rest by JAX, if shapes are numbers.

    JAX alone would do, but compiles a program for each operation and shape: most of the time of an export.
    """
    arrays = [value.array for value in given if isinstance(value, Known)]
    if len(arrays) < len(given):
        return None
    if (function := _ARITHMETIC.get(equation.primitive.name)) is not None:
        return [Known(np.asarray(function(*arrays), equation.outvars[0].aval.dtype))]
    whole = all(array.shape == atom.aval.shape for array, atom in zip(arrays, equation.invars, strict=True))
    if not whole or not all(isinstance(n, int) for variable in equation.outvars for n in variable.aval.shape):
        return None
    found = equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)
    return [Known(np.asarray(each)) for each in (found if equation.primitive.multiple_results else [found])]


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "max": np.maximum,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "sqrt": np.sqrt,
    "square": np.square,
    "sin": np.sin,
    "cos": np.cos,
    "convert_element_type": np.asarray,
    "gt": np.greater,
}


def _unrolled(graph: Graph, params: Any, given: list[Value], rules: Mapping[str, Rule]) -> list[Value]:
    """A loop over known values, step by step."""
    consts, carries = params["num_consts"], params["num_carry"]
    fixed, carry, rows = given[:consts], given[consts : consts + carries], given[consts + carries :]
    if not all(isinstance(each, Known) for each in rows) or params["reverse"]:
        raise ValueError("a scan over what is not known, or in reverse, has no rule to become ONNX")
    arrays = [each.array for each in rows if isinstance(each, Known)]
    body = params["jaxpr"]
    for i in range(params["length"]):
        step = [Known(array[i]) for array in arrays]
        found = _run(graph, body.jaxpr, body.consts, [*fixed, *carry, *step], rules)
        carry = found[:carries]
        if found[carries:]:
            raise ValueError("a scan that stacks results has no rule to become ONNX")
    return carry
