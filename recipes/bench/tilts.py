"""What W is applied to, how ρ_t runs and where the gradient is taken, on emoji128: reward and judge at some strengths.

    python recipes/bench/tilts.py --images 8
    python recipes/bench/tilts.py --reward "concept:tiger face" "ntrk-x0 schedule=early rho=0.4" "freedom scale=0.4"
    python recipes/bench/tilts.py --reward jpeg --calls 500 --standardise --rows out/jpeg.jsonl best-of-n svdd

The tuning prompts of the suite `paper` and the same seeds for all; at most `--calls` network calls per image, and 25
for base. Prints means, the standard error of the reward, and the median p-value that the injected noise is white
Gaussian. Scales and temperatures are for the reward itself, or with --standardise, as in the suite, for the reward
divided by its standard deviation over 32 images of base, whatever --images is; the rewards that are printed are those
of the reward itself.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisetilt import METHODS, Method, load, rewards, sample
from noisetilt.bench.ledger import Row
from noisetilt.bench.meter import injected_p_values, record_noise
from noisetilt.bench.metrics import total_variation
from noisetilt.bench.paper_plan import STEPS, TARGETS, Plan, Target, fit_to_budget
from noisetilt.bench.paper_suite import judged_figures, prompt_seeds
from noisetilt.cli.arguments import parse_option
from noisetilt.report import table
from noisetilt.rewards import Reward
from noisetilt.runs import append_line, make_folder

UNIT_IMAGES = Plan().tuning_images  # as many as those of the suite, whose unit it is
HEADER = ["method", "n", "reward", "± error", "held-out", "probability", "named right", "total variation", "p"]
SETTINGS = (
    *(f"ntrk rho={rho}" for rho in (0.01, 0.02, 0.05)),
    *(f"ntrk schedule=early rho={rho}" for rho in (0.03, 0.06)),
    *(f"ntrk schedule=late rho={rho}" for rho in (0.03, 0.06)),
    *(f"ntrk whitened=mixture rho={rho}" for rho in (0.01, 0.02, 0.05)),
    *(f"ntrk whitened=path rho={rho}" for rho in (0.01, 0.02, 0.05)),
)


def method_of(setting: str) -> Method:
    """The method of "name option=value …"."""
    name, *options = setting.split()
    return METHODS[name].replace(**dict(map(parse_option, options)))


def rows_of(model: Any, target: Target, setting: str, images: int, calls: int, unit: float) -> list[Row]:
    """A row per image; the method follows the target reward divided by `unit`."""
    reward, heldout = rewards.load(target.reward), rewards.load(target.heldout, heldout=True)
    followed = Reward(reward.name, lambda x, p: reward(x, p) / unit, reward.differentiable)
    prompts, seeds = map(list, zip(*prompt_seeds(target, False, images), strict=True))
    method, steps = fit_to_budget(method_of(setting), model.path, calls)
    recorded, seen = record_noise(method, (steps // 4 + 1, steps // 2 + 1))
    result = sample(model, prompts, followed, recorded, steps, seeds, track=False)
    with torch.no_grad():
        figures = {"reward": unit * result.rewards, "heldout": heldout(result.images, prompts)}
    figures["roughness"] = total_variation(result.images)
    figures["p_value"] = injected_p_values(seen, images, method.selection.particles)
    judged = judged_figures(target, result.images, prompts)
    shared = {"target": target.reward, "setting": setting, "reward_unit": unit, "nfe": result.trace.nfe}
    return [
        {**shared, "prompt": prompts[i], "seed": seeds[i], **{k: v[i].item() for k, v in figures.items()}, **judged[i]}
        for i in range(images)
    ]


def printed(setting: str, rows: list[Row]) -> str:
    """The means of a setting as a table."""
    fields = ("heldout", "probability", "named", "roughness")
    means = [float(np.mean([row[field] for row in rows])) for field in fields]
    rewards_ = [row["reward"] for row in rows]
    error = float(np.std(rewards_, ddof=1)) / len(rows) ** 0.5
    p_value = float(np.median([row["p_value"] for row in rows]))
    return table(HEADER, [[setting, len(rows), float(np.mean(rewards_)), error, *means, p_value]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help='"METHOD OPTION=VALUE …" (default: the settings of SETTINGS)')
    parser.add_argument("--reward", default="style:3d", choices=[target.reward for target in TARGETS])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--calls", type=int, default=STEPS, help="network calls per image (default: %(default)s)")
    parser.add_argument(
        "--standardise",
        action="store_true",
        help="methods follow the reward divided by base's deviation, of 32 images",
    )
    parser.add_argument("--rows", type=Path, help="append a JSON line per image to this file")
    args = parser.parse_args()
    if args.rows:
        make_folder(args.rows.parent)
    target = next(target for target in TARGETS if target.reward == args.reward)
    model, unit = load("emoji128"), 1.0
    for setting in ("base", *(args.settings or SETTINGS)):
        measured = max(args.images, UNIT_IMAGES) if setting == "base" and args.standardise else args.images
        found = rows_of(model, target, setting, measured, STEPS if setting == "base" else args.calls, unit)
        rows = found[: args.images]
        print(printed(setting, rows), flush=True)
        for row in rows if args.rows else ():
            finite = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            append_line(args.rows, json.dumps(finite))
        if setting == "base":
            values = [row["reward"] for row in found[:UNIT_IMAGES]]
            unit = max(float(np.std(values)), 1e-3) if args.standardise else 1.0
            of = f"its standard deviation over {len(values)} images" if args.standardise else "the reward itself"
            print(f"Scales and temperatures are for {target.reward} divided by {unit:.4g}, {of}.", flush=True)


if __name__ == "__main__":
    main()
