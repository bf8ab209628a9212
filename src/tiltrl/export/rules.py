"""What each primitive of JAX becomes in ONNX: those that the networks, their gradients and the samplers are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from tiltrl.export.graph import Graph, Known, Rule, Shape, Value


def _together(*shapes: Shape) -> Shape:
    """The shape of an elementwise result."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in sizes if not _is_one(n)), 1) for sizes in zip(*padded, strict=True))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _whole(graph: Graph, value: Value, shape: Shape, axes: Sequence[int] | None = None) -> Value:
    """The value with the dimensions that JAX gives it, at least along some axes."""
    axes = range(len(shape)) if axes is None else axes
    missing = [axis for axis in axes if _is_one(value.shape[axis]) and not _is_one(shape[axis])]
    if not missing:
        return value
    grown = tuple(shape[axis] if axis in missing else n for axis, n in enumerate(value.shape))
    sizes = [shape[axis] if axis in missing else 1 for axis in range(len(shape))]
    if all(isinstance(n, int) for n in sizes):
        return graph.emit("Expand", grown, value, Known(np.array(sizes, np.int64)))
    if not all(isinstance(n, int) or n == graph.batch for n in sizes):
        raise ValueError(f"a multiple of the rows, all the same, has no rule to become ONNX: {shape}")
    known = [Known(np.array([n], np.int64)) if isinstance(n, int) else graph.rows() for n in sizes]
    return graph.emit("Expand", grown, value, graph.emit("Concat", (len(sizes),), *known, axis=0))


def _elementwise(operator: str) -> Rule:
    def rule(graph: Graph, equation: Any, given: list[Value]) -> Value:
        return graph.emit(operator, _together(*(value.shape for value in given)), *given)

    return rule


def _scalar(value: float) -> Known:
    return Known(np.array(value, np.float32))


def _rsqrt(graph: Graph, equation: Any, given: list[Value]) -> Value:
    root = graph.emit("Sqrt", given[0].shape, *given)
    return graph.emit("Reciprocal", given[0].shape, root)


def _expm1(graph: Graph, equation: Any, given: list[Value]) -> Value:
    """`tanh(x / 2) (e^x + 1)`, which does not cancel near 0."""
    (x,) = given
    half = graph.emit("Tanh", x.shape, graph.emit("Mul", x.shape, x, _scalar(0.5)))
    return graph.emit("Mul", x.shape, half, graph.emit("Add", x.shape, graph.emit("Exp", x.shape, x), _scalar(1.0)))


def _integer_pow(graph: Graph, equation: Any, given: list[Value]) -> Value:
    (x,) = given
    if equation.params["y"] == 2:
        return graph.emit("Mul", x.shape, x, x)
    return graph.emit("Pow", x.shape, x, _scalar(equation.params["y"]))


def _square(graph: Graph, equation: Any, given: list[Value]) -> Value:
    return graph.emit("Mul", given[0].shape, given[0], given[0])


def _select(graph: Graph, equation: Any, given: list[Value]) -> Value:
    which, *cases = given
    if isinstance(which, Known) and which.array.size == 1:
        return cases[int(which.array.item())]
    no, yes = cases
    return graph.emit("Where", _together(*(value.shape for value in given)), which, yes, no)


def _broadcast(graph: Graph, equation: Any, given: list[Value]) -> Value:
    """Only new axes: elementwise operators do the rest."""
    (x,) = given
    rank, kept = len(equation.params["shape"]), [int(axis) for axis in equation.params["broadcast_dimensions"]]
    shape: list[Any] = [1] * rank
    for axis, size in zip(kept, x.shape, strict=True):
        shape[axis] = size
    if rank == len(kept):
        return x
    if isinstance(x, Known):
        return Known(x.array.reshape(shape))
    new = [axis for axis in range(rank) if axis not in kept]
    return graph.emit("Unsqueeze", tuple(shape), x, Known(np.array(new, np.int64)))


def _reshape(graph: Graph, equation: Any, given: list[Value]) -> Value:
    (x,), shape = given, equation.outvars[0].aval.shape
    if all(map(_is_one, x.shape)):
        return _reshaped(graph, x, (1,) * len(shape))
    return _reshaped(graph, _whole(graph, x, equation.invars[0].aval.shape), shape)


def _reshaped(graph: Graph, x: Value, shape: Shape) -> Value:
    if tuple(x.shape) == tuple(shape):
        return x
    sizes = [n if isinstance(n, int) else -1 for n in shape]
    if sizes.count(-1) > 1:
        raise ValueError(f"a reshape to {shape}, of which two depend on the rows, has no rule to become ONNX")
    if isinstance(x, Known):
        return Known(x.array.reshape(sizes))
    return graph.emit("Reshape", tuple(shape), x, Known(np.array(sizes, np.int64)))


def _transpose(graph: Graph, equation: Any, given: list[Value]) -> Value:
    return _permuted(graph, given[0], [int(axis) for axis in equation.params["permutation"]])


