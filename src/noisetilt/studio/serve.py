"""The command `noisetilt studio`: loads the model and serves the page until Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from typing import Any

from .._messages import missing_extra
from ..cli.generate import GenerateJob

# Seconds in which a signal is noticed.
POLL = 0.5
# Options of the command that are fields of a job.
MODEL_OPTIONS = (
    "model",
    "guidance",
    "device",
    "dtype",
    "offload",
    "height",
    "width",
    "frames",
    "lora",
    "checkpointing",
)


def main(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        ValueError, OSError, ImportError, MemoryError: if the page cannot start; says why in one sentence.
    """
    check_address(args.host, args.port, args.allow_code)
    set_environment()
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(missing_extra("studio", "the page of `noisetilt studio`")) from error
    from .session import Session

    job = GenerateJob(prompt="", reward="", **{name: getattr(args, name) for name in MODEL_OPTIONS})
    session = Session(job, args.reward, args.allow_code)
    try:
        page, url = start(session, args.host, args.port, args.open)
        if not is_local(args.host):
            print(f"noisetilt: warning: anyone who can reach {args.host} can use this page", file=sys.stderr)
        print(f"noisetilt studio is at {url} (Ctrl-C ends it)", flush=True)
        try:
            _wait_for_end()
        finally:
            session.cancel()  # before the page ends, so that it says so, and the server does not wait for a run
            page.close(verbose=False)
    finally:
        session.close()


def _wait_for_end() -> None:
    """Returns after Ctrl-C, SIGTERM or the end of the terminal, which is how a page ends, not an error."""
    ended = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is after `nohup`
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(POLL):  # on Windows no signal interrupts a wait without limit, before Python 3.14
        pass


def set_environment() -> None:
    """Switches off what gradio would send; must be called before gradio is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # gradio calls its own address once; a proxy must not answer for it.
    for name in ("no_proxy", "NO_PROXY"):
        places = [place for place in os.environ.get(name, "").split(",") if place]
        os.environ[name] = ",".join(dict.fromkeys([*places, "127.0.0.1", "localhost", "::1"]))


def is_local(host: str) -> bool:
    """Whether only this computer can reach a host address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int, allow_code: bool) -> None:
    """Raises a ValueError or an OSError if the page cannot be served there."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port = {port} must be between 0 (any free port) and 65535")
    if allow_code and not is_local(host):
        raise ValueError(
            f"host = {host!r} lets other computers reach the page, and --allow-code would let them execute code on "
            "this one; leave one of the two out"
        )
    try:
        _bind(host, port).close()
    except OSError as error:
        hints = {
            errno.EADDRINUSE: " (another program uses it?)",
            errno.EADDRNOTAVAIL: " (it is not an address of this computer?)",
        }
        reason = (error.strerror or str(error)).lower().partition(" (while")[0] + hints.get(error.errno, "")
        raise OSError(f"cannot serve at {host}:{port}: {reason}; give another --port or --host") from None


def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address of IPv4 or IPv6."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def free_port(host: str) -> int:
    """A port that nothing uses now."""
    with _bind(host, 0) as server:
        return int(server.getsockname()[1])


def start(session: Any, host: str, port: int, open_browser: bool = False) -> tuple[Any, str]:
    """Serves the page of a session; returns the gradio page and its address, with a token where code is allowed."""
    from starlette.middleware import Middleware

    from .guard import Guard, names_of_this_computer
    from .page import STYLE, build_page, theme

    os.environ["GRADIO_TEMP_DIR"] = str(session.folder / "cache")
    port = port or free_port(host)
    token = secrets.token_urlsafe(32) if session.allow_code else None
    # No list has all the names under which other computers reach this one.
    hosts = names_of_this_computer(host) if is_local(host) else None
    page = build_page(session)
    page.queue(default_concurrency_limit=None)
    _, url, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        footer_links=[],
        max_file_size="50mb",
        theme=theme(),
        css=STYLE.read_text("utf-8"),
        app_kwargs={"middleware": [Middleware(Guard, hosts=hosts, token=token, port=port)]},
    )
    url += "" if token is None else f"?token={token}"
    if open_browser:
        webbrowser.open(url)
    return page, url
