"""Opens an exported file: what it says of itself is checked before onnxruntime runs it, and against it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tiltrl.errors import InputError
from tiltrl.runtime.card import Card, read_card
from tiltrl.runtime.container import metadata

_MOST_BYTES = 1 << 30
_MOST_THREADS = 1024
_KEY = "tiltrl"


class Model:
    """A checked file in an onnxruntime session."""

    def __init__(self, path: str | os.PathLike[str], kind: str, threads: int = 1):
        """Read, check and run it once, so that what is wrong is found now and the first call is no slower.

        Args:
            path: of a file that `tiltrl export` wrote.
            kind: what it has to be: "policy", "energy" or "critic".
            threads: how many onnxruntime computes with.

        Raises:
            InputError: onnxruntime is not installed; or the file cannot be read, is damaged, of another kind or
                version, or its graph does not match its description.
        """
        where = os.fspath(path)
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
            raise InputError(f"threads = {threads!r}; a whole number from 1 to {_MOST_THREADS} is needed")
        content = _read(where)
        self.card = _card(content, where)
        if self.card.kind != kind:
            raise InputError(f"{where}: is of kind {self.card.kind!r}; one of kind {kind!r} is needed here")
        self._session = _session(content, threads, where)
        self._compare(where)
        self._outputs = list(self.card.outputs())
        try:
            found = self.run({name: np.zeros((1, *shape), np.float32) for name, shape in self.card.inputs().items()})
        except Exception as error:  # onnxruntime's exceptions have no common class of their own
            raise InputError(f"{where}: cannot be run: {one_line(error)}") from error
        for name, shape, array in zip(self._outputs, self.card.outputs().values(), found, strict=True):
            if array.shape != (1, *shape):
                raise InputError(f"{where}: {name} comes out with shape {array.shape}, not {(1, *shape)}")

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the card's order, for float32 inputs with the same number of rows."""
        return self._session.run(self._outputs, inputs)

    def _compare(self, where: str) -> None:
        """Refuse a graph whose inputs and outputs are others than described."""
        for what, nodes, wanted in (
            ("inputs", self._session.get_inputs(), self.card.inputs()),
            ("outputs", self._session.get_outputs(), self.card.outputs()),
        ):
            try:
                found = {node.name: (node.type, tuple(node.shape)) for node in nodes}
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: is damaged: a name in it is no text") from error
            fits = found.keys() == wanted.keys() and all(
                found[name][0] == "tensor(float)"
                and found[name][1][1:] == shape
                and len(found[name][1]) == 1 + len(shape)
                and not isinstance(found[name][1][0], int)
                for name, shape in wanted.items()
            )
            if not fits:
                needed = {name: ("tensor(float)", ("batch", *shape)) for name, shape in wanted.items()}
                raise InputError(f"{where}: its {what} are {found}, but by its description {needed}")


def _read(where: str) -> bytes:
    if not os.path.isfile(where):  # a pipe or a device could make reading wait, or never end
        raise InputError(f"{where}: is no file; give one that `tiltrl export` wrote")
    try:
        with open(where, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {one_line(error)}") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{where}: has more than {_MOST_BYTES} bytes, more than any exported policy")
    return content


def _card(content: bytes, where: str) -> Card:
    try:
        found = metadata(content)
    except ValueError as error:
        raise InputError(f"{where}: is no file of `tiltrl export`, or is damaged: {one_line(error)}") from error
    if _KEY not in found:
        raise InputError(f"{where}: has no metadata of the name {_KEY!r}, so `tiltrl export` did not write it")
    return read_card(found[_KEY], where)


def _session(content: bytes, threads: int, where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("onnxruntime is not installed: `pip install onnxruntime`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # what is wrong is raised, too
    # Not by the content: a file can be a model of both of onnxruntime's formats, and only this one was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise InputError(f"{where}: is damaged, or onnxruntime cannot run it: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an exception says, short and printable."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:300]
    return "".join(c if c.isprintable() else "?" for c in text)  # names in a file are anybody's
