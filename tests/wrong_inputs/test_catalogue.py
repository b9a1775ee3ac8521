# ruff: noqa: E501
"""A catalogue of wrong inputs to the command line, the functions and the file readers, each with its message.

Every case fails with one sentence that has the expected words, before any work starts and without a traceback.
"""

import io
import json
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from noisetilt import METHODS, Method, rewards, sample
from noisetilt.batch import read_table, run_batch
from noisetilt.batch.ledger import BatchLedger
from noisetilt.batch.settings import Settings
from noisetilt.cli import main
from noisetilt.cli.audit import read_tensor
from noisetilt.cli.comparison import heldout_values
from noisetilt.cli.progress import FIELDS, Progress, read_image
from noisetilt.integrations.diffusers.folder_plan import model_of_folder
from noisetilt.models.denoiser import Denoiser
from noisetilt.models.exact import GaussianModel
from noisetilt.path import FlowPath, TimeTravel
from noisetilt.proposals import NoiseTilt
from noisetilt.report import grid
from noisetilt.rewards.reward import evaluate_reward

NAN, INF = float("nan"), float("inf")
NOT_NUMBERS = ["much", None, True, NAN, [1], "0.1x"]
NOT_WHOLE = ["many", None, True, 2.5, NAN, INF, [1]]
NOT_BOOLS = ["yes", None, 1, 0.5]

# Method, option → the kind of its values, and values out of its range.
OPTIONS = [
    ("ntrk", "rho", NOT_NUMBERS, [-0.1, 1.1, INF], "rho ="),
    ("ntrk", "alpha", NOT_NUMBERS, [0, 1, 2, -1, INF], "alpha ="),
    ("ntrk", "best_of", ["much", True, NAN, [1]], [0, 0.5, -3], "best_of ="),
    ("ntrk", "schedule", ["", "linear", None, 5, True], [], "use one of constant, bump, early"),
    ("ntrk", "whitened", ["", "all", None, 5], [], "use one of gradient, mixture, path"),
    ("ntrk", "repeats", NOT_WHOLE, [0, -1, 10**9], "repeats ="),
    ("freedom", "after", NOT_NUMBERS, [2, -1, INF, -INF], "after ="),
    ("freedom", "before", NOT_NUMBERS, [-1, 1.5, INF], "before ="),
    ("best-of-n", "particles", NOT_WHOLE, [0, -1, 10**9], "particles ="),
    ("svdd", "temperature", NOT_NUMBERS, [-1, INF], "temperature ="),
    ("das", "tempering", ["much", True, NAN, [1]], [-1, INF], "tempering ="),
    ("das", "ess", NOT_NUMBERS, [-0.1, 1.1, INF], "ess"),
    ("das", "interval", NOT_WHOLE, [0, -5], "interval ="),
    ("das", "correct", NOT_BOOLS, [], "must be true or false"),
    ("das", "tilted_start", NOT_BOOLS, [], "must be true or false"),
    ("rbf", "budget", NOT_WHOLE, [0, -1, 10**9], "budget ="),
    ("rbf", "initial_noises", NOT_WHOLE, [0, -1, 10**9], "initial_noises ="),
    ("dps", "scale", NOT_NUMBERS, [INF, -INF], "scale ="),
    ("lgd", "draws", NOT_WHOLE, [0, -1, 10**9], "draws ="),
    ("dsg", "guidance_rate", NOT_NUMBERS, [-0.1, 1.1], "guidance_rate ="),
    ("psi", "delta", NOT_NUMBERS, [0, -1, 2.5], "delta ="),
    ("langevin", "gamma", NOT_NUMBERS, [0, -1, 1.5], "gamma ="),
    ("gper", "rate", NOT_NUMBERS, [0, -1, INF], "rate ="),
    ("gper", "clip", NOT_NUMBERS, [0, -1], "clip ="),
    ("gper", "momentum", NOT_NUMBERS, [-0.1, 1, 2], "momentum ="),
    ("gper", "audit_level", NOT_NUMBERS, [-0.1, 1], "audit_level ="),
    ("gper", "block_size", NOT_WHOLE, [0, -1], "block_size ="),
    ("gper", "chain_steps", NOT_WHOLE, [0, -1, 10**9], "chain_steps ="),
    ("gper", "penalty", ["l2", None, 5], [], "use one of none, reno, prno, mpgr"),
    ("gper", "gradient", ["down", None, 5], [], "use one of raw, wgnc, whiten"),
    ("gper", "latent", ["down", None, 5], [], "use one of free, wgnc"),
    ("gper", "optimiser", ["lbfgs", None, 5], [], "use one of adam, sgd, rotation"),
    ("gper", "perturb", ["both", None, 5], [], "use one of noise, image"),
]
OPTION_CASES = [
    (method, name, value, words) for method, name, kinds, ranges, words in OPTIONS for value in kinds + ranges
]
PART_CASES = [
    (role, value) for role in ("initial", "proposal", "selection", "times") for value in (None, 5, "x", Method)
]


