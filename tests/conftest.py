"""Tests compile much and compute little: each program is compiled once for all processes, and not for speed."""

import atexit
import os
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # else it is the user's, or that of the process that started this one
    _cache = tempfile.TemporaryDirectory(prefix="tiltrl-test-compilations-")
    atexit.register(_cache.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Compiles the stages of a run in 13 s instead of 79.
_QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(_QUICK))
