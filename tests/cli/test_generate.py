import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from noisetilt import METHODS
from noisetilt.cli import comparison, iterates, main, progress
from noisetilt.cli.comparison import ImageBatch, Variant, thumbnails, variant_rows
from noisetilt.cli.generate import GenerateJob, run
from noisetilt.cli.iterates import IterateImages, are_drawn, merged_frames
from noisetilt.report import table

VARIANTS = ("base", "guided")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    arguments = ["generate", "cat face", "--reward", "redness", "--steps", "4", "--n", "3", "--seed", "5"]
    assert main([*arguments, "--set", "rho=0.1", "--batch", "2", "--animate", "--out", str(out)]) == 0
    return out


def test_run_json_has_the_statistics(finished):
    run = json.loads((finished / "run.json").read_text())
    assert run["complete"]
    for variant in ("base", "guided"):
        assert run[variant]["nfe"] == 4 and run[variant]["seconds"] > 0
        rewards = [p["reward"] for p in run["images"] if f"-{variant}." in p["file"]]
        assert len(rewards) == 3 and np.mean(rewards) == pytest.approx(run[variant]["reward_mean"])
    assert run["guided"]["reward_mean"] > run["base"]["reward_mean"]
    assert run["heldout_reward"] == "alignment"
    assert run["settings"]["options"]["rho"] == 0.1 and run["settings"]["seed"] == 5


def test_files_are_written_and_images_carry_their_settings(finished):
    for name in ("grid.png", "rewards.png", "run.json"):
        assert (finished / name).stat().st_size > 1000
    picture = Image.open(finished / "cat-face-6-guided.png")
    settings = json.loads(picture.text["noisetilt"])
    assert picture.size == (128, 128)
    assert settings["prompt"] == "cat face" and settings["seed"] == 6 and settings["options"] == {"rho": 0.1}


def test_the_animation_has_a_frame_per_step_and_ends_near_the_images(finished):
    animation, grid = Image.open(finished / "animation.webp"), Image.open(finished / "grid.png")
    assert animation.n_frames == 4 and animation.size == grid.size
    animation.seek(3)
    last, images = (np.asarray(image.convert("RGB")).astype(float)[30:150] for image in (animation, grid))
    animation.seek(0)
    first = np.asarray(animation.convert("RGB")).astype(float)[30:150]
    assert np.abs(last - images).mean() < np.abs(first - images).mean()


def test_the_last_lines_name_the_picture_and_show_says_why_it_cannot(finished, capsys, tmp_path):
    arguments = ["generate", "cat face", "--reward", "redness", "--steps", "2", "--n", "1", "--show"]
    assert main([*arguments, "--out", str(tmp_path / "new")]) == 0
    output, errors = capsys.readouterr()
    result, _, picture = " ".join(output.split()).rpartition("Open ")
    assert "redness stays at" in result and "held-out alignment" in result  # the first of two steps is not guided
    assert picture.startswith(f"{tmp_path / 'new' / 'grid.png'}: base above, ntrk below.")
    assert "not shown, because the output is not a terminal" in errors.splitlines()[-1]
    assert "\x1b" not in output


def test_an_image_is_reproduced_from_its_own_settings(finished, tmp_path):
    settings = json.loads(Image.open(finished / "cat-face-6-guided.png").text["noisetilt"])
    fields = {k: v for k, v in settings.items() if k in GenerateJob.__dataclass_fields__}
    run(GenerateJob(**fields, out=tmp_path))
    first, again = (np.asarray(Image.open(p / "cat-face-6-guided.png")).astype(int) for p in (finished, tmp_path))
    assert np.abs(first - again).max() <= 1


def test_every_prompt_has_n_images_at_the_same_seeds(finished, tmp_path):
    arguments = ["house", "cat face", "--reward", "redness", "--steps", "4", "--n", "2", "--seed", "5"]
    assert main(["generate", *arguments, "--set", "rho=0.1", "--batch", "3", "--out", str(tmp_path)]) == 0
    names = [
        f"{stem}-{seed}-{variant}.png" for stem in ("house", "cat-face") for seed in (5, 6) for variant in VARIANTS
    ]
    assert sorted(names) == sorted(file.name for file in tmp_path.glob("*-*.png"))
    for variant in VARIANTS:
        one, again = (
            np.asarray(Image.open(folder / f"cat-face-6-{variant}.png")).astype(int) for folder in (finished, tmp_path)
        )
        assert np.abs(one - again).max() <= 1
    record = json.loads((tmp_path / "run.json").read_text())
    assert [image["prompt"] for image in record["images"]] == ["house", "house", "cat face", "cat face"] * 2
    assert json.loads(Image.open(tmp_path / names[0]).text["noisetilt"])["prompt"] == "house"