@pytest.mark.parametrize("method, option, value, words", OPTION_CASES)
def test_options(method, option, value, words):
    with pytest.raises(ValueError) as error:
        METHODS[method].replace(**{option: value})
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("method, option, values, words", [(m, n, kinds, w) for m, n, kinds, _, w in OPTIONS])
def test_options_of_parts_that_are_built_directly(method, option, values, words):
    part = next(part for part in METHODS[method].parts().values() if hasattr(part, option))
    for value in values:
        with pytest.raises(ValueError, match=re.escape(words)):
            type(part)(**{option: value})


def test_ranges_of_parts_that_are_built_directly():
    for build, words in ((lambda: NoiseTilt(alpha=2.0), "alpha = 2.0"), (lambda: TimeTravel(2, after=2), "after = 2")):
        with pytest.raises(ValueError, match=words):
            build()


@pytest.mark.parametrize("eta", ["1", None, NAN, -1.0, True])
def test_eta(eta):
    with pytest.raises(ValueError, match=f"eta = {eta!r} must be a number, 0 "):
        sample(GaussianModel(torch.zeros(3, 4, 4), torch.ones(4, 4)), "", None, "base", 2, eta=eta)


@pytest.mark.parametrize("role, value", PART_CASES)
def test_parts(role, value):
    with pytest.raises(ValueError, match=f"{role} = .* must be a part of a method, such as"):
        METHODS["ntrk"].replace(**{role: value})


