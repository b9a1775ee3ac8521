"""Wan 2.1, followed by PickScore over frames, with a part that holds the frames together:
`python examples/wan_video.py --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --frames 9`.

The gradient stops at the predicted video (gradient_at="x0"), for memory. What takes most is decoding the frames with
gradient, in proportion to their number: `noisetilt plan Wan2.1-1.3B --frames 9` tells before anything is loaded. With
`--videoreward FOLDER` VideoReward is followed instead, whose files docs/rewards.md names.
"""

from __future__ import annotations

from collections.abc import Sequence

import common

from noisetilt import rewards
from noisetilt.rewards.reward import weighted_sum


def main(argv: Sequence[str] | None = None) -> None:
    given = common.options(__doc__, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", argv, frames=5, steadiness=0.1, videoreward="")
    pipe, call = common.pipeline(given, "wan")
    if given.videoreward:
        followed = rewards.load("videoreward", path=given.videoreward)
    else:
        content, steady = common.reward(given, "video:pickscore"), common.reward(given, "video-consistency")
        followed = weighted_sum([(1.0, content), (given.steadiness, steady)], "pickscore and consistency")
    judge = common.reward(given, "video:pickscore", heldout=True)
    call |= {"num_frames": given.frames}
    made = common.compare(pipe, given, call, followed, judge, gradient_at="x0")
    common.save(made, given.out, "wan_video")


if __name__ == "__main__":
    main()
