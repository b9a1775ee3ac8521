"""Feeds damaged files to every function that reads a user's file, and records the errors that are not one sentence.

    python recipes/fuzz/readers.py OUT [--minutes 10]

Needs atheris, which chooses the mutations by the code that they reach. Writes OUT/findings.jsonl, one line per kind of
error with the input as base64, and OUT/summary.json. A reader must accept a file, or raise a ValueError, OSError or
ImportError; its memory is limited to 4 GiB, and its CPU time to 10 seconds.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

with atheris.instrument_imports(include=["noisetilt", "PIL.PngImagePlugin"]):
    from noisetilt.batch import read_table
    from noisetilt.batch.ledger import BatchLedger
    from noisetilt.cli.audit import read_tensor
    from noisetilt.cli.progress import FIELDS, read_image
    from noisetilt.cli.progress import read_progress as read_batches
    from noisetilt.integrations.diffusers.folder_plan import model_of_folder
    from noisetilt.rewards.hub.files import read_state
    from noisetilt.runs import read_record

EXPECTED = (ValueError, OSError, ImportError)
MAX_SECONDS, MAX_BYTES, MEMORY = 10, 1 << 14, 4 << 30
FOLDER = Path(tempfile.mkdtemp())


def stored(name: str, data: bytes) -> Path:
    file = FOLDER / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return file


def read_progress(data: bytes) -> None:
    read_batches(stored("progress.jsonl", data), FIELDS)


def read_ledger(data: bytes) -> None:
    stored("rows.jsonl", data)
    ledger = BatchLedger(FOLDER, fresh=False)
    list(ledger.finished(10))


def plan_index(data: bytes) -> None:
    stored("model_index.json", data)
    model_of_folder(FOLDER)


def plan_config(data: bytes) -> None:
    parts = {"transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index = {"_class_name": "FluxPipeline", **parts}
    stored("model_index.json", json.dumps(index).encode())
    for part in ("transformer", "vae"):
        stored(f"{part}/config.json", data)
    model_of_folder(FOLDER)


READERS: dict[str, Callable[[bytes], object]] = {
    "npy": lambda data: read_tensor(stored("x.npy", data)),
    "safetensors": lambda data: read_tensor(stored("x.safetensors", data)),
    "png": lambda data: read_tensor(stored("x.png", data)),
    "image of a run": lambda data: read_image(stored("y.png", data)),
    "csv": lambda data: read_table(stored("t.csv", data), {}),
    "jsonl": lambda data: read_table(stored("t.jsonl", data), {}),
    "txt": lambda data: read_table(stored("t.txt", data), {}),
    "parquet": lambda data: read_table(stored("t.parquet", data), {}),
    "tower as safetensors": lambda data: read_state(stored("w.safetensors", data)),
    "tower as pickle": lambda data: read_state(stored("w.pt", data)),
    "run.json": lambda data: read_record(stored("run.json", data).parent),
    "rows.jsonl": read_ledger,
    "progress.jsonl": read_progress,
    "model_index.json": plan_index,
    "config.json": plan_config,
}
NAMES = list(READERS)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def png(size: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(stream, "PNG")
    return stream.getvalue()


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["cat", "dog"], "seed": [1, 2]}), stream)
    return stream.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Whole files, from which the mutations start."""
    tensors = save({"x": torch.randn(2, 3)})
    record = {"index": 0, "status": "done", "digest": "a", "file": "y.png", "bytes": 3, "reward": 1.0}
    config = {"in_channels": 64, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "sample_size": 8}
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    return {
        "npy": [npy(np.zeros((2, 3))), npy(np.zeros(2, [("a", "f4")])), npy(np.array(["a"]))],
        "safetensors": [tensors, struct.pack("<Q", 2) + b"{}"],
        "png": [png(4)],
        "image of a run": [png(4)],
        "csv": [b"prompt,seed,rho\ncat,1,0.1\n", b'prompt,options\n"a, b","rho=0.1"\n'],
        "jsonl": [b'{"prompt": "cat", "seed": 1, "options": {"rho": 0.1}}\n'],
        "txt": [b"cat face\nred heart\n"],
        "parquet": [parquet()],
        "tower as safetensors": [tensors],
        "tower as pickle": [pickled({"x": torch.zeros(2)})],
        "run.json": [b'{"command": "batch", "settings": {"chunk": 1}}'],
        "rows.jsonl": [json.dumps(record).encode() + b"\n"],
        "progress.jsonl": [b'{"variant": "base", "first": 0, "rewards": [1.0]}\n'],
        "model_index.json": [json.dumps(index).encode()],
        "config.json": [json.dumps(config).encode()],
    }


class Findings:
    """Runs the readers, and keeps one input per kind of error."""

    def __init__(self, out: Path) -> None:
        self.out, self.kinds, self.runs = out, {}, Counter()

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        name = NAMES[data[0] % len(NAMES)]
        self.runs[name] += 1
        begin = time.process_time()
        try:
            READERS[name](data[1:])
        except EXPECTED as error:
            if "\n" in str(error).strip() and not isinstance(error, OSError):
                self.add(name, error, data)
        except Exception as error:
            self.add(name, error, data)
        if time.process_time() - begin > MAX_SECONDS:
            self.add(name, TimeoutError(f"{time.process_time() - begin:.0f} s"), data)

    def add(self, name: str, error: Exception, data: bytes) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1:] or ["?"]
        kind = (name, type(error).__name__, str(place[0]))
        if kind in self.kinds:
            return
        text = "".join(traceback.format_exception(error))[-1500:]
        self.kinds[kind] = {"reader": name, "error": f"{type(error).__name__}: {error}"[:300], "trace": text}
        line = {**self.kinds[kind], "input": base64.b64encode(data[1:]).decode()}
        with (self.out / "findings.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def write(self, seconds: float) -> None:
        times = {"seconds": round(seconds), "CPU seconds": round(time.process_time())}
        summary = {**times, "inputs": sum(self.runs.values()), "by reader": self.runs}
        summary["findings"] = len(self.kinds)
        (self.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    corpus = arguments.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for name, files in seeds().items():
        for i, data in enumerate(files):
            (corpus / f"{NAMES.index(name):02d}-{i}").write_bytes(bytes([NAMES.index(name)]) + data)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    findings, begin = Findings(arguments.out), time.perf_counter()
    written = [begin]

    def test(data: bytes) -> None:
        findings(data)
        if time.perf_counter() - written[0] > 5:
            findings.write(time.perf_counter() - begin)
            written[0] = time.perf_counter()

    seconds = int(60 * arguments.minutes)
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-rss_limit_mb=0", "-timeout=1200"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], test)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
