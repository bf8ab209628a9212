"""The signals that ask a program to stop."""

from __future__ import annotations

import signal

STOPS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
"""Ctrl-C, a scheduler that wants its machine back, a terminal that was closed: all the same to us."""
