"""One session on emoji128 for a module's tests."""

import pytest

pytest.importorskip("gradio", reason="the extra studio is not installed")

from noisetilt.cli.generate import GenerateJob
from noisetilt.studio.session import Session


@pytest.fixture(scope="module")
def session():
    session = Session(GenerateJob(prompt="", reward="", model="emoji128"), allow_code=True)
    yield session
    session.close()
