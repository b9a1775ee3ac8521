"""Kills batches at random moments, continues them, and checks that nothing is lost, redone or damaged.

    python recipes/batch/kill.py OUT --kills 50 [--engine ray] [--target worker] [--signal KILL] [-- BATCH OPTIONS]

Prints one line per kill and a summary as JSON. The uninterrupted run that the images are compared with has one process.
`--target worker` kills workers of the Ray that the batch starts, and needs psutil.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from PIL import Image

SUBJECTS = ("cat face", "red heart", "house", "bird", "dog face", "apple", "car", "hat")


def records(out: Path) -> list[dict]:
    """The complete lines of rows.jsonl; an incomplete last line does not count."""
    file = out / "rows.jsonl"
    data = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def check(out: Path, whole: bool = False) -> Counter:
    """The number of records of each finished row, after a check of all files."""
    if (out / "run.json").exists():
        json.loads((out / "run.json").read_text("utf-8"))
    done: Counter = Counter()
    for record in records(out):
        if record["status"] == "done":
            data = (out / record["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == record["sha256"], record["file"]
            done[record["index"]] += 1
    for file in out.glob("images/*/[!.]*.png"):
        with Image.open(file) as image:
            image.load()
    assert not done or max(done.values()) == 1, f"rows made twice: {[k for k, v in done.items() if v > 1]}"
    assert not whole or not list(out.rglob("*.partial")), "partial files remain"
    return done


def digests(out: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.glob("images/*/*.png"))}


def start(table: Path, out: Path, engine: str, options: list[str]) -> subprocess.Popen:
    resume = ["--resume"] if (out / "run.json").exists() else []
    command = [sys.executable, "-m", "noisetilt", "batch", str(table), "--out", str(out), "--engine", engine]
    return subprocess.Popen([*command, *resume, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ray_workers(driver: int) -> list:
    """The processes of Ray's workers that descend from a process: those of the Ray that it started, and no others."""
    import psutil

    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # the driver ended
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if "ray::RayWorker" in " ".join(process.cmdline())[:60]:
                    found.append(process)
    return found


def reference_options(engine: str, options: list[str]) -> list[str]:
    """The options of the batch for one process: without those of Ray, and with the one thread that its workers have by
    default, as pixels depend on the number of threads."""
    if engine != "ray":
        return options
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--address", "--workers", "--batch"):
        parser.add_argument(name)
    kept = parser.parse_known_args(options)[1]
    given = any(word.partition("=")[0] == "--threads" for word in kept)
    return kept if given else [*kept, "--threads", "1"]


def kill_driver(arguments: argparse.Namespace, table: Path, out: Path, chance: random.Random) -> dict:
    """One start of the batch, killed at a random moment; returns what was found."""
    process = start(table, out, arguments.engine, arguments.options)
    moment = chance.uniform(0, arguments.seconds)
    try:
        process.communicate(timeout=moment)
        ended = "by itself"
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, f"SIG{arguments.signal}"))
        process.communicate()
        ended = f"SIG{arguments.signal}"
    return {"after_s": round(moment, 2), "ended": ended, "status": process.returncode, "done": len(check(out))}


def kill_workers(arguments: argparse.Namespace, table: Path, out: Path, chance: random.Random) -> list[dict]:
    """Runs of the batch, whose Ray workers are killed at random moments."""
    found: list[dict] = []
    while len(found) < arguments.kills:
        process = start(table, out, "ray", arguments.options)
        while process.poll() is None:
            time.sleep(chance.uniform(0, arguments.seconds))
            actors = ray_workers(process.pid)
            if actors and process.poll() is None and len(found) < arguments.kills:
                chance.choice(actors).kill()
                found.append({"ended": "a worker was killed", "done": len(check(out))})
                print(json.dumps(found[-1]), flush=True)
        assert process.returncode == 0, process.stderr.read()[-2000:]
        assert len(check(out, whole=True)) == arguments.rows
        if len(found) < arguments.kills:
            keep_reference(out, arguments)
    return found


def keep_reference(out: Path, arguments: argparse.Namespace) -> None:
    """Compares a finished run with the uninterrupted one, and removes it."""
    assert digests(out) == digests(arguments.out / "reference")
    shutil.rmtree(out)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """The words before and after "--"."""
    at = words.index("--")
    return words[:at], words[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--engine", default="process")
    parser.add_argument("--target", choices=["driver", "worker"], default="driver")
    parser.add_argument("--signal", default="KILL")
    parser.add_argument("--seconds", type=float, default=20.0, help="latest moment of a kill after the start")
    parser.add_argument("--seed", type=int, default=0)
    own, options = (sys.argv[1:], []) if "--" not in sys.argv else split(sys.argv[1:])
    arguments = parser.parse_args(own, argparse.Namespace(options=options))
    if arguments.target == "worker" and any(word.startswith("--address") for word in options):
        parser.error(
            "--target worker kills workers of the Ray that the batch starts and --address is that of another one; "
            "leave --address out"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, out = arguments.out / "prompts.txt", arguments.out / "run"
    table.write_text("".join(f"{SUBJECTS[i % len(SUBJECTS)]}\n" for i in range(arguments.rows)))
    if not (arguments.out / "reference" / "run.json").exists():
        alone = reference_options(arguments.engine, arguments.options)
        error = start(table, arguments.out / "reference", "process", alone).communicate()[1]
        assert len(check(arguments.out / "reference", whole=True)) == arguments.rows, error
    chance, found, finished = random.Random(arguments.seed), [], 0
    if arguments.target == "worker":
        found = kill_workers(arguments, table, out, chance)
        finished = 1
    else:
        while len([f for f in found if f["ended"] != "by itself"]) < arguments.kills:
            found.append(kill_driver(arguments, table, out, chance))
            print(json.dumps(found[-1]), flush=True)
            if found[-1]["done"] == arguments.rows:
                start(table, out, arguments.engine, arguments.options).communicate()
                check(out, whole=True)
                keep_reference(out, arguments)
                finished += 1
        start(table, out, arguments.engine, arguments.options).communicate()
    assert len(check(out, whole=True)) == arguments.rows
    assert json.loads((out / "run.json").read_text())["complete"]
    keep_reference(out, arguments)
    kills = [f for f in found if f["ended"] != "by itself"]
    print(
        json.dumps(
            {"kills": len(kills), "runs finished after them": finished + 1, "lost": 0, "redone": 0, "damaged": 0}
        )
    )


if __name__ == "__main__":
    main()
