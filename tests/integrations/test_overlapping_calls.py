"""A pipeline is changed during an aligned call, so that no second one may run meanwhile."""

import threading

import pytest
from tiny_pipelines import build

from noisetilt import METHODS, align

SECOND = "StableDiffusionPipeline is called while an aligned call of the same pipeline runs"


def test_a_second_call_in_another_thread_is_refused_and_the_pipeline_is_as_before():
    pipe, arguments = build("sd")
    before, arguments = dict(vars(pipe)), dict(arguments, num_inference_steps=1)
    found = []

    def second():
        try:
            align(pipe, None, "base")("a red fox", seeds=[0], **arguments)
        except RuntimeError as error:
            found.append(str(error))

    def within_the_first(pipe, step, t, values):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return {}

    aligned = align(pipe, None, "base")
    aligned("a red fox", seeds=[0], callback_on_step_end=within_the_first, **arguments)
    assert len(found) == 1 and found[0].startswith(SECOND)
    assert vars(pipe)["scheduler"] is before["scheduler"] and "prepare_latents" not in vars(pipe)
    aligned("a red fox", seeds=[0], **arguments)


@pytest.mark.parametrize("kind", ["aligned", "plain"])
def test_a_reward_that_calls_its_pipeline_is_refused(kind):
    pipe, arguments = build("sd")
    scheduler, arguments = pipe.scheduler, dict(arguments, num_inference_steps=2)
    called = pipe if kind == "plain" else align(pipe, None, "base")

    def reward(images):
        called("a red fox", **arguments)
        return images.mean((1, 2, 3))

    with pytest.raises(RuntimeError, match=SECOND):
        align(pipe, reward, METHODS["best-of-n"].replace(particles=2))("a red fox", **arguments)
    assert pipe.scheduler is scheduler
    called("a red fox", **arguments)
