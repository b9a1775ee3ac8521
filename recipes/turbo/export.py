"""Write the averaged weights of the newest checkpoint into the package, without what is the teacher's.

python recipes/turbo/export.py
"""

import torch
from pairs import BUILD

from noisetilt.models.emoji64.model import FOLDER
from noisetilt.models.weights import save_weights

TEACHERS = ("words", "text.", "layout.")

if __name__ == "__main__":
    state = torch.load(BUILD / "checkpoint.pt", weights_only=True)
    own = {name: tensor for name, tensor in state["average"].items() if not name.startswith(TEACHERS)}
    save_weights(own, FOLDER / "emoji64-turbo.safetensors")
    size = (FOLDER / "emoji64-turbo.safetensors").stat().st_size / 1e6
    print(f"{state['images']} pictures seen in {state['seconds'] / 60:.0f} minutes; {size:.1f} MB")
