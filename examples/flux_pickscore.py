"""FLUX, followed by PickScore and judged by ImageReward:
`python examples/flux_pickscore.py --model black-forest-labs/FLUX.1-dev`.

FLUX's own sampler is an ODE, which has no noise to tilt; eta = 1 makes it a stochastic one with the same marginals.
"""

from __future__ import annotations

from collections.abc import Sequence

import common


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "black-forest-labs/FLUX.1-dev", argv)
    pipe, call = common.pipeline(given, "flux")
    followed, judge = common.reward(given, "pickscore"), common.reward(given, "pickscore", heldout=True)
    made = common.compare(pipe, given, call, followed, judge, eta=1.0, checkpointing=True)
    common.save(made, given.out, "flux_pickscore")


if __name__ == "__main__":
    main()
