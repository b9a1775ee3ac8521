"""The built wheel: its contents, and its use from a fresh environment outside the checkout."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
LICENCES = ("LICENSE", "NOTICE", "LICENSES/Apache-2.0.txt", "LICENSES/WordNet-3.0.txt")
BUILD_INPUTS = ("pyproject.toml", "README.md", *LICENCES)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, so that no stale build folder gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "LICENSES").mkdir()
    for name in BUILD_INPUTS:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "noisetilt").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert "noisetilt/py.typed" in names
    kinds = {Path(name).suffix for name in names}
    assert {".safetensors", ".json", ".md"} <= kinds


def test_the_wheel_holds_the_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name.split("/licenses/")[1]: archive.read(name).decode("utf-8")
            for name in archive.namelist()
            if ".dist-info/licenses/" in name
        }
    assert set(found) == set(LICENCES)
    assert "END OF TERMS AND CONDITIONS" in found["LICENSES/Apache-2.0.txt"]
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in found["LICENSES/WordNet-3.0.txt"]
    assert "LICENSES/WordNet-3.0.txt" in found["NOTICE"]
    assert all(name in found["NOTICE"] for name in ("imagenet/network.safetensors", "style-judge.safetensors"))


def test_the_wheel_generates_an_image_outside_the_checkout(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    variables = {"base": str(environment), "platbase": str(environment)}
    scripts = Path(sysconfig.get_path("scripts", "venv", variables))
    packages = Path(sysconfig.get_path("purelib", "venv", variables))
    target = [f"--python={scripts / 'python'}", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *target], check=True, capture_output=True)
    # The dependencies are those of this environment. A path file adds the folder after the wheel's own, and the path
    # file of an editable install is not read from a folder added like this.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), "utf-8")

    python = [str(scripts / "python"), "-I", "-c", "import noisetilt; print(noisetilt.__file__)"]
    place = subprocess.run(python, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(place).is_relative_to(packages)

    options = ["--reward", "redness", "--steps", "2", "--n", "1", "--out", "out"]
    generate = [str(scripts / "noisetilt"), "generate", "cat face", *options]
    environ = {"PATH": str(scripts), "HOME": str(tmp_path)}
    subprocess.run(generate, cwd=tmp_path, env=environ, check=True, capture_output=True)
    assert (tmp_path / "out" / "grid.png").stat().st_size > 0
    assert (tmp_path / "out" / "run.json").is_file()
