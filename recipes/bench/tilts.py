"""What W is applied to, how ρ_t runs and where the gradient is taken, on emoji128: reward and judge at some strengths.

    python recipes/bench/tilts.py --images 8
    python recipes/bench/tilts.py --reward "concept:tiger face" "ntrk-x0 schedule=early rho=0.4" "freedom scale=0.4"
    python recipes/bench/tilts.py --reward jpeg --calls 500 best-of-n svdd

The tuning prompts of the suite `paper` and the same seeds for all; at most `--calls` network calls per image, and 25
for base. Prints means, the standard error of the reward, and the median p-value that the injected noise is white
Gaussian.
"""

from __future__ import annotations

import argparse

import torch

from noisetilt import METHODS, Method, load, rewards, sample
from noisetilt.bench.meter import injected_p_values, record_noise
from noisetilt.bench.metrics import total_variation
from noisetilt.bench.paper_plan import STEPS, TARGETS, fit_to_budget
from noisetilt.bench.paper_suite import judged_figures, prompt_seeds
from noisetilt.cli.arguments import parse_option
from noisetilt.report import table

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help='"METHOD OPTION=VALUE …" (default: the settings of SETTINGS)')
    parser.add_argument("--reward", default="style:3d", choices=[target.reward for target in TARGETS])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--calls", type=int, default=STEPS, help="network calls per image (default: %(default)s)")
    args = parser.parse_args()
    target = next(target for target in TARGETS if target.reward == args.reward)
    model, reward = load("emoji128"), rewards.load(args.reward)
    heldout = rewards.load(target.heldout, heldout=True)
    prompts, seeds = map(list, zip(*prompt_seeds(target, False, args.images), strict=True))
    for setting in ("base", *(args.settings or SETTINGS)):
        calls = STEPS if setting == "base" else args.calls
        method, steps = fit_to_budget(method_of(setting), model.path, calls)
        recorded, seen = record_noise(method, (7, 13))
        result = sample(model, prompts, reward, recorded, steps, seeds, track=False)
        with torch.no_grad():
            other = heldout(result.images, prompts).mean().item()
        rows = judged_figures(target, result.images, prompts)
        judged = [sum(float(row[name]) for row in rows) / len(rows) for name in ("probability", "named")]
        error = result.rewards.std().item() / len(prompts) ** 0.5
        p = injected_p_values(seen, len(prompts), 1).median().item()
        figures = [len(prompts), result.rewards.mean().item(), error, other, *judged]
        print(table(HEADER, [[setting, *figures, total_variation(result.images).mean().item(), p]]), flush=True)


if __name__ == "__main__":
    main()
