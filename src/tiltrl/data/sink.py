"""Where HDF5 files are written to, so that a full disk is one error.

Where its own writes fail, the HDF5 library cannot close what is open: it prints tracebacks and may crash the process
later. This file takes everything, remembers the first error, and raises it at the end, or when asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


class Sink:
    """A new binary file, as h5py wants one of Python's. What cannot be written is kept in memory until it is closed."""

    def __init__(self, path: Path):
        self._file = path.open("x+b", buffering=0)
        self._at = self._size = 0
        self._unwritten: list[tuple[int, bytes]] = []
        self._error: OSError | None = None

    def check(self) -> None:
        """To be asked now and then, as what fails from then on stays in memory.

        Raises:
            OSError: the first that the system answered, if any.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    # What h5py calls.

    def seek(self, offset: int, whence: int = 0) -> int:
        """From the beginning (0), from here (1), from the end (2)."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._at

    def write(self, content: bytes | bytearray | memoryview) -> int:
        """All of it, always."""
        view = memoryview(content).cast("B")
        if self._error is None:
            try:
                self._file.seek(self._at)
                done = 0
                while done < len(view):
                    done += self._file.write(view[done:])
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._unwritten.append((self._at, bytes(view)))
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """What was written here; zeros where nothing was."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._file.seek(self._at)
        self._file.readinto(view)
        for start, content in self._unwritten:
            first, last = max(start, self._at), min(start + len(content), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = content[first - start : last - start]
        self._at += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """As `readinto`."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def truncate(self, size: int) -> int:
        """To that many bytes."""
        if self._error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._error = error
        self._size = size
        return size

    def flush(self) -> None:
        """Nothing waits here."""


@contextmanager
def writing_hdf5(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """A new HDF5 file, and where its bytes go.

    Raises:
        OSError: the system refused some of them, or the file.
    """
    sink = Sink(path)
    try:
        with h5py.File(sink, "w") as file:
            yield file, sink
    finally:
        sink.close()
    sink.check()