RUN = ["generate", "cat face", "--reward", "redness"]
ASCENT = ["optimize", "cat face", "--reward", "redness"]
COMMANDS = [
    *[([*RUN, "--set", text], words) for text, words in [
        ("rho=none", "rho = None"), ("rho=true", "rho = True"), ("rho=nan", "rho = nan"), ("rho=7", "rho = 7"),
        ("repeats=none", "repeats = None"), ("after=2", "after = 2"), ("after=nan", "after = nan"),
        ("before=-1", "before = -1"), ("alpha=0", "alpha = 0"), ("alpha=2", "alpha = 2"),
        ("particles=none", "particles = None"), ("particles=true", "particles = True"),
        ("particles=2.5", "whole number"), ("proposal=5", "proposal = 5"), ("selection=x", "selection = 'x'"),
        ("initial=none", "initial = None"), ("times=1", "times = 1"), ("schedule=5", "schedule = 5"),
        ("foo=1", "no option 'foo'"), ("=1", "no option ''"),
    ]],
    *[([*RUN, *options], words) for options, words in [
        (["--steps", "0"], "steps = 0"), (["--steps", "-3"], "steps = -3"), (["--steps", str(10**9)], "steps"),
        (["--n", "0"], "n = 0"), (["--n", "-1"], "n = -1"), (["--n", str(10**7)], "at most"),
        (["--batch", "0"], "batch = 0"), (["--chunk", "0"], "chunk = 0"), (["--chunk", "-1"], "chunk = -1"),
        (["--seed", "-1"], "seed = -1"), (["--seed", str(2**63)], "seed ="), (["--guidance", "nan"], "guidance = nan"),
        (["--guidance", "inf"], "guidance = inf"), (["--eta", "-1"], "eta = -1"), (["--eta", "nan"], "eta = nan"),
        (["--device", "gpu"], "gpu"), (["--device", "meta"], "meta"), (["--device", ""], "device"),
        (["--method", "ntkr"], "did you mean 'ntrk'"), (["--method", ""], "method ''"),
        (["--model", "emoji46"], "emoji"), (["--reward", "rednes"], "did you mean 'redness'"),
        (["--reward", ""], "reward"), (["--reward", "redness +"], "reward"), (["--reward", "2*"], "reward"),
        (["--reward", "colour:#12"], "#12"), (["--reward", "colour:red"], "colour"),
        (["--reward", "style:oil"], "style"),
    ]],
    *[([*ASCENT, *options], words) for options, words in [
        (["--set", "iterations=5"], "--iterations"), (["--iterations", "-1"], "iterations = -1"),
        (["--patience", "-1"], "patience = -1"), (["--method", "ntrk"], "noise ascent"), (["--n", "0"], "n = 0"),
        (["--method", "gpr"], "did you mean 'gper'"), (["--set", "rate=none"], "rate = None"),
        (["--set", "clip=nan"], "clip = nan"), (["--set", "penalty=x"], "use one of"), (["--seed", "-2"], "seed = -2"),
        (["--guidance", "nan"], "guidance = nan"), (["--iterations", str(10**9)], "iterations"),
    ]],
    *[(["plan", "FLUX.1-dev", *options], words) for options, words in [
        (["--resolution", "0"], "resolution = 0"), (["--resolution", "-64"], "resolution = -64"),
        (["--height", "0"], "height = 0"), (["--width", str(10**9)], "width ="), (["--frames", "0"], "frames = 0"),
        (["--batch", "0"], "batch = 0"), (["--dtype", "int8"], "int8"),
    ]],
    (["plan", "FLUX.1-dv"], "did you mean"),
    (["methods", "best-of"], "did you mean 'best-of-n'"),
    (["bench", "--suite", "exacts"], "did you mean 'exact'"),
    (["bench", "--suite", "exact", "--targets", "redness"], "targets"),
    (["audit", "no.npy"], "no file no.npy"),
    (["audit", "no.npy", "--level", "7"], "level = 7"),
    (["audit", "no.npy", "--level", "0"], "level = 0"),
    (["audit", "no.npy", "--level", "nan"], "level = nan"),
    (["audit", "no.txt"], "no.txt"),
    *[(["batch", "TABLE", "--reward", "redness", *options], words) for options, words in [
        (["--method", "ntkr"], "did you mean 'ntrk'"), (["--reward", "rednes"], "did you mean 'redness'"),
        (["--engine", "dask"], "engine 'dask' is unknown"), (["--workers", "0"], "workers = 0"),
        (["--batch", "0"], "batch = 0"), (["--chunk", "0"], "chunk = 0"), (["--threads", "-1"], "threads = -1"),
        (["--retries", "-1"], "retries = -1"), (["--steps", "0"], "steps = 0"), (["--steps", str(10**9)], "steps ="),
        (["--seed", "-1"], "seed = -1"), (["--n", "0"], "n = 0"), (["--n", str(10**7)], "n ="),
        (["--guidance", "nan"], "guidance = nan"), (["--eta", "-1"], "eta = -1"), (["--set", "rho=none"], "rho = None"),
        (["--set", "foo=1"], "no option 'foo'"), (["--track", "comet"], "tracker 'comet' is unknown"),
        (["--prometheus", "0"], "prometheus = 0"), (["--prometheus", "-5"], "prometheus = -5"),
        (["--prometheus", "99999"], "prometheus = 99999"), (["--keep", "propmt"], "did you mean 'prompt'"),
        (["--workers", "4"], "the engine is process"), (["--batch", "4"], "the engine is process"),
        (["--address", "auto"], "the engine is process"),
    ]],
]  # fmt: skip


