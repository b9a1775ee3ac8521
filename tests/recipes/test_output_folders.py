"""Recipes make the folders of their outputs before they work, not fail after it."""

import importlib.util
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "recipe, words, first",
    [
        ("ascent/figure", "OUT", "load"),
        ("bench/curve", "no-run OUT", "json"),
        ("bench/pictures", "no-run OUT", "restrict"),
        ("bench/tilts", "--rows OUT", "load"),
        ("inverse/picture", "no-rows OUT", "read_lines"),
        ("invert/picture", "no-rows OUT", "read_lines"),
        ("noise/bench", "OUT", "table"),
        ("noise/figures", "OUT OUT", "vectors"),
        ("noise/whitening", "--frontier OUT", "frontier"),
    ],
)
def test_the_folder_is_made_first(recipe, words, first, monkeypatch, tmp_path):
    """The work, which is stopped at its first function, or at a file that is missing, comes later."""
    file, out = RECIPES / f"{recipe}.py", tmp_path / "a" / "b" / "out"
    monkeypatch.syspath_prepend(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("structured", "variants"):  # modules of recipes/noise, which other tests need not find
        sys.modules.pop(name, None)

    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(module, first, stop)
    monkeypatch.setattr(sys, "argv", [file.name, *words.replace("OUT", str(out)).split()])
    with pytest.raises((Stopped, FileNotFoundError)):
        module.main()
    assert out.parent.is_dir()