def test_prompts_with_the_same_file_name_have_their_own_images(tmp_path):
    short = ["--reward", "redness", "--steps", "1", "--n", "1", "--out", str(tmp_path)]
    assert main(["generate", "🐱", "🐶", "house", *short]) == 0
    names = ["house-0-base.png", "picture-prompt1-0-base.png", "picture-prompt2-0-base.png"]
    assert sorted(file.name for file in tmp_path.glob("*-base.png")) == names
    first, second = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in names[1:])
    assert np.abs(first - second).max() > 50


def test_single_words_are_reported_as_prompts(tmp_path, capsys):
    assert (
        main(["generate", "cat", "face", "--reward", "redness", "--steps", "1", "--n", "1", "--out", str(tmp_path)])
        == 0
    )
    assert "2 prompts: cat, face; put a prompt of several words in quotes" in capsys.readouterr().err


def test_the_grid_has_a_limited_number_of_images():
    images = [torch.zeros(3, 8, 8)] * 300
    variants = [Variant("base", METHODS["base"], images, [1.0] * 300, [None] * 300), Variant("guided", METHODS["ntrk"])]
    ((label, shown),) = variant_rows(variants, {"base": "base", "guided": "ntrk"})
    assert len(shown) == 256 and label == "base: reward +1.000; the first 256 of 300 images"


@pytest.mark.parametrize("shape", [(4, 3, 300, 200), (4, 5, 3, 16, 16)])
def test_a_variant_keeps_thumbnails_of_the_images_that_the_grid_shows(shape, monkeypatch):
    monkeypatch.setattr(comparison, "MAX_GRID", 6)
    variant, images = Variant("base", METHODS["base"]), torch.rand(shape)
    for _ in range(3):
        variant.keep(images)
    assert all(torch.equal(*pair) for pair in zip(variant.images, [*thumbnails(images)] * 2, strict=False))
    assert len(variant.images) == 6 and variant.missing == 0
    sides = 3 * 256 * 171 if len(shape) == 4 else 3 * 16 * 16
    assert all(image.untyped_storage().nbytes() == 4 * sides for image in variant.images)


@pytest.mark.parametrize("command, extra", [("generate", ["--steps", "1", "--animate"]),
                                            ("optimize", ["--iterations", "1"])])  # fmt: skip
def test_a_continued_run_reads_only_the_images_that_it_shows(command, extra, tmp_path, monkeypatch):
    arguments = [command, "cat face", "--reward", "redness", "--n", "5", "--batch", "2", *extra, "--out", str(tmp_path)]
    monkeypatch.setattr(comparison, "MAX_GRID", 3)
    monkeypatch.setattr(iterates, "MAX_IMAGES", 3)
    assert main(arguments) == 0
    names = ["grid.png", "animation.webp"]
    before, read, real = [(tmp_path / name).read_bytes() for name in names], [], progress.read_image
    monkeypatch.setattr(progress, "read_image", lambda file: (read.append(file.name), real(file))[1])
    assert main([*arguments, "--resume"]) == 0
    assert read == [f"cat-face-{seed}-{variant}.png" for variant in ("base", "guided") for seed in range(3)]
    assert before == [(tmp_path / name).read_bytes() for name in names]


def test_iterates_are_kept_of_the_images_that_the_animation_shows():
    drawn = [first for first in range(0, 15, 3) if are_drawn(ImageBatch(first, ["cat"] * 3, [0, 1, 2]))]
    batches = [IterateImages(1, {0: [torch.zeros(3, 4, 4)] * 3, 1: [torch.zeros(3, 4, 4)] * 3}) for _ in drawn]
    assert drawn == [0, 3, 6] and {len(images) for images in merged_frames(batches).values()} == {8}


