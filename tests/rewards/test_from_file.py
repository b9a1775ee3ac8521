"""Rewards from a Python file: "file.py:function"."""

import sys
from types import ModuleType

import pytest
import torch

from noisetilt import rewards
from noisetilt.cli import main
from noisetilt.rewards.catalogue import split_terms
from noisetilt.rewards.reward import may_use_prompts

CODE = """
import torch

def calm(images):
    return -images.diff(dim=-1).abs().mean(dim=(1, 2, 3))

def Long(images, prompts):
    return torch.tensor([float(len(prompt)) for prompt in prompts])

Long.differentiable = False
"""


@pytest.fixture()
def file(tmp_path):
    file = tmp_path / "Calm_Rewards.py"
    file.write_text(CODE)
    return file


def test_a_function_is_loaded_by_its_file(file):
    images, reward = torch.rand(2, 3, 8, 8), rewards.load(f"{file}:calm")
    assert torch.allclose(reward(images, ["a", "b"]), -images.diff(dim=-1).abs().mean(dim=(1, 2, 3)))
    assert reward.name == f"{file}:calm" and reward.differentiable


def test_it_can_be_a_term_of_a_sum_and_keep_its_properties(file):
    reward = rewards.load(f"2*{file}:Long + redness")
    assert not reward.differentiable
    assert torch.allclose(reward(torch.zeros(2, 3, 8, 8), ["a", "abc"]), torch.tensor([2.0, 6.0]))


def test_a_relative_path_is_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert rewards.load("Calm_Rewards.py:calm")(torch.zeros(1, 3, 4, 4), ["a"]) == 0
    assert rewards.load("./Calm_Rewards.py:calm")(torch.zeros(1, 3, 4, 4), ["a"]) == 0


def test_what_is_missing_is_named(file):
    with pytest.raises(ValueError, match="does not exist"):
        rewards.load(f"{file.parent}/none.py:calm")
    with pytest.raises(ValueError, match="no function 'storm'; its functions are: calm, Long"):
        rewards.load(f"{file}:storm")
    file.write_text("1 / 0")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        rewards.load(f"{file}:calm")


def test_postponed_annotations_and_a_dataclass_work(file):
    start = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    file.write_text(start + "@dataclass\nclass A:\n    b: float = 2.0\n" + CODE)
    assert rewards.load(f"{file}:calm")(torch.zeros(1, 3, 4, 4), ["a"]) == 0


def test_files_of_the_same_name_do_not_replace_each_other(tmp_path):
    values = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        file = tmp_path / str(number) / "r.py"
        file.write_text(
            f"import sys\nNUMBER = {number}\ndef reward(images):\n"
            "    return images.new_full((len(images),), sys.modules[__name__].NUMBER)\n"
        )
        values.append(rewards.load(f"{file}:reward"))
    assert [float(reward(torch.zeros(1, 3, 4, 4), ["a"])) for reward in values] == [1, 2]


@pytest.mark.parametrize(
    "place", ["über/r.py", "a b.py", "a+b/r.py", "d - e/r.py", "_r.py", "2x.py", "2*x.py", "a + b.py"]
)
@pytest.mark.parametrize(
    "text, weights",
    [("{}", [1]), ("0.5*{}", [0.5]), ("redness - 2 * {} + {}", [1, -2, 1]), ("{} + 1e+1*redness", [1, 10])],
)
def test_the_path_may_have_any_character(place, text, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(CODE)
    name = f"{place}:calm"
    terms = split_terms(text.replace("{}", name))
    assert [weight for weight, _ in terms] == weights and {found for _, found in terms} <= {name, "redness"}
    assert rewards.load(name)(torch.zeros(1, 3, 4, 4), ["a"]) == 0


def test_an_error_of_the_function_names_the_line(file, tmp_path, monkeypatch, capsys):
    file.write_text(
        "def nothing(images):\n    return undefined\n\ndef shapes(images):\n    return images @ images[0, 0]\n"
    )
    images = torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"nothing' fails: NameError: .*\(Calm_Rewards\.py, line 2\)") as failed:
        rewards.load(f"{file}:nothing")(images, ["a"])
    assert isinstance(failed.value.__cause__, NameError)
    monkeypatch.chdir(file.parent)
    with pytest.raises(ValueError, match=r"RuntimeError: .*line 5\)"):
        rewards.load("Calm_Rewards.py:shapes")(images, ["a"])
    arguments = ["generate", "cat face", "--n", "1", "--steps", "1", "--heldout", "none", "--out", str(tmp_path / "o")]
    assert main([*arguments, "--reward", "Calm_Rewards.py:nothing"]) == 2
    assert "NameError" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_exit_is_an_error(file):
    file.write_text("import sys\ndef ends(images):\n    sys.exit(3)\n")
    with pytest.raises(ValueError, match=r"ends' fails: SystemExit: 3 \(Calm_Rewards\.py, line 3\)"):
        rewards.load(f"{file}:ends")(torch.zeros(1, 3, 4, 4), ["a"])
    file.write_text("import sys\nsys.exit()\n")
    with pytest.raises(ValueError, match=r"cannot be executed: SystemExit:  \(Calm_Rewards\.py, line 2\)"):
        rewards.load(f"{file}:ends")


