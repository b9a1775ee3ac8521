"""The thread in which the sampler of a pipeline runs."""

import torch

from noisetilt.integrations.coroutine import Coroutine


def test_the_body_has_the_default_device_of_its_caller():
    """A reward that makes a tensor gets it on the same device as when it is called directly."""
    with torch.device("meta"):
        coroutine = Coroutine(lambda request: (torch.zeros(1) + request(None)).device.type)
        coroutine.start()
        coroutine.send(torch.zeros(1))
    assert coroutine.result == "meta"
