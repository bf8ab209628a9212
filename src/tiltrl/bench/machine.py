"""What was measured on: rates mean nothing without it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from tiltrl.policy import versions


def available_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if can_pin() else list(range(os.cpu_count() or 1))


def can_pin() -> bool:
    """Whether the system can keep a process on some of its cores."""
    return hasattr(os, "sched_setaffinity")


def pin(cores: int) -> None:
    """Keep this process, and the threads it starts from now on, on so many of its cores, where the system can."""
    if can_pin():
        os.sched_setaffinity(0, available_cores()[:cores])


def machine_facts() -> dict[str, Any]:
    """Processor, cores, JAX's device, and versions."""
    device = jax.devices()[0]
    return {
        "processor": _processor(),
        "cores": len(available_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": versions() | {"jaxlib": importlib.metadata.version("jaxlib")},
    }


def _processor() -> str:
    """The processor's name; on Linux it stands in a file."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
