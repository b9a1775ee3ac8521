"""What particles cost: one network call for all of them where the chunk allows, and no memory beyond a chunk's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from noisetilt import METHODS, sample
from noisetilt.bench.meter import PeakMemory
from noisetilt.models.denoiser import Denoiser
from noisetilt.path import FlowPath
from noisetilt.rewards import Reward

WIDTH = 1500
RED = Reward("red", lambda images, prompts: images[:, 0].mean((1, 2)))


class Wide:
    """A network that needs WIDTH states' memory a row, and remembers how many rows each call had."""

    path, shape = FlowPath(), (3, 16, 16)

    def __init__(self):
        self.rows = []

    def denoiser(self, prompts):
        def network(x_t, t, index):
            self.rows.append(len(x_t))
            return (x_t.repeat(1, WIDTH, 1, 1).square() + 1).sqrt().unflatten(1, (WIDTH, 3)).mean(1) - 1

        return Denoiser(self.path, network)

    def decode(self, x_0):
        return x_0


@pytest.mark.parametrize("name", ["best-of-n", "svdd", "das", "ntrk-best-of-n"])
def test_all_particles_of_all_images_are_one_network_call_a_step(name):
    model = Wide()
    sample(model, ["", ""], RED, METHODS[name].replace(particles=4), 2, chunk=8, track=False)
    assert model.rows == [8, 8]


def peak(particles, chunk):
    """Most memory in use in three steps, of which the second is guided, in what one tensor of the network takes for one
    row."""
    with PeakMemory("cpu") as meter:
        sample(Wide(), [""], RED, METHODS["ntrk-svdd"].replace(particles=particles), 3, chunk=chunk, track=False)
    return meter.megabytes * 1e6 / (WIDTH * 3 * 16 * 16 * 4)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is known on Linux alone")
def test_peak_memory_grows_with_the_chunk_and_not_with_the_particles():
    """In a process of its own that gives freed memory back at once, so that peaks are those of tensors in use."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    call = [sys.executable, str(Path(__file__))]
    few, many, unbounded = map(float, subprocess.check_output(call, env=environment, text=True).split())
    assert many - few < 2
    assert unbounded - many > 24  # 20 rows more, of more than one tensor each


if __name__ == "__main__":
    peak(2, 2)
    print(peak(4, 4), peak(24, 4), peak(24, 24))