def _permuted(graph: Graph, x: Value, order: Sequence[int]) -> Value:
    if list(order) == sorted(order):
        return x
    if isinstance(x, Known):
        return Known(x.array.transpose(order))
    return graph.emit("Transpose", tuple(x.shape[axis] for axis in order), x, perm=list(order))


def _reduce_sum(graph: Graph, equation: Any, given: list[Value]) -> Value:
    (x,), axes = given, [int(axis) for axis in equation.params["axes"]]
    sizes = [equation.invars[0].aval.shape[axis] for axis in axes]
    left = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    if all(map(_is_one, (x.shape[axis] for axis in axes))):  # of what is the same along those axes
        found = _reshaped(graph, x, left)
        count = math.prod(sizes)
        if not isinstance(count, int):
            raise ValueError("a sum over rows that are all the same has no rule to become ONNX")
        return found if count == 1 else graph.emit("Mul", left, found, _scalar(count))
    x = _whole(graph, x, equation.invars[0].aval.shape, axes)
    return graph.emit("ReduceSum", left, x, Known(np.array(axes, np.int64)), keepdims=0)


def _argmax(graph: Graph, equation: Any, given: list[Value]) -> Value:
    (axis,) = (int(axis) for axis in equation.params["axes"])
    x = _whole(graph, given[0], equation.invars[0].aval.shape, [axis])
    left = tuple(n for i, n in enumerate(x.shape) if i != axis)
    found = graph.emit("ArgMax", left, x, axis=axis, keepdims=0)
    return graph.emit("Cast", left, found, to=onnx.TensorProto.INT32)


def _concatenate(graph: Graph, equation: Any, given: list[Value]) -> Value:
    shape, axis = equation.outvars[0].aval.shape, int(equation.params["dimension"])
    parts = [_whole(graph, x, atom.aval.shape) for x, atom in zip(given, equation.invars, strict=True)]
    return graph.emit("Concat", shape, *parts, axis=axis)


def _dot_general(graph: Graph, equation: Any, given: list[Value]) -> Value:
    """As one matrix product: shared axes first, then the free ones of each side, flattened beside the contracted."""
    (contracted, shared), out = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    sides, free_shapes = [], []
    for i, (x, atom) in enumerate(zip(given, equation.invars, strict=True)):
        summed, common = [int(a) for a in contracted[i]], [int(a) for a in shared[i]]
        free = [axis for axis in range(len(atom.aval.shape)) if axis not in (*summed, *common)]
        x = _whole(graph, x, atom.aval.shape, [*summed, *common])
        if len(free) > 1 and not all(map(_is_one, (x.shape[axis] for axis in free))):
            x = _whole(graph, x, atom.aval.shape, free)
        free_shapes.append(tuple(x.shape[axis] for axis in free))
        order = [*common, *free, *summed] if i == 0 else [*common, *summed, *free]
        x = _permuted(graph, x, order)
        lead = tuple(atom.aval.shape[axis] for axis in common)
        depth = math.prod(atom.aval.shape[axis] for axis in summed)
        # The left side's free axes are rows of any rank, as long as there are no shared axes to line up with.
        left = free_shapes[0] if i == 0 and not common else (math.prod(free_shapes[i]),)
        sides.append(_reshaped(graph, x, (*lead, *left, depth) if i == 0 else (*lead, depth, *left)))
    lead = tuple(out[: len(shared[0])])
    columns = math.prod(free_shapes[1])
    rows = (math.prod(free_shapes[0]),) if lead else free_shapes[0]
    if not rows:  # a vector: MatMul then leaves its axis out
        found = graph.emit("MatMul", (columns,), *sides)
    else:
        found = graph.emit("MatMul", (*lead, *rows, columns), *sides)
    return _reshaped(graph, found, (*lead, *free_shapes[0], *free_shapes[1]))


def _squeeze(graph: Graph, equation: Any, given: list[Value]) -> Value:
    axes = [int(axis) for axis in equation.params["dimensions"]]
    return _reshaped(graph, given[0], tuple(n for axis, n in enumerate(given[0].shape) if axis not in axes))


RULES: Mapping[str, Rule] = {
    **{
        primitive: _elementwise(operator)
        for primitive, operator in {
            "add": "Add",
            "add_any": "Add",
            "sub": "Sub",
            "mul": "Mul",
            "div": "Div",
            "neg": "Neg",
            "max": "Max",
            "min": "Min",
            "exp": "Exp",
            "log": "Log",
            "sqrt": "Sqrt",
            "sin": "Sin",
            "cos": "Cos",
            "logistic": "Sigmoid",
            "eq": "Equal",
        }.items()
    },
    "rsqrt": _rsqrt,
    "expm1": _expm1,
    "integer_pow": _integer_pow,
    "square": _square,
    "select_n": _select,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "argmax": _argmax,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
}
