"""Makes tiny_batch importable here and in the processes of Ray."""

import os
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Attempts follow at once, on Ray too."""
    monkeypatch.setattr("noisetilt.batch.worker.PAUSE", 0.0)
