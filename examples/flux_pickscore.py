"""FLUX guided by PickScore, with ImageReward as the held-out reward:
`python examples/flux_pickscore.py --model black-forest-labs/FLUX.1-dev`.

FLUX's own sampler is an ODE, which has no noise to tilt. eta = 1 makes it stochastic, with the same marginals.
"""

from __future__ import annotations

from collections.abc import Sequence

import common


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "black-forest-labs/FLUX.1-dev", argv, rho=0.0002)
    pipe, call = common.pipeline(given, "flux")
    reward, heldout = common.reward(given, "pickscore"), common.reward(given, "pickscore", heldout=True)
    images = common.compare(pipe, given, call, reward, heldout, eta=1.0, checkpointing=True)
    common.save(images, given.out, "flux_pickscore")


if __name__ == "__main__":
    main()
