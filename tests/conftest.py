"""Threads, order and random numbers of the tests: workers of pytest-xdist have one thread each, and start with the
slowest files."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before torch is imported, and inherited by the processes that tests start.
    os.environ["OMP_NUM_THREADS"] = "1"

# They take longest and start first, so that the workers end at nearly the same time.
SLOW_FILES = (
    *("studio/test_browser.py", "docs/test_snippets.py", "studio/test_runs.py", "cli/test_run_folder.py"),
    *("bench/test_paper_suite.py", "test_pinned.py", "integrations/test_given_latents.py", "cli/test_first_use.py"),
    *("docs/test_notebooks.py", "cli/test_generate.py", "batch/test_run_batch.py", "integrations/test_plan.py"),
)


def pytest_collection_modifyitems(items):
    places = {Path(__file__).parent / name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def random_state():
    """Tests that draw from torch's global generator draw the same numbers in any order."""
    import torch  # not before the number of threads is set

    before = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before)
