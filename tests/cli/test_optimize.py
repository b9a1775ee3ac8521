import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import METHODS
from noisetilt.cli import main
from noisetilt.cli.comparison import Variant, choose_heldout_reward, comparison_sentence, comparison_table, requested
from noisetilt.cli.optimize import OptimizeJob, _reward_panels, _with_patience, run
from noisetilt.rewards import Reward
from noisetilt.rewards import load as load_reward
from noisetilt.sampling import check_reward

FEW = ["--reward", "redness", "--iterations", "3", "--n", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    arguments = ["optimize", "cat face", *FEW, "--seed", "5", "--set", "rate=0.2", "--batch", "1", "--out", str(out)]
    assert main(arguments) == 0
    return out


def test_run_json_has_the_statistics(finished):
    run = json.loads((finished / "run.json").read_text())
    assert run["complete"] and run["base"]["nfe"] == 1 and run["guided"]["nfe"] == 4
    for variant in ("base", "guided"):
        rewards = [p["reward"] for p in run["images"] if f"-{variant}." in p["file"]]
        assert len(rewards) == 2 and np.mean(rewards) == pytest.approx(run[variant]["reward_mean"])
        assert run[variant]["seconds"] > 0 and run[variant]["heldout_mean"] is not None
    assert run["guided"]["reward_mean"] > run["base"]["reward_mean"]
    assert run["settings"]["options"]["iterations"] == 3 and run["settings"]["options"]["rate"] == 0.2


def test_images_and_plots_are_written(finished):
    for name in ("grid.png", "rewards.png", "strip.png"):
        assert (finished / name).stat().st_size > 1000
        Image.open(finished / name).verify()
    assert Image.open(finished / "animation.webp").n_frames == 4


def test_an_image_is_reproduced_from_its_own_settings(finished, tmp_path):
    settings = json.loads(Image.open(finished / "cat-face-6-guided.png").text["noisetilt"])
    assert settings["iteration"] == 3 and settings["nfe"] == 4
    run(OptimizeJob(**{k: v for k, v in settings.items() if k in OptimizeJob.__dataclass_fields__}, out=tmp_path))
    first, again = (np.asarray(Image.open(p / "cat-face-6-guided.png")).astype(int) for p in (finished, tmp_path))
    assert np.abs(first - again).max() <= 1


def test_a_learned_reward_without_a_heldout_reward_is_optimised_to_the_end(tmp_path):
    arguments = ["optimize", "cat face", "--reward", "style:3d", "--iterations", "1", "--n", "1", "--heldout", "none"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["patience"] == 0


@pytest.mark.parametrize(
    "reward, heldout, patience",
    [
        ("style:3d", None, 10),
        ("style:3d", "none", 0),
        ("redness", None, 0),
        ("redness", "alignment", 10),
        ("pickscore", "hpsv2", 10),
    ],
)
def test_images_stop_early_with_a_heldout_version_or_a_given_heldout_reward(reward, heldout, patience):
    assert _with_patience(OptimizeJob(prompt=["cat face"], reward=reward, heldout=heldout)).patience == patience


# Each held-out reward of a hub reward has the network of a term.
WITHOUT_HELDOUT = "style:3d + pickscore + imagereward + clipscore"


@pytest.mark.parametrize(
    "reward, prompt, expected",
    [
        ("redness", "", "none"),
        ("redness", "3d", "none"),
        ("redness", "cat face", "alignment"),
        ("0.5*style:3d + 2*redness", "cat face", "0.5*style:3d"),
        ("style:3d", "3d", "style:3d"),
        ("style:3d + 2*pickscore + redness", "cat face", "style:3d + 2*imagereward"),
    ],
)
def test_no_reward_is_its_own_heldout_reward(reward, prompt, expected, monkeypatch):
    monkeypatch.setattr(
        "noisetilt.rewards.catalogue.load_hub", lambda name, *_: Reward(name, lambda images: images.mean((1, 2, 3)))
    )
    blank = SimpleNamespace(shape=(3, 128, 128), device="cpu", decode=lambda x: x)
    for model in (blank, SimpleNamespace()):
        assert choose_heldout_reward(OptimizeJob(prompt=[prompt], reward=reward), model)[0] == expected


def test_a_named_heldout_reward_is_the_heldout_network(monkeypatch):
    checked = Reward("a", torch.sum, check_prompts=[].extend)
    monkeypatch.setattr("noisetilt.cli.comparison.load_named_heldout", {"alignment": checked}.__getitem__)
    job = OptimizeJob(prompt=["cat face"], reward="style:3d", heldout="alignment")
    assert choose_heldout_reward(job, SimpleNamespace()) == ("alignment", checked)
    assert checked.check_prompts.__self__ == ["cat face"]
    assert requested(job)["heldout"] == "alignment (second network)"  # not that of the runs of earlier versions


def test_the_optimised_reward_is_refused_as_its_heldout_reward(tmp_path, capsys):
    for command in ("generate", "optimize"):
        arguments = [command, "cat face", "--reward", "redness", "--heldout", "redness", "--out", str(tmp_path / "run")]
        assert main(arguments) == 2 and "is the optimised reward 'redness' itself" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_black_box_gets_the_advice_of_its_command(tmp_path, capsys):
    assert main(["optimize", "cat face", "--reward", "jpeg", "--out", str(tmp_path / "run")]) == 2
    assert "--set draws=32), or sample with ntrk-black-box (noisetilt generate)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="use best-of-n, svdd or ntrk-black-box, or a differentiable reward"):
        check_reward(METHODS["ntrk"], load_reward("jpeg"))


@pytest.mark.parametrize(
    "falls, expected", [([0.01, -0.018], False), ([-0.02], False), ([-0.5, -0.6, -0.4], True), ([0.5, 0.4, 0.6], False)]
)
def test_exploited_errors_are_named_where_they_exceed_the_spread(falls, expected):
    base = Variant("base", METHODS["base"], rewards=[0.0] * len(falls), heldout=[0.0] * len(falls))
    rises = [1.0 + 0.1 * i for i in range(len(falls))]
    guided = Variant("guided", METHODS["ntrk"], rewards=rises, heldout=falls)
    sentence = comparison_sentence(SimpleNamespace(reward="redness", n=1), [base, guided], "alignment")
    assert ("exploit errors" in sentence) == expected
    assert ("One image cannot tell whether the reward is exploited; give --n 4" in sentence) == (len(falls) == 1)
    unclear = len(falls) == 2
    assert ("2 images are too few to tell whether the reward is exploited; look at them" in sentence) == unclear


def test_numbers_that_are_printed_alike_neither_rise_nor_fall():
    base = Variant("base", METHODS["base"], rewards=[0.4321, 0.4321], heldout=[-0.0001, 0.0])
    guided = Variant("guided", METHODS["ntrk"], rewards=[0.4324, 0.4324], heldout=[-0.0004, -0.0004])
    job = SimpleNamespace(reward="redness", n=2)
    sentence = comparison_sentence(job, [base, guided], "alignment")
    assert sentence == "redness stays at 0.432, held-out alignment stays at 0.000."
    assert "-0.000" not in comparison_table(job, [base, guided], "alignment")


@pytest.mark.parametrize(
    "model, prompt, expected",
    [("emoji128", "cat face", "alignment"), ("emoji128", "3d", "none"), ("a/b", "cat", "none")],
)
def test_a_sum_whose_terms_leave_no_heldout_reward_runs_without_it(model, prompt, expected, capsys):
    """A warning says so if nothing takes its place."""
    job = OptimizeJob(prompt=[prompt], reward=WITHOUT_HELDOUT, model=model)
    blank = SimpleNamespace(shape=(3, 128, 128), device="cpu", decode=lambda x: x)
    name, heldout = choose_heldout_reward(job, blank)
    assert name == expected and (heldout is None) == (expected == "none")
    assert ("no held-out reward for 'pickscore'" in capsys.readouterr().err) == (expected == "none")
    assert _with_patience(job).patience == 0 and _with_patience(replace(job, reward="style:3d")).patience > 0


def test_interruption_keeps_what_is_finished(tmp_path, monkeypatch):
    import noisetilt.cli.optimize as module

    real, calls = module.optimize, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "optimize", interrupted)
    arguments = ["optimize", "cat", *FEW, "--iterations", "1", "--batch", "1", "--out", str(tmp_path)]
    assert main(arguments) == 130
    run = json.loads((tmp_path / "run.json").read_text())
    assert not run["complete"] and run["base"]["count"] == 2 and run["guided"]["count"] == 1
    assert len(list(tmp_path.glob("cat-*-guided.png"))) == 1
    Image.open(tmp_path / "grid.png").verify()


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["cat fce", *FEW], "face"),
        (["cat", *FEW, "--set", "rate=0"], "rate = 0"),
        (["cat", *FEW, "--reward", "jpeg"], "gradient"),
    ],
)
def test_refusals_are_one_sentence(arguments, word, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["optimize", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("noisetilt: ") and word in error
    assert not (out / "run.json").exists()


@pytest.mark.parametrize(
    "method, label", [("gper-both", "iteration (at 0 the projected initial noise)"), ("reno", "iteration")]
)
def test_the_plot_says_where_the_initial_noise_is_projected(method, label):
    variants = OptimizeJob(prompt="cat face", reward="redness", method=method).variants()
    variants[0].curves, variants[1].curves = [torch.zeros(1, 1, 2)], [torch.ones(1, 3, 2)]
    (panel,) = _reward_panels(OptimizeJob(prompt="cat face", reward="redness", method=method), variants, "none")
    assert panel.xlabel == label and list(panel.series) == ["initial noise", method]
