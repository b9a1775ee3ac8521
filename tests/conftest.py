"""Settings of the whole suite."""

import os

# One thread per worker of pytest-xdist: threads of two workers on two cores wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
