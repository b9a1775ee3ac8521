"""The command `noisetilt studio`: it serves, it ends, and it says why it cannot start."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from noisetilt.cli import main
from noisetilt.studio import serve
from noisetilt.studio.serve import check_address, free_port, is_local, set_environment


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_it_serves_until_it_is_interrupted(name, tmp_path):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this computer has no {name}")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "noisetilt", "studio", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert line.startswith("noisetilt studio is at http://127.0.0.1:"), process.stderr.read()
        page = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(line.split()[4]).read().decode()
        assert "noisetilt studio" in page
    finally:
        process.send_signal(number)
        output = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert not list(tmp_path.glob("noisetilt-studio-*"))


def test_no_wait_is_without_limit(monkeypatch):
    """On Windows such a wait cannot be interrupted."""
    limits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            limits.append(timeout)
            signal.raise_signal(signal.SIGINT)
            return super().wait(0)

    monkeypatch.setattr(serve.threading, "Event", Event)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None:
        before[hangup] = signal.signal(hangup, signal.SIG_IGN)
    try:
        serve._wait_for_end()
        assert limits and None not in limits
        assert hangup is None or signal.getsignal(hangup) is signal.SIG_IGN  # the page was started by `nohup`
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["studio", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}: address already in use (another program uses it?); give another --port" in error


def test_an_unknown_host_is_no_port_that_is_taken():
    with pytest.raises(OSError, match=r"nowhere\.invalid:7999") as failed:
        check_address("nowhere.invalid", 7999, allow_code=False)
    assert "another program" not in str(failed.value)


def test_an_address_of_ipv6_can_be_served():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this computer has no IPv6")
    check_address("::1", 0, allow_code=True)
    assert free_port("::1") > 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--port", "70000"], "port = 70000"),
        (["--host", "0.0.0.0", "--allow-code"], "execute code"),
        (["--host", "203.0.113.7", "--port", "0"], "(it is not an address of this computer?); give another"),
        (["--host", "nowhere.invalid", "--port", "7999"], "nowhere.invalid:7999"),
        (["--model", "emoji129", "--port", "0"], "did you mean 'emoji128'"),
        (["--model", "no/such/folder", "--port", "0"], "no/such/folder"),
        (["--reward", "none.py:calm", "--port", "0"], "does not exist"),
        (["--reward", "redness + brightness", "--port", "0"], "its own --reward"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, words, capsys):
    pytest.importorskip("gradio")
    assert main(["studio", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("noisetilt: ") and words in error


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    pytest.importorskip("gradio")
    assert main(["studio", "--port", "0", "--model", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["studio", "--port", "0"]) == 2
    assert 'needs gradio; run pip install ".[studio]"' in capsys.readouterr().err


def test_only_this_computer_is_local():
    assert is_local("127.0.0.1") and is_local("localhost") and is_local("::1")
    assert not is_local("0.0.0.0") and not is_local("example.org")
    check_address("127.0.0.1", 0, allow_code=True)


def test_nothing_is_sent(monkeypatch):
    monkeypatch.setenv("no_proxy", "intranet")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    set_environment()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["no_proxy"] == "intranet,127.0.0.1,localhost,::1"


def test_the_style_names_no_other_site():
    from noisetilt.studio import __file__ as package

    text = Path(package).with_name("style.css").read_text("utf-8")
    assert "http" not in text and "@import" not in text


@pytest.mark.parametrize("flags, opened", [([], False), (["--open"], True)])
def test_it_opens_the_browser_if_asked(flags, opened, monkeypatch, capsys):
    from noisetilt.studio import session

    taken = []

    def stopped(*args):
        taken.append(args[1:])
        raise ValueError("stopped")

    monkeypatch.setattr(session, "Session", lambda *args: type("Session", (), {"close": lambda self: None})())
    monkeypatch.setattr(serve, "start", stopped)
    monkeypatch.setattr(serve, "set_environment", lambda: None)
    assert main(["studio", "--port", "0", *flags]) == 2 and "stopped" in capsys.readouterr().err
    assert taken == [("127.0.0.1", 0, opened)]


def test_the_runs_end_before_the_page(monkeypatch):
    """So that the page can say that they were cancelled, and no computation delays its end."""
    from noisetilt.studio import session

    called = []
    started = SimpleNamespace(cancel=lambda: called.append("cancel"), close=lambda: called.append("delete the files"))
    page = SimpleNamespace(close=lambda **_: called.append("close the page"))
    monkeypatch.setattr(session, "Session", lambda *_: started)
    monkeypatch.setattr(serve, "start", lambda *_: (page, "http://localhost"))
    monkeypatch.setattr(serve, "set_environment", lambda: None)
    monkeypatch.setattr(serve, "_wait_for_end", lambda: None)
    assert main(["studio", "--port", "0"]) == 0
    assert called == ["cancel", "close the page", "delete the files"]


@pytest.mark.parametrize(
    "host, allow_code, codes",
    [("127.0.0.1", True, (401, 403)), ("::1", False, (200, 403)), ("0.0.0.0", False, (200, 200))],
)
def test_the_page_is_started_behind_its_guard(host, allow_code, codes, monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    from starlette.responses import PlainTextResponse
    from starlette.testclient import TestClient

    from noisetilt.studio import page

    options, opened = {}, []

    def launch(**given):
        options.update(given)
        return None, f"http://{given['server_name']}:{given['server_port']}/", None

    served = SimpleNamespace(queue=lambda **_: None, launch=launch)
    monkeypatch.setattr(page, "build_page", lambda _: served)
    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    session = SimpleNamespace(folder=tmp_path, allow_code=allow_code)
    _, address = serve.start(session, host, 7861, open_browser=True)
    assert opened == [address] and ("?token=" in address) == allow_code
    [guard] = options["app_kwargs"]["middleware"]
    visitor = TestClient(guard.cls(PlainTextResponse("the page"), **guard.kwargs), "http://localhost:7861")
    assert (visitor.get("/").status_code, visitor.get("/", headers={"Host": "evil.example"}).status_code) == codes
    assert visitor.get("/?" + address.partition("?")[2]).text == "the page"
