"""`noisetilt --print-completion`: what bash completes on TAB, and scripts for other shells."""

import shutil
import subprocess
import sys

import pytest

from noisetilt.cli import main
from noisetilt.cli.completion import SHELLS

pytest.importorskip("shtab")

TAB = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last} COMPREPLY=()
_shtab_noisetilt
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def script(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_names(capsys, tmp_path):
    (tmp_path / "noisetilt.bash").write_text(script("bash", capsys), "utf-8")
    (tmp_path / "pictures").mkdir()

    def tab(*words):
        quoted = " ".join(f"'{word}'" for word in ("noisetilt", *words))
        source = TAB.format(script=tmp_path / "noisetilt.bash", words=quoted, last=len(words))
        done = subprocess.run(["bash", "-c", source], capture_output=True, text=True, cwd=tmp_path)
        return done.stdout.split()

    assert tab("gen") == ["generate"] and tab("op") == ["optimize"]
    assert tab("generate", "--met") == ["--method"]
    assert {"ntrk", "ntrk-svdd"} <= set(tab("generate", "cat", "--method", "nt"))
    assert tab("generate", "cat", "--reward", "style:n") == ["style:noto"]
    assert set(tab("optimize", "cat", "--method", "g")) >= {"gper", "gper-w"}
    assert "gper-ntrk" not in tab("optimize", "cat", "--method", "g")
    assert tab("generate", "cat", "--model", "emoji1") == ["emoji128", "emoji128-turbo"]
    assert tab("generate", "cat", "--offload", "m") == ["model"]
    assert tab("generate", "cat", "--out", "pic") == ["pictures"]
    assert tab("methods", "lang") == ["langevin"]
    assert tab("rewards", "conc") == ["concept"] and tab("rewards", "picks") == ["pickscore"]
    assert tab("plan", "FLUX.1-d") == ["FLUX.1-dev"]
    assert tab("bench", "--suite", "o") == ["one-step"]
    assert tab("nothing") == []
    assert "gper-both" in tab("invert", "a.png", "--method", "g") and tab("invert", "a.png", "--method", "svd") == []
    assert tab("invert", "a.png", "--distance", "f") == ["features"]
    assert tab("batch", "a.csv", "--track", "open") == ["opentelemetry"]
    assert tab("invert", "noise") == ["noisetilt.bash"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_of_its_shell(shell, capsys, tmp_path):
    text = script(shell, capsys)
    assert "noisetilt" in text and "ntrk-svdd" in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text, "utf-8")
        assert subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True).returncode == 0


def test_without_shtab_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 2 and 'pip install ".[completion]"' in capsys.readouterr().err
