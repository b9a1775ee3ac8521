"""Put trained weights together as a FluxPipeline folder.

    python recipes/emoji128/assemble.py build/emoji128/run build/emoji128 build/emoji128/undistilled
    python recipes/emoji128/assemble.py build/emoji128/gpu build/emoji128 build/emoji128/distilled --distilled
    python recipes/emoji128/assemble.py build/emoji128/gpu build/emoji128 build/emoji128/few-steps --turbo

The first folder has text*.safetensors, scale.json and the networks that train_cpu.py, train_gpu.py or train_turbo.py
writes: flow*.safetensors, guided*.safetensors (with --distilled) or turbo*.safetensors (with --turbo); --network names
another one. The second has vocabulary.json and vae.safetensors. The third is written: weights in float16, and SHA-256
checksums of all files but the card. Weights that were not guidance-distilled have seen guidance 1 only, and the
guidance input is folded away; --distilled keeps it. --turbo writes the transformer alone: emoji128-turbo has the other
parts of emoji128.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import networks
from captions import tokenizers
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training import read_scale

NETWORKS = ("flow", "guided", "turbo")


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of all files `name*.safetensors` of a folder, in float32 where they are floating point."""
    files = sorted(folder.glob(f"{name}*.safetensors"))
    if not files:
        others = [other for other in NETWORKS if name in NETWORKS and any(folder.glob(f"{other}*.safetensors"))]
        hint = f"train it, or pack another one by --network {' or '.join(others)}" if others else "train first"
        raise FileNotFoundError(f"{folder} has no {name}*.safetensors; {hint}")
    state = {key: value for file in files for key, value in load_file(file).items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def assemble(weights: Path, build: Path, network_name: str = "flow", distilled: bool = False) -> FluxPipeline:
    """The pipeline in float32.

    Args:
        weights: folder with the network, text*.safetensors and scale.json (else that of `build`).
        build: folder with vocabulary.json and vae.safetensors.
        network_name: one of NETWORKS.
        distilled: whether the network takes its guidance as an input.
    """
    vocabulary = json.loads((build / "vocabulary.json").read_text("utf-8"))
    network = networks.transformer_like(read_weights(weights, network_name))
    text = networks.TextEncoders(len(vocabulary["tokens"]))
    text.load_state_dict(read_weights(weights, "text"))
    text.tie_plurals(vocabulary["same_as"])
    vae = networks.autoencoder()
    vae.load_state_dict(read_weights(build, "vae"))
    shift, scale = read_scale(weights, build)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    clip_tokenizer, t5_tokenizer = tokenizers(vocabulary["tokens"])
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        transformer=network if distilled else networks.without_guidance_input(network),
        text_encoder=text.pooled,
        tokenizer=clip_tokenizer,
        text_encoder_2=text.sequence,
        tokenizer_2=t5_tokenizer,
    )


def save(pipe: FluxPipeline, folder: Path, transformer_only: bool = False) -> None:
    """Writes the pipeline, or its transformer, with half-precision weights and checksums.json."""
    if transformer_only:
        pipe.transformer.save_pretrained(folder / "transformer")
    else:
        pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        state = load_file(file)
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, file, {"format": "pt"})
        file.chmod(0o644)
    for file in (*folder.glob("model_index.json"), *folder.glob("tokenizer*/tokenizer_config.json")):
        # The name that transformers 4 and 5 both know.
        file.write_text(file.read_text("utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast"), "utf-8")
    files = sorted(f for f in folder.rglob("*") if f.suffix in {".safetensors", ".json"} and f.name != "checksums.json")
    digests = {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    (folder / "checksums.json").write_text(json.dumps(digests, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("folder", type=Path)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--distilled", action="store_true", help="keep the guidance input")
    kind.add_argument("--turbo", action="store_true", help="write the transformer alone")
    parser.add_argument("--network", choices=NETWORKS, help="by default guided with --distilled, turbo with --turbo")
    options = parser.parse_args()
    name = options.network or ("guided" if options.distilled else "turbo" if options.turbo else "flow")
    pipe = assemble(options.weights, options.build, name, options.distilled)
    save(pipe, options.folder, options.turbo)
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    size = sum(f.stat().st_size for f in options.folder.rglob("*.safetensors"))
    print(
        f"{sum(p.numel() for part in parts for p in part.parameters()) / 1e6:.1f} M parameters, "
        f"{size / 1e6:.1f} MB of weights"
    )


if __name__ == "__main__":
    main()
