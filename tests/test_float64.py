"""What is computed in float64 also works on a device that has none, as Apple's GPU: on a test double of one.

The double is named "meta", the only device that torch differentiates on without its hardware. Its tensors hold tensors
of the CPU, which compute. Creating one in float64 is an error, as are operations that Apple's GPU does not have, and
cumulative sums of floating-point numbers, which CUDA refuses under `torch.use_deterministic_algorithms`.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from noisetilt import METHODS, sample
from noisetilt.bench import metrics
from noisetilt.models.exact import GaussianModel
from noisetilt.noise import audit, deterministic, float64
from noisetilt.selection import Candidates, Search
from noisetilt.selection.smc import systematic_resampling

DEVICE = "meta"
MISSING = (torch.ops.aten.frexp, torch.ops.aten._linalg_eigh)


class DeviceTensor(torch.Tensor):
    """A tensor of the double."""

    @staticmethod
    def __new__(cls, inner):
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError("the device has no float64")
        same = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **same)

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


def computed(function, args, kwargs):
    """The result of an operation, on the double if an argument is or if it is asked for."""
    found, device = [], kwargs.get("device")
    tree_map_only(DeviceTensor, found.append, (args, kwargs))
    sums = function.overloadpacket == torch.ops.aten.cumsum and args[0].is_floating_point()
    if found and (sums or function.overloadpacket in MISSING):
        raise NotImplementedError(f"the device has no {function}")
    args, kwargs = tree_map_only(DeviceTensor, lambda x: x.inner, (args, kwargs))
    result = function(*args, **(kwargs if device is None else {**kwargs, "device": "cpu"}))
    here = bool(found) if device is None else torch.device(device).type == DEVICE
    return tree_map_only(torch.Tensor, DeviceTensor, result) if here else result


class Device(TorchDispatchMode):
    """The mode in which the double exists."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(float64, "WITHOUT", (DEVICE,))
    monkeypatch.setattr(deterministic, "UNORDERED", (DEVICE,))
    real = torch.tensor  # which does not dispatch
    monkeypatch.setattr(torch, "tensor", lambda data, device=None, **options: real(data, **options).to(device or "cpu"))
    torch.use_deterministic_algorithms(True)
    try:
        with Device():
            yield DEVICE
    finally:
        torch.use_deterministic_algorithms(False)


class OnDevice(GaussianModel):
    """A model whose states are on the device of its mean."""

    @property
    def device(self):
        return self.mean.device


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def test_what_the_double_does_not_have(device):
    x = torch.zeros(2, 2, device=device)
    assert x.device.type == DEVICE
    with pytest.raises(TypeError, match="no float64"):
        x.double()
    for missing in (torch.frexp, torch.linalg.eigh, lambda x: x.cumsum(1)):
        with pytest.raises(NotImplementedError):
            missing(x)


def test_resampling(device):
    torch.manual_seed(0)
    weights, uniform = torch.randn(5, 8), torch.rand(5, 8)
    expected = systematic_resampling(weights, uniform)
    found = systematic_resampling(weights.to(device), uniform.to(device))
    assert found.device.type == DEVICE and torch.equal(found.cpu(), expected)
    search, here = Search(8, temperature=0.5), (weights.to(device), weights.to(device), uniform.to(device))
    found = search.choose(Candidates(*here, 1, 1), None)[0]
    assert torch.equal(found.cpu(), search.choose(Candidates(weights, weights, uniform, 1, 1), None)[0])


LONG = ("psi", "cns", "ntrk-x0", "ntrk-smc")
GUIDED = ["fk", "das", "ntrk", "dsg", "freedom", "gper", *(pytest.param(m, marks=pytest.mark.long) for m in LONG)]


@pytest.mark.parametrize("method", GUIDED)
def test_methods(method, device):
    """In steps of which some are guided, on images that are large enough for all of their whitening."""
    mean, power = torch.full((3, 16, 16), 0.5), torch.full((1, 16, 16), 0.05)
    fewer = {"iterations": 2, "particles": 2, "interval": 1}
    few = {name: least for name, least in fewer.items() if METHODS[method].options().get(name, 0) > 1}
    guided, steps, seeds = METHODS[method].replace(**few), 4 if "x0" in method else 3, [3, 4]
    base, *found = (
        sample(OnDevice(mean.to(place), power.to(place)), ["a", "a"], redness, m, steps, seeds, track=False)
        for m, place in (("base", "cpu"), (guided, "cpu"), (guided, device))
    )
    assert found[1].images.device.type == DEVICE
    assert torch.allclose(found[0].images, found[1].images.cpu(), atol=1e-4)
    assert (found[0].images - base.images).abs().max() > 1e-3


def test_the_audit(device):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(audit(x.to(device)).p_value, audit(x).p_value)


def test_metrics(device):
    torch.manual_seed(0)
    real, fake = torch.randn(9, 4), torch.randn(9, 4)
    pairs = (metrics.frechet_distance, metrics.kernel_distance, metrics.precision_recall)
    for metric, sets in (*((pair, 2) for pair in pairs), (metrics.vendi_score, 1)):
        given = (real, fake)[:sets]
        assert metric(*[x.to(device) for x in given]) == metric(*given)
