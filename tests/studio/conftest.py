"""One session on emoji128 for a module's tests."""

import importlib.util

import pytest

# Not imported here, as that takes each process of the tests five seconds.
if importlib.util.find_spec("gradio") is None:
    pytest.skip("the extra studio is not installed", allow_module_level=True)

from noisetilt.cli.generate import GenerateJob
from noisetilt.studio.session import Session


@pytest.fixture(scope="module")
def session():
    session = Session(GenerateJob(prompt="", reward="", model="emoji128"), allow_code=True)
    yield session
    session.close()
