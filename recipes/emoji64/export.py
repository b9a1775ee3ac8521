"""Write the averaged weights of the newest checkpoint into the package, in half precision with a checksum.

python recipes/emoji64/export.py
"""

import json
from pathlib import Path

import torch

from noisetilt.models.emoji64.model import FOLDER
from noisetilt.models.emoji64.network import Emoji64
from noisetilt.models.weights import save_weights
from noisetilt.rewards.scorers.words64 import vocabulary

if __name__ == "__main__":
    state = torch.load(Path("build/emoji64/checkpoint.pt"), weights_only=True)
    network = Emoji64(len(vocabulary()))
    network.load_state_dict(state["average"])
    save_weights(network.state_dict(), FOLDER / "emoji64.safetensors")
    (FOLDER / "config.json").write_text(json.dumps(network.config) + "\n")
    size = (FOLDER / "emoji64.safetensors").stat().st_size / 1e6
    print(f"{state['images']} pictures seen in {state['seconds'] / 60:.0f} minutes; {size:.1f} MB")
