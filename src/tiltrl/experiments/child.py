"""A cell's command in a process of its own: `python -m tiltrl.experiments.child FOLDER WORDS...`.

It is `tiltrl WORDS...`, but for two things. It first waits for the run's folder, which a process may still be leaving
that an earlier experiment or a lost machine has started. And it ends as by Ctrl-C once its standard input does, that is
when whoever started it is gone, however that came about.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from tiltrl.errors import InputError
from tiltrl.locks import FolderLock
from tiltrl.main import BAD_INPUT, INTERRUPTED, main

PATIENCE = 90.0
"""Seconds: more than the minute after which a silent owner on another machine is taken to be gone."""


def patient_lock(folder: str, seconds: float) -> FolderLock:
    """The folder's lock, waited for.

    Raises:
        InputError: another process still works in the folder after so many seconds, or it cannot be written.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return FolderLock(folder)
        except InputError:
            if time.monotonic() > until:
                raise


def end_with_parent() -> None:
    """Interrupt this process when nobody holds the other end of its standard input anymore."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    _, place, *words = sys.argv
    sys.argv = ["tiltrl", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would be deaf to it
    try:
        end_with_parent()
        lock = patient_lock(place, PATIENCE)  # of this process from here on, so the run will find it taken by itself
    except InputError as error:
        print(f"tiltrl: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    main()
