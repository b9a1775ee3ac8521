"""`generate` and `optimize` with the folder of any diffusers pipeline; tiny pipelines with random weights."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from noisetilt.cli import main
from noisetilt.integrations.diffusers import out_of_memory
from noisetilt.models.flux import EMOJI128


def tiny_pipelines():
    """The module beside the integrations' tests."""
    file = Path(__file__).parents[1] / "integrations" / "tiny_pipelines.py"
    spec = importlib.util.spec_from_file_location("tiny_pipelines_of_cli", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, tiny = tmp_path_factory.mktemp("pipelines"), tiny_pipelines()

    def saved(family):
        if not (root / family).exists():
            tiny.build(family)[0].save_pretrained(root / family)
        return str(root / family)

    return saved


def generate(model, out, *options, prompt="a red fox", reward="redness", steps=3, command="generate"):
    few = ["--steps", str(steps)] if command == "generate" else []
    given = [command, prompt, "--model", str(model), "--reward", reward, "--device", "cpu", *few, "--out", str(out)]
    return main([*given, *options])


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_one_command_makes_images_of_any_folder(family, folder, tmp_path, capsys):
    size = ["--height", "16", "--width", "32", "--guidance", "2"]
    assert generate(folder(family), tmp_path, "--n", "2", "--dtype", "bfloat16", *size) == 0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["complete"] and run["guided"]["reward_mean"] > run["base"]["reward_mean"]
    assert run["settings"]["dtype"] == "bfloat16" and run["settings"]["guidance"] == 2.0
    assert run["base"]["nfe"] == 3 and run["base"]["count"] == 2
    for variant in ("base", "guided"):
        image = Image.open(tmp_path / f"a-red-fox-1-{variant}.png")
        assert image.size == (32, 16) and json.loads(image.text["noisetilt"])["seed"] == 1
    assert (tmp_path / "grid.png").exists() and (tmp_path / "rewards.png").exists()
    assert "guided" in capsys.readouterr().out


def test_several_prompts_of_a_pipeline_in_one_batch(folder, tmp_path):
    size = ["--height", "16", "--width", "16", "--n", "1"]
    assert (
        main(
            [
                "generate",
                "a red fox",
                "blue cat",
                "--model",
                folder("sd"),
                "--reward",
                "redness",
                "--device",
                "cpu",
                "--steps",
                "3",
                *size,
                "--batch",
                "2",
                "--out",
                str(tmp_path / "both"),
            ]
        )
        == 0
    )
    assert generate(folder("sd"), tmp_path / "one", *size, prompt="blue cat") == 0
    for variant in ("base", "guided"):
        both, one = (
            torch.tensor(list(Image.open(tmp_path / name / f"blue-cat-0-{variant}.png").tobytes()))
            for name in ("both", "one")
        )
        assert (both - one).abs().max() <= 1


def test_emoji128_as_a_folder_is_emoji128(tmp_path):
    for name, model in (("name", "emoji128"), ("folder", EMOJI128)):
        assert generate(model, tmp_path / name, "--n", "1", prompt="cat face", steps=2) == 0
    images = [
        torch.tensor(list(Image.open(tmp_path / n / "cat-face-0-guided.png").tobytes())) for n in ("name", "folder")
    ]
    assert (images[0] - images[1]).abs().max() <= 1
    run = json.loads((tmp_path / "folder" / "run.json").read_text())
    assert run["heldout_reward"] == "none" and run["guided"]["heldout_mean"] is None


def test_a_video_is_an_animation(folder, tmp_path):
    options = ["--n", "1", "--frames", "5", "--height", "16", "--width", "16", "--heldout", "brightness"]
    assert generate(folder("wan"), tmp_path, *options, steps=2) == 0
    video = Image.open(tmp_path / "a-red-fox-0-guided.png")
    assert video.n_frames == 5 and json.loads(video.text["noisetilt"])["frames"] == 5
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["heldout_reward"] == "brightness" and 0 < run["guided"]["heldout_mean"] < 1


def test_noise_ascent_of_a_folder(folder, tmp_path, capsys):
    options = ["--n", "1", "--iterations", "3", "--height", "16", "--width", "16", "--heldout", "none"]
    assert generate(folder("flux"), tmp_path / "flux", *options, command="optimize") == 0
    run = json.loads((tmp_path / "flux" / "run.json").read_text())
    assert run["guided"]["reward_mean"] > run["base"]["reward_mean"] and run["heldout_reward"] == "none"
    assert (tmp_path / "flux" / "strip.png").exists()
    assert generate(folder("sd"), tmp_path / "sd", *options, command="optimize") == 2
    assert "use `sample` or `noisetilt generate` with the method gper" in capsys.readouterr().err
    assert generate(folder("sd"), tmp_path / "sd", "--n", "1", "--method", "gper", steps=1) == 0


def test_a_full_gpu_is_one_sentence_and_loses_nothing(folder, tmp_path, monkeypatch, capsys):
    """The third image does not fit; the first two are kept."""
    import diffusers

    forward, calls = diffusers.UNet2DConditionModel.forward, []

    def limited(self, *args, **kwargs):
        calls.append(not args[0].is_meta)
        if calls[-1] and sum(calls) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", limited)
    monkeypatch.setattr(out_of_memory, "gpu_memory", lambda device: 24.0 * 2**30)
    assert generate(folder("sd"), tmp_path, "--n", "3", steps=2) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("noisetilt: the GPU ran out of memory: the run needs about ")
    assert "and the GPU has 24.0 GiB; use --" in error and "--offload model" in error and "--height" not in error
    run = json.loads((tmp_path / "run.json").read_text())
    assert not run["complete"] and run["base"]["count"] == 2
    assert len(list(tmp_path.glob("a-red-fox-*.png"))) == 2


def test_inversion_warns_of_a_full_gpu_and_explains_it(folder, tmp_path, monkeypatch, capsys):
    import diffusers

    forward = diffusers.FluxTransformer2DModel.forward

    def full(self, *args, **kwargs):
        if (args[0] if args else kwargs["hidden_states"]).is_meta:  # a call of the plan
            return forward(self, *args, **kwargs)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "forward", full)
    monkeypatch.setattr(out_of_memory, "gpu_memory", lambda device: 1e5)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    options = ["--model", folder("flux"), "--device", "cpu", "--height", "16", "--width", "16"]
    assert main(["invert", str(tmp_path / "red.png"), "--prompt", "a", *options, "--out", str(tmp_path / "out")]) == 2
    warning, error = (line for line in capsys.readouterr().err.splitlines() if line.startswith("noisetilt:"))
    assert warning.startswith("noisetilt: warning: the run needs about") and warning.count("--") >= 3
    assert error.startswith("noisetilt: the GPU ran out of memory: the run needs about")


