"""What the files of a run and the errors say of it."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from noisetilt import METHODS, load
from noisetilt._messages import shown
from noisetilt.batch import run_batch
from noisetilt.cli.comparison import Variant, check_prompts, save_image
from noisetilt.cli.generate import GenerateJob
from noisetilt.cli.optimize import OptimizeJob


@pytest.mark.parametrize(
    "job, expected",
    [
        (GenerateJob, {"method": "base", "options": {}}),
        (OptimizeJob, {"method": "gper-both", "iterations": 0}),
    ],
)
def test_base_images_have_their_own_settings(job, expected, tmp_path):
    job = job(prompt="cat face", reward="redness", out=tmp_path)
    save_image(job, Variant("base", METHODS["base"]), 0, torch.rand(3, 8, 8))
    (file,) = tmp_path.glob("*-base.png")
    assert expected.items() <= json.loads(Image.open(file).text["noisetilt"]).items()


def test_a_batch_without_a_reward_is_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"method ntrk needs a reward and neither .*--reward.* nor a column reward"):
        run_batch(["cat face"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_errors_name_all_unknown_words_and_shorten_the_prompt():
    with pytest.raises(ValueError, match="the words 'qqqq', 'zzzz' of the prompt") as caught:
        load("emoji128").denoiser(["qqqq zzzz " + "cat " * 9000])
    assert len(str(caught.value)) < 400
    assert shown("a" * 1000).count("a") < 60 and shown("cat") == "'cat'"


def test_an_empty_prompt_is_warned_of(capsys):
    check_prompts(SimpleNamespace(prompt=[""], prompts=[""], n=1, model="emoji128"))
    assert "a prompt is empty" in capsys.readouterr().err
