"""What every test process shares: one thread a library, and modules that no garbage collection walks."""

from __future__ import annotations

import gc
import os

# Before the libraries are imported; programs that tests start inherit it. Processes side by side would
# otherwise each start a thread for each core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_collection_finish():
    """Exempt modules and tests from garbage collection: each full one would walk a million objects."""
    gc.collect()
    gc.freeze()
