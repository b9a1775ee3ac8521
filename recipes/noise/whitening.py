"""What W makes of structured input: how often the audit rejects it, and how much of the signal is kept.

    python recipes/noise/whitening.py [vectors per input] [--ablate]

Rejection rates are at the 1 % level. `kept` is the mean cosine between input and answer, for W and for WGNC. With
--ablate every step of W is left out in turn, and the rates and cosines are averaged over the bank.
"""

import sys

import torch
from structured import structured

from noisetilt.noise import audit, project_wgnc, whiten
from noisetilt.noise import whitening as steps

EVENT = (3, 64, 64)
STEPS = (
    "whiten_means whiten_channels exponential_powers even_runs even_bands even_lags whiten_sequence whiten_values"
    " clip_values whiten_tiles"
).split()


def cosine(a, b) -> float:
    return torch.cosine_similarity(a.double().flatten(1), b.double().flatten(1)).mean().item()


def table(bank) -> None:
    print(f"{'input':<20}{'W rejected':>11}{'WGNC rejected':>15}{'W kept':>9}{'WGNC kept':>11}   most frequent test")
    for name, g in bank.items():
        w, p = whiten(g), project_wgnc(g)
        of_w, of_p = audit(w), audit(p)
        worst = min(of_w.tests, key=lambda test: of_w.tests[test].median().item())
        rates = [found.rejected(0.01).double().mean().item() for found in (of_w, of_p)]
        print(
            f"{name:<20}{rates[0]:>11.3f}{rates[1]:>15.3f}{cosine(g, w):>9.4f}{cosine(g, p):>11.4f}   {worst}",
            flush=True,
        )


def averages(bank) -> str:
    rates, kept = [], []
    for g in bank.values():
        w = whiten(g)
        rates.append(audit(w).rejected(0.01).double().mean().item())
        kept.append(cosine(g, w))
    return f"{sum(rates) / len(rates):>9.3f}{sum(kept) / len(kept):>9.4f}"


def ablate(bank) -> None:
    print(f"{'left out':<20}{'rejected':>9}{'kept':>9}")
    print(f"{'nothing':<20}{averages(bank)}", flush=True)
    for name in STEPS:
        step = getattr(steps, name)
        setattr(steps, name, lambda x, *_: x)
        print(f"{name:<20}{averages(bank)}", flush=True)
        setattr(steps, name, step)


def main() -> None:
    numbers = [a for a in sys.argv[1:] if a.isdigit()]
    bank = structured(EVENT, int(numbers[0]) if numbers else 100)
    (ablate if "--ablate" in sys.argv else table)(bank)


if __name__ == "__main__":
    main()
