"""Runs without a browser: results, files, cancelling, the queue, failures."""

import json
import runpy
import shlex
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import METHODS, rewards, sample
from noisetilt.cli import main
from noisetilt.cli.arguments import build_parser
from noisetilt.cli.comparison import Variant
from noisetilt.cli.generate import GenerateJob
from noisetilt.rewards import Reward
from noisetilt.studio import markup, views
from noisetilt.studio.files import read_settings, restore
from noisetilt.studio.mix import mix_spec
from noisetilt.studio.optimise_run import optimise
from noisetilt.studio.own_reward import EXAMPLE, use_code, write_code
from noisetilt.studio.repeat import generate_command
from noisetilt.studio.run_queue import RunQueue
from noisetilt.studio.runs import Run
from noisetilt.studio.sampling_runs import compare, generate
from noisetilt.studio.session import OWN, OwnReward, Session, Visitor
from noisetilt.studio.settings import (
    Settings,
    check_compare,
    check_generate,
    check_optimise,
    check_prompt,
    particles_within,
)
from noisetilt.studio.strengths import options_for
from noisetilt.studio.views import Row

SETTINGS = Settings("cat face", {"style:3d": 1.0, "redness": 0.5}, 0.6, steps=2, n=2, seed=3)
# A noise tilt guides the second of three steps alone, none of two.
GENERATED = replace(SETTINGS, steps=3)


def named(**changes):
    """The fields as the page sends them."""
    return {**vars(SETTINGS), "sliders": dict(SETTINGS.sliders), **changes}


def finish(session, work):
    run = Run(session.queue, work)
    seen = []
    for view in run.updates():
        seen.append((view.state, sum(row.done for row in view.rows)))
        # The page draws at any time, also while the worker adds a result.
        assert markup.status(view) and (markup.compared(view, "c") or not view.rows)
        assert markup.generated(view) or not view.rows
    return run.view, seen


@pytest.fixture(scope="module")
def generated(session):
    return finish(session, generate(session, Visitor(), GENERATED, "ntrk"))


def pngs(view):
    return [file for file in view.files if file.endswith(".png")]


def test_generate_gives_the_images_of_sample(session, generated):
    view, _ = generated
    assert view.state == "done", view.message
    assert [row.variant.name for row in view.rows] == ["base", "guided"]
    method = METHODS["ntrk"].replace(**options_for("ntrk", 0.6))
    reward = rewards.load("style:3d + 50*redness")
    result = sample(session.model, ["cat face"] * 2, reward, method, steps=3, seeds=[3, 4], chunk=8)
    assert view.rows[1].method == method
    assert (torch.stack(view.rows[0].variant.images) - result.images).abs().max() > 0.01
    assert torch.allclose(torch.stack(view.rows[1].variant.images), result.images, atol=1e-5)
    assert view.rows[1].variant.rewards == pytest.approx(result.rewards.tolist(), abs=1e-4)
    assert np.allclose(view.rows[1].curve("target"), result.trace.rewards.numpy(), atol=1e-4)
    assert view.rows[1].variant.nfe == 3 and view.rows[1].curve("heldout").shape == (3, 2)


def test_the_strength_changes_the_images(session):
    shown = []
    for strength in (0.0, 1.0):
        settings = replace(GENERATED, n=1, strength=strength)
        view, _ = finish(session, compare(session, Visitor(), settings, ["ntrk"], 3))
        assert view.state == "done", view.message
        assert view.rows[0].variant.method == METHODS["ntrk"].replace(**options_for("ntrk", strength))
        shown.append(view.rows[0].variant.images[0])
    assert (shown[0] - shown[1]).abs().max() > 0.01


def test_it_shows_each_step(generated):
    view, seen = generated
    assert len({done for _, done in seen}) >= 3 and seen[-1] == ("done", 6)
    assert [len(frames) for frames in view.rows[0].frames] == [4, 4]  # after each of three steps, and the result