def test_a_batch_that_stopped_early_stays_on_its_last_iterate():
    """Its images there are drawn, and no iteration that none ran is named."""
    batches = []
    for end in (31, 42):
        images = IterateImages(100)
        for number in range(end + 1):
            images.record(number, lambda number=number: torch.full((1, 3, 4, 4), number / 100))
        images.record_end(end, torch.full((1, 3, 4, 4), end / 100))
        batches.append(images)
    frames = merged_frames(batches)
    assert list(frames) == [0, 4, 9, 13, 17, 22, 26, 30, 35, 39, 42]
    values = {number: [round(100 * image.mean().item()) for image in images] for number, images in frames.items()}
    assert values[30] == [30, 30] and values[35] == [31, 35] and values[42] == [31, 42]


def test_the_base_model_alone_is_sampled_once(tmp_path, capsys):
    arguments = ["cat", "--reward", "redness", "--method", "base", "--steps", "1", "--n", "1", "--out", str(tmp_path)]
    assert main(["generate", *arguments]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "redness is " in text and ", held-out alignment is " in text and "stays" not in text
    assert f"Open {tmp_path / 'grid.png'}: base. The images, rewards.png and run.json" in text
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["complete"] and record["base"]["count"] == len(record["images"]) == 1 and "guided" not in record
    assert main(["generate", *arguments, "--resume"]) == 0


def test_interruption_keeps_what_is_finished(tmp_path, monkeypatch):
    import noisetilt.cli.generate as module

    real, calls = module.sample, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "sample", interrupted)
    arguments = ["generate", "cat", "--reward", "redness", "--steps", "2", "--n", "2", "--batch", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 130
    run = json.loads((tmp_path / "run.json").read_text())
    assert not run["complete"] and run["base"]["count"] == 2 and "guided" not in run
    assert len(list(tmp_path.glob("cat-*-base.png"))) == 2
    Image.open(tmp_path / "grid.png").verify()


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["cat fce", "--reward", "redness"], "face"),
        (["cat face", "cat fce", "--reward", "redness"], "face"),
        (["cat", "cat", "--reward", "redness"], "'cat' is given twice"),
        (["cat", "dog", "--reward", "redness", "--n", "5001"], "10002 images"),
        (["cat", "3d", "--reward", "alignment"], "names no content"),
        (["cat", "--reward", "redness", "--method", "magic"], "ntrk"),
        (["cat", "--reward", "redness", "--set", "rho=much"], "rho = 'much'"),
        (["cat", "--reward", "redness", "--eta", "0"], "eta = 0"),
        (["cat", "--reward", "redness", "--model", "sd"], "emoji128"),
        (["cat", "--reward", "jpeg"], "gradient"),
        (["cat", "--reward", "redness", "--model", "emoji128-turbo", "--height", "0", "--width", "0"], "height"),
        (["3d", "--reward", "alignment"], "names no content"),
    ],
)
def test_refusals_are_one_sentence(arguments, word, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["generate", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("noisetilt: ") and word in error
    assert not (out / "run.json").exists()


@pytest.mark.parametrize("command, word", [("methods", "ntrk"), ("rewards", "style:3d"), ("models", "emoji128")])
def test_lists(command, word, capsys):
    assert main([command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(word) and len(line.split()) > 3 for line in lines)


def test_the_list_of_methods_has_each_option_that_differs_from_the_plain_sampler(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert main(["methods"]) == 0
    *lines, own, empty, common = capsys.readouterr().out.splitlines()
    plain = METHODS["base"].options()
    assert (
        len(lines) == len(METHODS)
        and "FILE.py:NAME" in own
        and empty == ""
        and all(f"{k}={v}" in common for k, v in plain.items())
    )
    for line, method in zip(lines, METHODS.values(), strict=True):
        listed = re.findall(r"(\w+)=", line)
        assert listed == [k for k, v in method.options().items() if k not in plain or v != plain[k]], line


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_source_and_its_options(name, capsys):
    assert main(["methods", name]) == 0
    text = capsys.readouterr().out
    assert all(f"{option}=" in text for option in METHODS[name].options())
    assert "20" in text and name in text  # a year or an arXiv number


def test_help_imports_nothing_heavy():
    code = "import sys; from noisetilt.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_table_aligns():
    lines = table(["name", "value"], [["a", 1.0], ["long name", -12.5]]).splitlines()
    assert lines[2].endswith("  1.000") and lines[3].endswith("-12.500")
    assert len({len(line) for line in lines}) == 1
