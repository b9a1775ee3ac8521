"""The command line on a bare machine: no home folder, an ASCII locale, a narrow terminal; it writes to --out only."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions and locales of POSIX")
pytest.importorskip("matplotlib")


def restricted():
    """A prefix with which a command of root obeys the permissions of files."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root can write everywhere, and there is no setpriv")
    return [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]


def run_on_a_bare_machine(folder, home, *arguments):
    """The output, the errors and the new files of a command in an empty folder."""
    work, temporary = folder / "work", folder / "tmp"
    for place in (work, temporary):
        place.mkdir()
    keep = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
    settings = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "60", "TMPDIR": str(temporary)}
    environment = {**keep, **settings, **({} if home is None else {"HOME": str(home)})}
    before = set(folder.rglob("*"))
    command = [*restricted(), sys.executable, "-B", "-m", "noisetilt", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, cwd=work, env=environment)
    output, errors = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 0, errors
    new = {file.relative_to(folder).as_posix() for file in set(folder.rglob("*")) - before}
    # torch makes this empty folder when it is imported.
    return output, errors, {name for name in new if not name.startswith("tmp/torchinductor_")}


@pytest.fixture(params=[pytest.param("read-only", marks=pytest.mark.long), "missing"])
def home(request, tmp_path):
    """A home folder that cannot be written, or that does not exist."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o555)
    yield {"read-only": folder, "missing": folder / "nobody"}[request.param]
    folder.chmod(0o755)


def test_a_plot_without_a_home(home, tmp_path):
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).normal(size=(3, 32, 32)))
    output, errors, files = run_on_a_bare_machine(tmp_path, home, "audit", tmp_path / "noise.npy", "--out", "bands.png")
    assert errors == "" and files == {"work/bands.png"}
    assert "0 of 1 rejected" in output and "bands.png" in output


def test_a_list_with_home_unset(tmp_path):
    """Then the home folder is that of the user database, where a plot may write the cache of matplotlib."""
    output, errors, files = run_on_a_bare_machine(tmp_path, None, "methods")
    assert errors == "" and not files
    assert "Psi-Sampler" in output
    assert max(map(len, output.replace("Psi", "Ψ").splitlines())) <= 60


def test_a_picture_without_a_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    options = ["--model", "emoji128", "--reward", "redness", "--heldout", "none", "--steps", "3", "--n", "1"]
    output, errors, files = run_on_a_bare_machine(tmp_path, home, "generate", "cat face", *options, "--out", "new")
    assert files and all(name == "work/new" or name.startswith("work/new/") for name in files)
    assert "work/new/grid.png" in files and "work/new/rewards.png" in files
    for line in errors.replace("\r", "\n").splitlines():
        assert "step" in line or not line.strip(), line  # the progress bar and nothing else
        assert len(line) <= 60
    last = output.strip().splitlines()[-4:]
    assert any(line.startswith(("redness rises from", "redness falls from", "redness stays at")) for line in last)
    assert "Open new/grid.png" in " ".join(last) and max(map(len, output.splitlines())) <= 60
