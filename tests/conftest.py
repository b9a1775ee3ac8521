"""Threads of the tests: one for each worker of pytest-xdist, so that workers do not compete for cores."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before torch is imported, and inherited by the processes that tests start.
    os.environ["OMP_NUM_THREADS"] = "1"