def test_an_error_that_may_pass_stays_as_it_is(file):
    file.write_text("def far(images):\n    raise ConnectionError('no route')\n")
    with pytest.raises(ConnectionError, match="no route"):
        rewards.load(f"{file}:far")(torch.zeros(1, 3, 4, 4), ["a"])


def test_a_file_may_import_from_its_folder(tmp_path):
    """Each from its own, also modules of the same name."""
    path, values = list(sys.path), []
    for number in (1, 2):
        folder = tmp_path / str(number) / "parts"
        folder.mkdir(parents=True)
        (folder / "of.py").write_text(f"NUMBER = {number}\n")
        (folder.parent / "neighbour.py").write_text("from parts.of import NUMBER\n")
        file = folder.parent / "r.py"
        file.write_text("import neighbour\ndef r(images):\n    return images.mean((1, 2, 3)) + neighbour.NUMBER\n")
        values.append(float(rewards.load(f"{file}:r")(torch.zeros(1, 3, 4, 4), ["a"])))
    assert values == [1, 2] and sys.path == path and not {"neighbour", "parts", "parts.of"} & set(sys.modules)


def test_a_function_may_import_from_its_folder(tmp_path):
    """Also what a module of the folder imports in its functions. Each module is executed once for a file."""
    path, loaded = list(sys.path), []
    for number in (1, 2):
        folder = tmp_path / str(number)
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "of.py").write_text(f"CALLS = []\nNUMBER = {number}\n")
        (folder / "neighbour.py").write_text("def number():\n    from parts.of import NUMBER\n    return NUMBER\n")
        (folder / "r.py").write_text(
            "import neighbour\ndef r(images):\n    from parts import of\n    of.CALLS.append(1)\n"
            "    return images.mean((1, 2, 3)) + 10 * len(of.CALLS) + neighbour.number()\n"
        )
        loaded.append(rewards.load(f"{folder / 'r.py'}:r"))
    for calls in (1, 2):
        values = [float(reward(torch.zeros(1, 3, 4, 4), ["a"])) for reward in loaded]
        assert values == [10 * calls + 1, 10 * calls + 2]
        assert sys.path == path and not {"neighbour", "parts", "parts.of"} & set(sys.modules)


def test_a_module_of_the_program_stays_its_own(tmp_path, monkeypatch):
    """One that it imports after the reward was loaded, with the name of a module in the folder of the reward."""
    (tmp_path / "neighbour.py").write_text("NUMBER = 1\n")
    file = tmp_path / "r.py"
    file.write_text(
        "import neighbour\ndef r(images):\n    import neighbour as n\n    return images[:, 0, 0, 0] + n.NUMBER\n"
    )
    reward, other = rewards.load(f"{file}:r"), ModuleType("neighbour")
    monkeypatch.setitem(sys.modules, "neighbour", other)
    assert reward(torch.zeros(1, 3, 4, 4), ["a"]) == 1 and sys.modules["neighbour"] is other


def test_whether_it_uses_prompts_is_known(file):
    file.write_text(f"from noisetilt import rewards\nred = rewards.load('redness')\n{CODE}")
    used = {name: may_use_prompts(rewards.load(f"{file}:{name}")) for name in ("red", "calm", "Long")}
    assert used == {"red": False, "calm": False, "Long": True}