@pytest.mark.parametrize("arguments, words", COMMANDS, ids=[" ".join(c[0])[:60] for c in COMMANDS])
def test_commands(arguments, words, tmp_path, capsys):
    table = tmp_path / "prompts.txt"
    table.write_text("cat face\n")
    arguments = [str(table) if word == "TABLE" else word for word in arguments]
    with_out = arguments[0] in ("generate", "optimize", "batch", "bench")
    status = main([*arguments, *(["--out", str(tmp_path / "out")] if with_out else [])])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and error.startswith("noisetilt: ") and words in error
    assert not list((tmp_path / "out").glob("*.png"))


USAGE = [
    ["nonsense"], ["generate"], ["generate", "cat"], ["generate", "cat", "--reward"], [*RUN, "--n", "many"],
    [*RUN, "--n", "2.5"], [*RUN, "--steps", "x"], [*RUN, "--set", "rho"], [*RUN, "--gradient-at", "x1"],
    [*RUN, "--guidance", "high"], [*RUN, "--out", ""], [*RUN, "--out", "  "], [*RUN, "--unknown", "1"],
    [*RUN, "--resume", "--overwrite"], [*ASCENT, "--iterations", "x"], [*ASCENT, "--gradient-at", ""],
    ["batch"], ["batch", "t.csv"], ["batch", "t.csv", "--out", ""], ["batch", "t.csv", "--out", "o", "--log", "xml"],
    ["audit"], ["audit", "x.npy", "--level", "high"], ["plan"], ["plan", "SD-1.5", "--resolution", "big"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", USAGE, ids=[" ".join(a)[:60] or "nothing" for a in USAGE])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and errors.startswith("noisetilt") and "--help`" in errors


PROMPTS = [
    ("", "empty"), ("   ", "empty"), ("\n", "empty"), ("cat\x00", "control character"), ("\x1b[31mcat", "control"),
    ("cat\ud800", "control"), ("x" * 100_001, "100001 characters"), (None, "expected a text"), (5, "expected a text"),
]  # fmt: skip


@pytest.mark.parametrize("prompt, words", PROMPTS)
def test_prompts(prompt, words):
    with pytest.raises(ValueError, match=words):
        Settings(prompt)


UNKNOWN = [
    "кошка",
    "猫の顔",
    "حصان",
    "שלום",
    "cat кошка",
    "\U0001f9ff\U0010fffd",
    "qqqq",
    "cat " * 10_000,
    "​",
    "cat\u202eface",
]


@pytest.mark.parametrize("prompt", UNKNOWN, ids=range(len(UNKNOWN)))
def test_prompts_that_the_embedded_model_does_not_know_are_named(prompt, embedded):
    with pytest.raises(ValueError, match=r"does not know the word|words and the model reads|no word"):
        embedded.denoiser([prompt])


@pytest.fixture(scope="module")
def embedded():
    pytest.importorskip("diffusers")
    from noisetilt import load

    return load("emoji128")


MODEL = GaussianModel(torch.zeros(3, 8, 8), torch.ones(1, 8, 8))
REDNESS = rewards.load("redness")
CALLS = {
    "no prompt": (lambda: sample(MODEL, [], REDNESS), "prompts is empty"),
    "seeds of another number": (lambda: sample(MODEL, ["a"], REDNESS, seeds=[1, 2]), "2 seeds for 1 prompts"),
    "negative seed": (lambda: sample(MODEL, ["a"], REDNESS, seeds=[-1]), "seed -1"),
    "fractional seed": (lambda: sample(MODEL, ["a"], REDNESS, seeds=[0.5]), "seed 0.5"),
    "no step": (lambda: sample(MODEL, ["a"], REDNESS, steps=0), "steps = 0"),
    "fractional steps": (lambda: sample(MODEL, ["a"], REDNESS, steps=2.5), "steps = 2.5"),
    "steps as text": (lambda: sample(MODEL, ["a"], REDNESS, steps="5"), "steps = '5'"),
    "too many steps": (lambda: sample(MODEL, ["a"], REDNESS, steps=10**9), "at most"),
    "a short grid": (lambda: sample(MODEL, ["a"], REDNESS, grid=[1.0]), "has no step"),
    "chunk of zero": (lambda: sample(MODEL, ["a"], REDNESS, chunk=0), "chunk = 0"),
    "gradient_at": (lambda: sample(MODEL, ["a"], REDNESS, gradient_at="x1"), "gradient_at = 'x1'"),
    "unknown method": (lambda: sample(MODEL, ["a"], REDNESS, "magic"), "magic"),
    "eta of zero": (lambda: sample(MODEL, ["a"], REDNESS, eta=0), "eta = 0"),
    "no reward": (lambda: sample(MODEL, ["a"], None, "ntrk"), "needs a reward"),
    "black box with gradient": (lambda: sample(MODEL, ["a"], rewards.load("jpeg"), "ntrk"), "no gradient"),
    "guidance nan": (lambda: Denoiser(FlowPath(), lambda *x: x[0], guidance=NAN), "guidance = nan"),
    "guidance without unconditional": (lambda: Denoiser(FlowPath(), lambda *x: x[0], guidance=2.0), "unconditional"),
    "prediction": (lambda: Denoiser(FlowPath(), lambda *x: x[0], "noise"), "prediction = 'noise'"),
    "reward as text": (lambda: evaluate_reward("redness", torch.rand(1, 3, 8, 8), ["a"]), "rewards.load"),
    "reward of bytes": (lambda: REDNESS(torch.full((1, 3, 8, 8), 255.0), ["a"]), "divide bytes by 255"),
    "reward of NHWC": (lambda: REDNESS(torch.rand(1, 8, 8, 3), ["a"]), "permute"),
    "reward of one channel": (lambda: REDNESS(torch.rand(1, 1, 8, 8), ["a"]), "expected \\(batch, 3, H, W\\)"),
    "reward of integers": (lambda: REDNESS(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"]), "convert"),
    "reward of an array": (lambda: REDNESS(np.zeros((1, 3, 8, 8)), ["a"]), "expected a tensor"),
    "reward of nothing": (lambda: REDNESS(torch.rand(0, 3, 8, 8), []), "shape"),
    "brightness of NHWC": (lambda: rewards.load("brightness")(torch.rand(1, 8, 8, 3), ["a"]), "permute"),
    "jpeg of bytes": (lambda: rewards.load("jpeg")(torch.full((1, 3, 8, 8), 255.0), ["a"]), "divide bytes by 255"),
    "colour of bytes": (lambda: rewards.load("colour:#ff0000")(torch.full((1, 3, 8, 8), 99.0), ["a"]), "divide"),
    "reward by number": (lambda: rewards.load(5), "expected a name"),
    "grid without images": (lambda: grid([("a", [])]), "no picture"),
    "grid without rows": (lambda: grid([]), "no picture"),
    "batch: engine": (lambda: run_batch(["a"], "o", engine="x"), "engine 'x'"),
    "batch: method number": (lambda: run_batch(["a"], "o", method=5), "method = 5 is no method"),
    "batch: reward number": (lambda: run_batch(["a"], "o", reward=5), "expected a name or a function"),
    "batch: workers": (lambda: run_batch(["a"], "o", workers=1.5), "workers = 1.5"),
    "batch: batch true": (lambda: run_batch(["a"], "o", batch=True), "batch = True"),
    "batch: no rows": (lambda: read_table([], {}), "no row"),
    "batch: a row of numbers": (lambda: read_table([5], {}), "expected a prompt"),
    "batch: column": (lambda: read_table([{"prompt": "a", "stepz": 3}], {}), "did you mean 'steps'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    call, words = CALLS[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_a_reward_of_nan_images_is_an_error():
    with pytest.raises(FloatingPointError, match="not finite"):
        REDNESS(torch.full((1, 3, 8, 8), NAN), ["a"])


ROWS = [
    ({"prompt": ""}, "no prompt"), ({"seed": 1}, "no prompt"), ({"prompt": "a", "seed": "x"}, "seed = 'x'"),
    ({"prompt": "a", "seed": -1}, "seed = -1"), ({"prompt": "a", "seed": 1.5}, "seed = 1.5"),
    ({"prompt": "a", "seed": True}, "seed = True"), ({"prompt": "a", "seed": 2**63}, "seed ="),
    ({"prompt": "a", "steps": "0"}, "steps = 0"), ({"prompt": "a", "steps": "1e99"}, "steps = '1e99'"),
    ({"prompt": "a", "steps": 10**9}, "steps ="), ({"prompt": "a", "n": 0}, "n = 0"),
    ({"prompt": "a", "n": 10**9}, "n ="), ({"prompt": "a", "n": "two"}, "n = 'two'"),
    ({"prompt": "a", "eta": "x"}, "eta = 'x'"), ({"prompt": "a", "eta": -1}, "eta = -1"),
    ({"prompt": "a", "eta": "nan"}, "eta = nan"), ({"prompt": "a", "guidance": "inf"}, "guidance = inf"),
    ({"prompt": "a", "guidance": True}, "guidance = True"), ({"prompt": "a", "method": "ntkr"}, "did you mean 'ntrk'"),
    ({"prompt": "a", "method": 5}, "method = 5"), ({"prompt": "a", "gradient_at": "x1"}, "gradient_at = 'x1'"),
    ({"prompt": "a", "rho": "7"}, "rho = 7"), ({"prompt": "a", "rho": "none"}, "rho = None"),
    ({"prompt": "a", "particles": 2, "method": "dsg", "rho": 1}, "no option 'rho'"),
    ({"prompt": "a", "options": "rho"}, "options = 'rho'"), ({"prompt": "a", "options": "rho=x"}, "rho = 'x'"),
    ({"prompt": ["a"]}, "prompt"), ({"prompt": "a", "model": 3}, "model = 3"), ({"prompt": "a", "reward": 3}, "reward = 3"),
]  # fmt: skip


@pytest.mark.parametrize("cells, words", ROWS)
def test_rows_are_recorded_as_wrong(cells, words):
    (row,) = read_table([cells], {})
    assert row.settings is None and words in row.problem and "\n" not in row.problem


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"
TENSOR = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
FILES = {
    "empty.npy": (b"", "damaged"), "text.npy": (b"hello world", "damaged"), "magic.npy": (b"\x93NUMPY", "damaged"),
    "header.npy": (NPY[:20], "damaged"), "short.npy": ((NPY % b"9" + b" " * 118)[:127] + b"\n" + bytes(8), "damaged"),
    "huge.npy": ((NPY % b"999999999999" + b" " * 118)[:127] + b"\n", "damaged"),
    "pickle.npy": (b"\x80\x04\x95\x0f\x00\x00\x00", "damaged"), "zip.npy": (b"PK\x03\x04", "damaged"),
    "empty.safetensors": (b"", "damaged"), "text.safetensors": (b"hello world", "damaged"),
    "length.safetensors": (struct.pack("<Q", 2**60), "damaged"),
    "truncated.safetensors": (safetensors(TENSOR, bytes(4)), "damaged"),
    "nojson.safetensors": (safetensors(b"{nonsense"), "damaged"), "none.safetensors": (safetensors(b"{}"), "expected one of"),
    "list.safetensors": (safetensors(b"[1, 2]"), "damaged"),
    "overlap.safetensors": (safetensors(TENSOR.replace(b"[0, 8]", b"[4, 99]"), bytes(8)), "damaged"),
    "empty.png": (b"", "damaged"), "text.png": (b"hello", "damaged"), "magic.png": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "cut.png": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", "damaged"),
    "x.txt.gz": (b"", "expected one of"), "noise.pt": (b"", "expected one of"), "noise.pkl": (b"", "expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_tensor_files(name, tmp_path):
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_tensor(tmp_path / name)
    assert words in str(error.value) and (name in str(error.value) or "tensor is" in str(error.value))


@pytest.mark.parametrize("values", [np.array(["a", "b"]), np.array([b"a"]), np.array(["2020-01-01"], "M8[D]"),
                                    np.array([{}], object), np.zeros(2, [("a", "f4")])], ids=range(5))  # fmt: skip
def test_arrays_without_numbers(values, tmp_path):
    np.save(tmp_path / "x.npy", values, allow_pickle=True)
    with pytest.raises(ValueError, match=r"x\.npy"):
        read_tensor(tmp_path / "x.npy")


def test_arrays_of_long_doubles_and_other_byte_orders_are_read(tmp_path):
    for kind in (np.longdouble, ">f4", ">f8", "<i2", "?", np.float16):
        np.save(tmp_path / "x.npy", np.arange(4).astype(kind))
        assert read_tensor(tmp_path / "x.npy").tolist() == [float(x) for x in np.arange(4).astype(kind)]


INDEX = {"_class_name": "FluxPipeline", "transformer": ["d", "F"], "vae": ["d", "A"]}
RECORD = {"index": 0, "status": "done", "digest": "a", "file": "images/a.png", "bytes": 3, "settings": {}}
PROGRESS = {
    "variant": "base",
    "first": 0,
    "rewards": [1.0],
    "heldout": [None],
    "curve": None,
    "nfe": 1.0,
    "seconds": 1,
}
NO_JSON = [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'"text"', b"nonsense"]


def without(values, name, value=None):
    """JSON of a dictionary without an entry, or with another value of it."""
    kept = {k: v for k, v in values.items() if k != name}
    return json.dumps(kept if value is None else {**kept, name: value}).encode()


CONFIGURATIONS = [
    *[("model_index.json", data) for data in NO_JSON],
    *[("model_index.json", json.dumps({**INDEX, "transformer": value}).encode()) for value in ([], [1], ["d"])],
    *[("transformer/config.json", data) for data in [*NO_JSON, b"{}", b'{"in_channels": "x"}']],
    *[("vae/config.json", data) for data in [*NO_JSON, b'{"block_out_channels": 5}']],
]
RECORDS = [
    *[without(RECORD, name) for name in RECORD], *[data + b"\n" for data in NO_JSON[1:] if data != b"\xff\xfe"],
    without(RECORD, "index", "0"), without(RECORD, "bytes", "3"), without(RECORD, "file", "../a.png"),
    without(RECORD, "file", "/etc/passwd"), without(RECORD, "file", 5), without(RECORD, "settings", "x"),
]  # fmt: skip
BATCHES = [*[without(PROGRESS, name) for name in PROGRESS], b"{", b"[1]", b"null", b"5"]


@pytest.mark.parametrize("name, data", CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_configurations_of_pipelines(name, data, tmp_path):
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text('{"joint_attention_dim": 8, "in_channels": 4}')
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    model_of_folder(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        model_of_folder(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_pipeline_without_a_known_network_has_no_family(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({**INDEX, "transformer": {}}))
    assert model_of_folder(tmp_path)["family"] is None


@pytest.mark.parametrize("data", RECORDS, ids=range(len(RECORDS)))
def test_records_of_rows(data, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(data.rstrip() + b"\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1 is not a record of a row; remove the line"):
        BatchLedger(tmp_path, fresh=False)


@pytest.mark.parametrize("data", BATCHES, ids=range(len(BATCHES)))
def test_records_of_finished_batches(data, tmp_path):
    (tmp_path / "progress.jsonl").write_bytes(data + b"\n")
    with pytest.raises(ValueError, match=r"progress\.jsonl, line 1 is damaged; remove the line"):
        continued(tmp_path)


def continued(folder):
    """The progress of a run in a folder that is continued."""
    (folder / "run.json").write_text(json.dumps({"requested": {"batch": 1, "chunk": 1}}))
    return Progress(SimpleNamespace(out=folder, settings=dict, batch=1, chunk=1, checksums={}), continued=True)


def test_a_whole_record_of_a_finished_batch_is_read(tmp_path):
    """Also with fields that are not needed."""
    assert set(PROGRESS) == set(FIELDS)
    for line in (PROGRESS, {**PROGRESS, "digest": "a"}):
        (tmp_path / "progress.jsonl").write_text(json.dumps(line) + "\n")
        assert continued(tmp_path)._finished == {("base", 0): line}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".png")])
def test_images_of_a_run(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name][0])
    with pytest.raises(ValueError, match=f"{name} is damaged, or no image"):
        read_image(tmp_path / name)


def test_a_held_out_reward_that_is_not_finite():
    with pytest.raises(FloatingPointError, match=r"held-out reward 'bad' is \[nan\]"):
        heldout_values(
            rewards.Reward("bad", lambda images, prompts: images.mean((1, 2, 3)) * NAN), torch.rand(1, 3, 8, 8), ["a"]
        )


TABLES = {
    "a.csv": (b"", "no column prompt"), "b.csv": (b"text\ncat\n", "no column prompt"), "c.csv": (b"prompt\n", "no row"),
    "d.csv": (b"prompt,prompt\na,b\n", "twice"), "e.csv": (b"prompt\na,b\n", "more cells"),
    "f.csv": (b"prompt\n\xff\xfe\n", "UTF-8"), "g.csv": (b'prompt\n"a\n', "CSV"), "h.csv": (b"prompt,stepz\na,3\n", "steps"),
    "i.csv": (b"prompt\n\"a\"b\n", "CSV"), "a.jsonl": (b"", "no row"), "b.jsonl": (b"{", "line 1 is not JSON"),
    "c.jsonl": (b'"cat"\n', "expected an object"), "d.jsonl": (b"[1]\n", "expected an object"),
    "e.jsonl": (b'{"prompt": "a"}\nnull\n', "line 2"), "f.jsonl": (b"\xff", "UTF-8"), "g.jsonl": (b"[" * 100_000, "line 1"),
    "h.jsonl": (b'{"prompt": "a", "x": 1}\n', "column 'x'"), "a.txt": (b"\n\n", "no row"), "b.txt": (b"\xff\n", "UTF-8"),
    "a.parquet": (b"", "Parquet"), "b.parquet": (b"PAR1hello", "Parquet"), "c.parquet": (b"PAR1" + bytes(64) + b"PAR1", "Parquet"),
    "a.xlsx": (b"", "expected a file that ends in"), "noending": (b"cat", "expected a file that ends in"),
    "a.pkl": (b"\x80\x04", "expected a file that ends in"), "a.yaml": (b"!!python/object:os.system", "expected a file"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(name, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    data, words = TABLES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_table(tmp_path / name, {})
    assert words in str(error.value)


def test_a_table_that_does_not_exist(tmp_path):
    with pytest.raises(OSError, match=r"there is no file .*x\.csv"):
        read_table(tmp_path / "x.csv", {})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r"])
@pytest.mark.parametrize("arguments, status", [(["methods"], 0), (["rewards"], 0), (["plan", "кошка 猫"], 2)])
def test_terminals_in_other_encodings(encoding, arguments, status, monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(f"sys.{name}", stream)
    assert main(arguments) == status
    streams["stderr" if status else "stdout"].flush()
    assert len(streams["stderr" if status else "stdout"].buffer.getvalue()) > 40


NAMES = ["../../etc/passwd", "a" * 300, "CON", "nul", "..", "a/b\\c", "\U0001f600", "-rf", "a\nb", ".hidden"]


@pytest.mark.parametrize("prompt", NAMES)
def test_file_names_of_prompts_stay_in_the_folder(prompt):
    from noisetilt.report import file_stem

    stem = file_stem(prompt)
    assert stem and len(stem) <= 60 and set(stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not stem.startswith("-")
