"""Wan 2.1 guided by the mean PickScore of the frames plus their consistency:
`python examples/wan_video.py --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --frames 9`.

To save memory the gradient is taken only at the predicted video (gradient_at="x0"). Most memory is used to decode the
frames with gradient, in proportion to their number: `noisetilt plan Wan2.1-1.3B --frames 9` estimates it without
loading the model. `--videoreward FOLDER` uses VideoReward instead; docs/rewards.md describes its files.
"""

from __future__ import annotations

from collections.abc import Sequence

import common

from noisetilt import rewards
from noisetilt.rewards.reward import weighted_sum


def main(argv: Sequence[str] | None = None) -> None:
    further = dict(frames=5, steadiness=0.1, videoreward="")
    given = common.options(__doc__, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", argv, rho=0.0003, **further)
    pipe, call = common.pipeline(given, "wan")
    if given.videoreward:
        reward = rewards.load("videoreward", path=given.videoreward)
    else:
        content, steady = common.reward(given, "video:pickscore"), common.reward(given, "video-consistency")
        reward = weighted_sum([(1.0, content), (given.steadiness, steady)], "pickscore and consistency")
    heldout = common.reward(given, "video:pickscore", heldout=True)
    call |= {"num_frames": given.frames}
    images = common.compare(pipe, given, call, reward, heldout, gradient_at="x0")
    common.save(images, given.out, "wan_video")


if __name__ == "__main__":
    main()
