"""`noisetilt rewards NAME`: all names of a kind, and the description of a reward with its held-out version."""

import pytest

from noisetilt.cli import main
from noisetilt.rewards import CATALOGUE, has_heldout
from noisetilt.rewards.catalogue import complete_names
from noisetilt.rewards.hub import HUB_NAMES, heldout_name, is_hub

NAMES = list(dict.fromkeys([*complete_names(), *HUB_NAMES]))


@pytest.fixture(autouse=True)
def _no_line_is_broken(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.mark.parametrize(
    "kind, count, line",
    [
        ("style", 5, "style:noto"),
        ("concept", 1406, "concept:tiger face  🐯"),
        ("Classifier:ImageNet", 1000, "classifier:imagenet:849  teapot"),
    ],
)
def test_all_names_of_a_kind_are_listed(kind, count, line, capsys):
    assert main(["rewards", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert line in lines and lines[3] == "" and len(lines[4:]) == count
    assert all(one.startswith(f"{kind.lower()}:") for one in lines[4:])


def described(name, capsys):
    """What is before the first colon and a space, and the held-out version."""
    assert main(["rewards", name]) == 0
    line, blank, version = capsys.readouterr().out.splitlines()
    assert blank == "" and version.startswith("held-out version: ")
    return line.partition(": ")[0], version.partition(": ")[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_reward_is_described_with_the_held_out_version_that_load_takes(name, capsys):
    expected = heldout_name(name) if is_hub(name) else "a second network" if has_heldout(name) else "none"
    entry, version = described(name, capsys)
    assert version == expected and name.split(":")[-1] in entry + CATALOGUE[entry]


@pytest.mark.parametrize(
    "name, entry, version",
    [
        *[(name, name, None) for name in CATALOGUE],
        ("concept:🐯", "concept:NAME", "a second network"),
        ("classifier:imagenet:Teapot", "classifier:imagenet:LABEL", "none"),
        ("classifier:some/model:cup", "classifier:MODEL:LABEL", "clipscore"),
        ("colour:#ff8800", "colour:#rrggbb", "none"),
        ("count:cup:2", "objects:LABEL", "clipscore"),
        ("clip", "clip:MODEL", "imagereward"),
        ("video:objects:cup", "video:pickscore", "video:clipscore"),
        ("aesthetic@/models/a", "aesthetic", "pickscore"),
        ("ocr:tesseract", "ocr", "none"),
    ],
)
def test_rewards_are_described_by_the_line_of_their_kind(name, entry, version, capsys):
    found = described(name, capsys)
    assert found[0] == entry and version in (None, found[1])


@pytest.mark.parametrize(
    "name, message",
    [
        ("rednes", "did you mean 'redness'?"),
        ("concpt", "did you mean 'concept'?"),
        ("style:oil", "style 'oil' is unknown"),
        ("alignment:cat", "reward 'alignment:cat' is unknown"),
        ("video", "reward 'video' needs a further part; write it like video:pickscore"),
        ("concept:tigr", "there is no concept 'tigr'; nearest names: tiger"),
        ("classifier:imagenet:teapott", "no label 'teapott'; nearest labels: teapot"),
        ("colour:red", "'red' is not a colour"),
        ("folder/missing.py:calm", "folder/missing.py"),
        ("0.5*style:3d + rednes", "did you mean 'redness'?"),
        ("style:anime", "style 'anime' is unknown; the styles are"),
        ("3d", "cannot read '3d' in the reward '3d'; did you mean style:3d?"),
        ("0.5*3D + redness", "did you mean 0.5*style:3d?"),
        ("cat face", "did you mean concept:cat face?"),
        ("no concept", "write it like 0.7*alignment + 0.3*redness"),
    ],
)
def test_unknown_rewards_are_refused(name, message, capsys):
    assert main(["rewards", name]) == 2
    output, error = capsys.readouterr()
    assert message in error and output == ""


def test_the_terms_of_a_sum_are_described(tmp_path, capsys):
    (tmp_path / "calm.py").write_text("def calm(images):\n    return images.mean((1, 2, 3))\n")
    assert main(["rewards", f"0.5*style:3d + redness - 2*{tmp_path}/calm.py:calm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[1:6:2]] == ["  held-out version"] * 3
    assert lines[0].startswith("0.5*style:3d is style:3d: log odds of the style 3d") and lines[1].endswith("network")
    assert lines[2].startswith("redness is redness: mean red") and lines[3].endswith(": none")
    assert lines[4].startswith(f"-2*{tmp_path}/calm.py:calm is FILE.py:FUNCTION: your own function")
    assert lines[-1] == "held-out version of the sum: 0.5*style:3d (second network)"
    assert main(["rewards", "redness + pickscore"]) == 0
    assert capsys.readouterr().out.endswith("held-out version of the sum: imagereward\n")
    assert main(["rewards", "redness + brightness"]) == 0
    assert capsys.readouterr().out.endswith("held-out version of the sum: none\n")


def test_the_list_has_the_held_out_versions(capsys):
    assert main(["rewards"]) == 0
    lines = {line.split(" ", 1)[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["alignment"].endswith("[held-out: a second network]")
    assert lines["pickscore"].endswith("[held-out: imagereward]") and "held-out" not in lines["redness"]
