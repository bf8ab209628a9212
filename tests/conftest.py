"""Tests compile the same programs over and over, in several processes; a cache of their own lets each compile once."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="tiltrl-test-compilations-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