@pytest.mark.long
def test_the_files_repeat_the_run(generated, tmp_path):
    view, _ = generated
    names = [file.rpartition("/")[2] for file in view.files]
    assert names[:4] == ["all-files.zip", "repeat.py", "repeat.sh", "run.json"] and len(names) == 8
    assert "cat-face-3-guided.png" in names
    with zipfile.ZipFile(view.files[0]) as archive:
        assert archive.namelist() == names[1:] and archive.read("run.json") == Path(view.files[3]).read_bytes()
    record = json.loads(Path(view.files[3]).read_text())
    assert record["complete"] and record["settings"]["options"]["rho"] == view.rows[1].method.options()["rho"]
    assert record["guided"]["reward_mean"] == pytest.approx(np.mean(view.rows[1].variant.rewards))
    command = [sys.executable, view.files[1]]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    base, guided = map(json.loads, printed.strip().splitlines())
    assert base == pytest.approx(view.rows[0].variant.rewards, abs=1e-3)
    assert guided == pytest.approx(view.rows[1].variant.rewards, abs=1e-3)
    for name, row in zip(("base", "ntrk"), view.rows, strict=True):
        for number, image in enumerate(row.variant.images):
            saved = np.asarray(Image.open(tmp_path / f"out/cat-face-{name}/image-{number}.png")) / 255
            assert np.abs(saved - image.permute(1, 2, 0).numpy()).max() < 0.01


def test_a_negative_reward_can_be_repeated():
    job = GenerateJob(prompt="cat face", reward=mix_spec({"style:3d": -1.0}), steps=2)
    command = generate_command(job)
    assert "--reward=-1*style:3d" in command
    assert build_parser().parse_args(shlex.split(command)[1:]).reward == job.reward


def test_prompts_with_a_hyphen_and_all_digits_of_the_guidance_can_be_repeated():
    job = GenerateJob(prompt="-cat face", reward="redness", guidance=2.123456789)
    parsed = build_parser().parse_args(shlex.split(generate_command(job))[1:])
    assert parsed.prompt == ["-cat face"] and parsed.guidance == 2.123456789 and parsed.reward == "redness"


def test_the_command_line_repeats_the_run(generated, tmp_path):
    view, _ = generated
    arguments = shlex.split(view.command)[1:]
    arguments[arguments.index("--out") + 1] = str(tmp_path)
    assert build_parser().parse_args(arguments).command == "generate" and main(arguments) == 0
    for file in pngs(view):
        again = Image.open(tmp_path / file.rpartition("/")[2])
        assert np.abs(np.asarray(Image.open(file)).astype(int) - np.asarray(again).astype(int)).max() <= 1


def test_a_png_restores_its_settings(session, generated):
    view, _ = generated
    fields, notes = restore(pngs(view)[-1], session.names, session.job, session.one_step)
    assert notes == [] and fields["tab"] == "generate" and fields["method"] == "ntrk"
    for name in ("prompt", "strength", "steps", "n", "seed"):
        assert fields[name] == getattr(GENERATED, name)
    assert {name: value for name, value in fields["sliders"].items() if value} == dict(SETTINGS.sliders)


def test_compare_spends_one_budget(session):
    view, _ = finish(
        session, compare(session, Visitor(), replace(SETTINGS, n=1), ["base", "ntrk", "svdd", "freedom"], 6)
    )
    assert view.state == "done", view.message
    calls = {row.variant.name: row.variant.nfe for row in view.rows}
    assert calls["base"] == 2 and all(2 < calls[name] <= 6 for name in ("ntrk", "svdd", "freedom"))
    record = json.loads(Path(next(file for file in view.files if file.endswith("run.json"))).read_text())
    assert set(record["methods"]) == set(calls) and record["budget"] == 6
    assert len(pngs(view)) == 4 and len(view.command.splitlines()) == 4
    assert [len(frames) for frames in view.rows[1].frames] == [3]


def test_the_budget_sets_the_particles(session):
    assert particles_within(session, "ntrk", 25, 100) == {"particles": 4}
    assert particles_within(session, "rbf", 25, 100) == {"budget": 4}
    assert particles_within(session, "ugd", 25, 100)["particles"] < 4  # time travel repeats its steps
    assert particles_within(session, "base", 25, 100) == {}
    assert particles_within(session, "gper-ntrk", 25, 160) == {"particles": 2}  # 51 calls choose the noise