def test_the_native_loop_explains_a_full_gpu_too(folder, tmp_path, monkeypatch, capsys):
    import diffusers

    def full(self, *args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(diffusers.FluxTransformer2DModel, "forward", full)
    assert generate(folder("flux"), tmp_path, "--n", "1") == 2
    assert "the GPU ran out of memory: the run needs" in capsys.readouterr().err


def test_what_does_not_fit_is_told_before_the_weights_are_loaded(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(out_of_memory, "gpu_memory", lambda device: 1e5)
    assert generate(folder("sd"), tmp_path, "--n", "1", "--height", "16", "--width", "16", steps=1) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert warning.startswith("noisetilt: warning: the run needs about") and warning.count("--") >= 3


@pytest.mark.parametrize(
    "options, word",
    [
        (["--height", "16"], "must be given together"),
        (["--offload", "model"], "needs a GPU"),
        (["--steps", "0"], "steps = 0"),
        (["--eta", "0"], "eta = 0"),
        (["--heldout", "nothing"], "reward 'nothing' is unknown"),
        (["--lora", "/nowhere"], "there is no LoRA '/nowhere'"),
    ],
)
def test_refusals_are_one_sentence(options, word, folder, tmp_path, capsys):
    assert generate(folder("sd"), tmp_path, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("noisetilt: ") and word in error
    assert not list(tmp_path.iterdir())
