"""How far single precision is from double in W and in WGNC.

    python recipes/noise/precision.py [vectors]

Prints ‖f₃₂(x) − f₆₄(x)‖/‖f₆₄(x)‖, its median and its largest, over vectors of several lengths and over the structured
inputs of structured.py. W decides by thresholds whether it touches a group of statistics, and where rounding decides
otherwise the answers differ visibly; the cosine says how far, and `rejected` whether the audit minds (at 1 %, of W in
single precision and in double).
"""

import sys
from pathlib import Path

import torch
from structured import coloured, held_out, real, structured
from torch import Tensor

from noisetilt.noise import audit, project_wgnc, whiten

EVENT = (3, 64, 64)
SIZES = [(1, 64, 64), (4, 64, 64), (16, 64, 64), (16, 128, 128), (16, 256, 256)]
GRADIENTS = Path("build/noise/gradients.safetensors")


def errors(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Relative errors (batch,) of W and WGNC, and W in both precisions."""
    single, double = whiten(x.float(), noise=noise.float()), whiten(x.double(), noise=noise.double())
    even = project_wgnc(x.double())
    off = relative(single, double), relative(project_wgnc(x.float()), even)
    return *off, single, double


def relative(a: Tensor, b: Tensor) -> Tensor:
    return ((a.double() - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).cpu()


def row(name: str, x: Tensor) -> str:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(8))
    w, wgnc, single, double = errors(x, noise)
    cosine = torch.cosine_similarity(single.double().flatten(1), double.flatten(1)).min()
    rejected = [audit(y).rejected(0.01).double().mean().item() for y in (single, double)]
    return (
        f"{name:<22}{w.median():>10.1e}{w.max():>10.1e}{cosine:>12.6f}{rejected[0]:>9.2f}{rejected[1]:>6.2f}"
        f"{wgnc.median():>12.1e}{wgnc.max():>10.1e}"
    )


def main() -> None:
    vectors = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    print(f"{'input':<22}{'W':>10}{'largest':>10}{'least cos':>12}{'rejected':>15}{'WGNC':>12}{'largest':>10}")
    for event in SIZES:
        count = max(2, min(vectors, 2**20 // torch.Size(event).numel()))
        x = torch.randn(count, *event, generator=torch.Generator().manual_seed(7))
        name = "x".join(map(str, event))
        print(row(f"white {name}", x), row(f"1/f {name}", coloured(x, 1)), sep="\n", flush=True)
    for name, x in (structured(EVENT, vectors) | real(GRADIENTS, vectors) | held_out(EVENT, vectors)).items():
        print(row(name, x), flush=True)


if __name__ == "__main__":
    main()