def test_a_method_that_needs_more_than_the_budget_is_refused(session):
    from noisetilt.studio.compare_tab import SELECTED  # imports gradio, which takes seconds

    found = check_compare(session, Visitor(), named(steps=10), ["base", "ntrk", "ugd", "psi", "gper-ntrk"], 10)
    assert list(found) == ["methods"] and "ugd (18), psi (23), gper-ntrk (61)" in found["methods"]
    assert "ntrk (" not in found["methods"].replace("gper-ntrk (", "")
    steps = session.model.steps
    assert check_compare(session, Visitor(), named(steps=steps), SELECTED, 2 * steps) == {}


@pytest.mark.long
def test_network_calls_for_the_initial_noise_are_counted(session):
    settings = replace(SETTINGS, n=1, sliders={"redness": 1.0})
    view, _ = finish(session, compare(session, Visitor(), settings, ["psi", "gper-ntrk"], 53))
    assert {row.variant.name: row.variant.nfe for row in view.rows} == {"psi": 45, "gper-ntrk": 53}


def test_optimise_keeps_every_iterate(session, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # repeat.py saves its images there
    visitor = Visitor()
    view, _ = finish(session, optimise(session, visitor, SETTINGS, "gper", 2))
    assert view.state == "done", view.message
    row = visitor.iterates
    assert [len(frames) for frames in row.frames] == [3, 3] and row.curve("target").shape == (3, 2)
    assert row.variant.rewards == pytest.approx([row.target[b, i] for i, b in enumerate(row.best)], abs=1e-4)
    assert "mean of the best iterates" in markup.optimised(view)
    for number in range(3):
        marked = markup.iterate(row, number).count("(best)")
        assert marked == row.best.count(number)
    settings = read_settings(pngs(view)[0])
    assert settings["iterations"] == 2 and settings["method"] == "gper" and settings["model"] == session.one_step
    fields, notes = restore(pngs(view)[0], session.names, session.job, session.one_step)
    assert notes == []
    assert fields["tab"] == "optimise" and fields["iterations"] == 2 and fields["strength"] == SETTINGS.strength
    capsys.readouterr()
    runpy.run_path(next(file for file in view.files if file.endswith(".py")), run_name="__main__")
    assert json.loads(capsys.readouterr().out) == pytest.approx(row.variant.rewards, abs=1e-3)


def test_an_iterate_is_never_shown_without_its_rewards(monkeypatch):
    """The page is drawn while the worker adds the images of an iterate."""
    row, shown, real = Row(Variant("guided", METHODS["gper"]), "gper", [3, 4], 2, True), [], views.encode_thumbnail
    monkeypatch.setattr(views, "encode_thumbnail", lambda image: (shown.append(markup.iterate(row)), real(image))[1])
    for number in range(2):
        row.record(number, 0, torch.zeros(2, 3, 8, 8), torch.ones(2), torch.ones(2))
    assert len(shown) == 4 and all("nan" not in text for text in [*shown, markup.iterate(row)])


def test_a_run_in_which_no_step_is_guided_says_so(session):
    view, _ = finish(session, generate(session, Visitor(), SETTINGS, "ntrk"))
    assert view.state == "done" and torch.equal(*(row.variant.images[0] for row in view.rows))
    assert [text.partition(":")[0] for text in view.warnings] == ["0 of 2 steps can be guided"]
    assert "give 3 steps or more" in markup.status(view)
    assert finish(session, generate(session, Visitor(), replace(GENERATED, n=1), "ntrk"))[0].warnings == []


def test_a_run_is_cancelled_within_a_step(session):
    settings = Settings("cat face", {"style:3d": 1.0}, 0.5, steps=50, n=1, seed=0)
    run = Run(session.queue, generate(session, Visitor(), settings, "ntrk"))
    done = 0
    for view in run.updates():
        if view.rows and view.rows[0].done >= 2 and not done:
            done = view.rows[0].done
            run.cancel()
    assert run.view.state == "cancelled" and run.view.files == []
    assert len(run.view.rows) == 1 and run.view.rows[0].done <= done + 1


def test_the_held_out_rewards_of_a_mix_are_none_of_its_rewards(session, monkeypatch):
    loaded = []

    def load_hub(name, *_):
        loaded.append(name)
        return Reward(name, lambda images: images)

    monkeypatch.setattr("noisetilt.rewards.catalogue.load_hub", load_hub)
    own = OwnReward("", Reward("own", lambda images: images))
    mix = session.load_mix(f"0.5*pickscore + 2*{OWN} + 0.5*aesthetic", own, heldout=True)
    assert mix.name == "imagereward" and not mix.terms  # once for both, and the own reward is no judge of itself
    session.load_mix("aesthetic", own)
    assert check_generate(session, Visitor(), named(sliders={"aesthetic": 1.0}), "ntrk") == {}
    assert loaded == ["imagereward", "aesthetic"]
    with pytest.raises(ValueError, match="no reward of your own"):
        session.load_mix(f"pickscore + {OWN}", None)
    name, mix = session.choose_heldout("style:3d - 2*pickscore", None, "cat face", None)
    assert name == "style:3d - 2*imagereward" == mix.name
    without = "style:3d + pickscore + imagereward + clipscore"
    blank = torch.zeros(1, 3, 128, 128)
    assert session.choose_heldout(without, None, "cat face", blank)[0] == "alignment"
    assert session.choose_heldout(without, None, "cat face", None) == ("none", None)


def test_a_failed_run_says_why_and_the_next_one_works(session):
    visitor = Visitor()
    code = "calls = []\ndef reward(images, prompts):\n    calls.append(1)\n    assert len(calls) < 4, 'no more'\n"
    use_code(session, visitor, code + "    return images.mean((1, 2, 3))\n")
    settings = Settings("cat face", {OWN: 1.0}, 0.5, steps=3, n=1, seed=0)
    view, _ = finish(session, generate(session, visitor, settings, "ntrk"))
    assert view.state == "failed" and view.message == "AssertionError: no more (my_reward.py, line 4)."
    with pytest.raises(AssertionError):
        session.load_mix(OWN, visitor.own)(torch.zeros(1, 3, 8, 8), ["cat"])
    settings = Settings("cat face", {"redness": 1.0}, 0.5, steps=1, n=1, seed=0)
    assert finish(session, generate(session, visitor, settings, "ntrk"))[0].state == "done"


def test_an_own_reward_is_in_the_files(session, monkeypatch, capsys):
    visitor = Visitor()
    assert "has a gradient" in use_code(session, visitor, EXAMPLE)
    settings = Settings("cat face", {OWN: 1.0}, 0.5, steps=2, n=1, seed=0)
    view, _ = finish(session, generate(session, visitor, settings, "ntrk"))
    assert view.state == "done", view.message
    from noisetilt.studio.page import build_page  # imports gradio, which takes seconds

    page = build_page(session)
    [fill] = [event.fn for event in page.fns.values() if event.name == "fill"]
    assert "restored" in fill(pngs(view)[-1])[0] and page.delete_cache is not None
    script = next(file for file in view.files if file.endswith("repeat.py"))
    monkeypatch.chdir(Path(script).parent)
    capsys.readouterr()
    runpy.run_path(script, run_name="__main__")
    assert json.loads(capsys.readouterr().out.splitlines()[1]) == pytest.approx(view.rows[1].variant.rewards, abs=1e-3)


def test_the_saved_code_is_that_which_ran(session):
    visitor = Visitor()
    code = "def reward(images):\n    return images[:, 0].mean((1, 2))\n"
    use_code(session, visitor, code)
    run = Run(session.queue, generate(session, visitor, Settings("cat face", {OWN: 1.0}, 0.5, 1, 1, 0), "ntrk"))
    for _ in run.updates():
        use_code(session, visitor, code.replace("0]", "2]"))
    assert Path(next(file for file in run.view.files if file.endswith("my_reward.py"))).read_text() == code
    assert visitor.own.code != code
    [image] = run.view.rows[0].variant.images
    assert run.view.rows[0].variant.rewards == pytest.approx([float(image[0].mean())], abs=1e-4)


@pytest.mark.parametrize(
    "names, weights",
    [
        (["style:3d", "style:noto", "alignment"], {"style:3d": 0.5, "alignment": 0.5}),
        (["style:3d", "redness"], {"style:3d": 1.0}),
        (["redness", "style:3d", "alignment"], {"redness": 1.0}),
    ],
)
def test_the_first_weights_of_a_page(names, weights):
    """The style is mixed with the match with the prompt, where the model has both; another first reward is not."""
    from noisetilt.studio.fields import first_weights

    assert first_weights(names) == weights


def test_a_page_that_is_started_with_my_reward(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("my_reward.py").write_text(EXAMPLE)
    import gradio  # takes seconds

    from noisetilt.studio.fields import shared_fields

    session = Session(GenerateJob(prompt="", reward="", model="emoji128"), [OWN, OWN], allow_code=True)
    try:
        with gradio.Blocks() as page:
            shared_fields(session)
        assert [getattr(block, "label", "") for block in page.blocks.values()].count("my reward") == 1
        visitor = session.visitor("a")
        assert check_generate(session, visitor, named(sliders={OWN: 1.0}), "ntrk") == {}
        work = generate(session, visitor, Settings("cat face", {OWN: 1.0}, 0.5, 1, 1, 0), "ntrk")
        view, _ = finish(session, work)
        assert view.state == "done", view.message
        assert Path(next(file for file in view.files if file.endswith("my_reward.py"))).read_text() == EXAMPLE
        assert restore(pngs(view)[-1], session.names, session.job, session.one_step).fields["sliders"][OWN] == 1
    finally:
        session.close()


def test_an_own_reward_may_have_a_dataclass(session):
    start = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    b: int = 1\n"
    )
    assert "has a gradient" in use_code(session, Visitor(), start + EXAMPLE)


def test_a_run_that_is_interrupted_by_its_reward_has_failed(session):
    visitor = Visitor()
    code = "calls = []\ndef reward(images):\n    calls.append(1)\n"
    code += "    if len(calls) > 2:\n        raise KeyboardInterrupt\n"
    use_code(session, visitor, code + "    return images.mean((1, 2, 3))\n")
    view, _ = finish(session, generate(session, visitor, Settings("cat face", {OWN: 1.0}, 0.5, 2, 1, 0), "ntrk"))
    assert view.state == "failed" and "KeyboardInterrupt" in view.message


@pytest.mark.parametrize(
    "code, word",
    [
        ("def reward(", "SyntaxError"),
        ("1 / 0", "line 1"),
        ("x = 1", "no function reward"),
        ("def reward(images):\n    return 1", "returned int"),
        ("def reward(images):\n    return images.mean((1, 2, 3)) / 0", "finite"),
        ("def reward(images):\n    raise KeyError('a')", "line 2"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_wrong_code_is_refused(session, code, word):
    visitor = Visitor()
    with pytest.raises(ValueError, match=word):
        use_code(session, visitor, code)
    assert visitor.own is None


def test_all_runs_can_be_cancelled_at_once(session):
    def work(run):
        while True:
            run.check()
            time.sleep(0.01)

    runs = [Run(session.queue, work) for _ in range(2)]
    for key, run in zip("ab", runs, strict=True):
        session.visitor(key).runs = [run]
    updates = [run.updates() for run in runs]
    assert [next(each).state for each in updates] == ["running", "waiting"]
    session.cancel()
    assert [list(each)[-1].state for each in updates] == ["cancelled", "cancelled"]


def test_a_visitor_leaves_no_files(session):
    visitor = session.visitor("a")
    folder, file = session.new_folder(visitor), write_code(session, visitor, EXAMPLE)
    assert write_code(session, visitor, "x = 1") == file and file.read_text() == "x = 1"
    assert folder.is_dir() and session.new_folder(visitor) != folder
    for function in (use_code, write_code):
        with pytest.raises(ValueError, match=r"has 100001 characters, expected at most 100000; shorten it"):
            function(session, visitor, "#" * 100_001)
    session.leave("a")
    assert not folder.exists() and not file.parent.exists() and session.folder.is_dir()


def test_code_is_not_executed_without_the_flag(session, monkeypatch, tmp_path):
    monkeypatch.setattr(session, "allow_code", False)
    with pytest.raises(ValueError, match="--allow-code"):
        use_code(session, Visitor(), f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists()


def test_good_settings_have_no_error(session):
    assert check_generate(session, Visitor(), named(), "ntrk") == {}
    assert check_compare(session, Visitor(), named(), ["base", "svdd"], 4) == {}
    assert check_optimise(session, Visitor(), named(), "gper", 3) == {}


@pytest.mark.parametrize(
    "changes, method, field, word",
    [
        ({"prompt": ""}, "ntrk", "prompt", "empty"),
        ({"prompt": "cat fce"}, "ntrk", "prompt", "face"),
        ({"prompt": None}, "ntrk", "prompt", "empty"),
        ({"prompt": "cat " * 200}, "ntrk", "prompt", "characters"),
        ({"steps": 0}, "ntrk", "steps", "from 1 to 200"),
        ({"steps": 2.5}, "ntrk", "steps", "whole number"),
        ({"steps": None}, "ntrk", "steps", "empty"),
        ({"steps": 10**400}, "ntrk", "steps", "from 1 to 200"),
        ({"n": 99}, "ntrk", "n", "from 1 to 16"),
        ({"seed": -1}, "ntrk", "seed", "from 0"),
        ({"seed": float("inf")}, "ntrk", "seed", "whole number"),
        ({"strength": 7}, "ntrk", "strength", "from 0 to 1"),
        ({"sliders": {"style:3d": 0.0}}, "ntrk", "sliders", "at least one"),
        ({"sliders": {OWN: 1.0}}, "ntrk", "sliders", "My reward"),
        ({}, "magic", "method", "expected one of"),
        ({}, None, "method", "expected one of"),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(session, changes, method, field, word):
    found = check_generate(session, Visitor(), named(**changes), method)
    assert list(found) == [field] and word in found[field]


def test_a_pipeline_with_a_list_of_words_refuses_others_at_the_prompt(session):
    """Its own check would put the message beside the method."""
    from noisetilt.integrations.diffusers.pipeline_model import PipelineModel

    model = PipelineModel(session.model.pipe)
    assert not hasattr(model, "denoiser")
    check_prompt("cat face", model)
    with pytest.raises(ValueError, match="does not know the word 'qwzx'"):
        check_prompt("qwzx", model)


def test_the_page_says_what_a_method_does(session):
    import gradio

    from noisetilt.studio.fields import method_field, shared_fields  # imports gradio, which takes seconds
    from noisetilt.studio.strengths import SAMPLERS

    with gradio.Blocks() as page:
        field = method_field(shared_fields(session), SAMPLERS, "ntrk")
    [describe, _] = [event.fn for event in page.fns.values()]
    summary = METHODS["ntrk"].summary
    assert field.info == f"{summary[0].upper()}{summary[1:]}. This strength sets rho = 0.015."
    for method in SAMPLERS:
        assert METHODS[method].summary[1:] in describe(method, 0.5)["info"]


def test_wrong_values_of_the_other_tabs(session):
    assert "methods" in check_compare(session, Visitor(), named(), [], 4)
    found = check_compare(session, Visitor(), named(), ["ntrk"], 1)["budget"]
    assert found == "The budget is 1 network call per image, expected at least the number of steps, 2."
    assert "iterations" in check_optimise(session, Visitor(), named(), "gper", 0)
    assert "method" in check_optimise(session, Visitor(), named(), "ntrk", 3)


def test_a_black_box_with_a_method_that_needs_a_gradient(session):
    visitor = Visitor()
    use_code(session, visitor, "def reward(images):\n    return images.detach().mean((1, 2, 3))")
    found = check_generate(session, visitor, named(sliders={OWN: 1.0}), "ntrk")
    assert list(found) == ["method"]
    assert check_generate(session, visitor, named(sliders={OWN: 1.0}), "svdd") == {}


def test_the_queue_lets_one_through_at_a_time_in_order():
    line, order, release = RunQueue(), [], threading.Event()

    def work(number):
        def run(_):
            order.append(number)
            release.wait(10)

        return run

    runs = [Run(line, work(number)) for number in range(3)]
    updates = [run.updates() for run in runs]
    assert next(updates[0]).state == "running"
    views = [next(iterator) for iterator in updates[1:]]
    assert [view.message for view in views] == [
        "Waiting in the queue: 1 run is before yours.",
        "Waiting in the queue: 2 runs are before yours.",
    ]
    runs[1].cancel()
    assert [view.state for view in updates[1]][-1] == "cancelled"
    release.set()
    assert [list(iterator)[-1].state for iterator in (updates[0], updates[2])] == ["done", "done"]
    assert order == [0, 2]
