"""The recipe of emoji128 on a handful of synthetic images: captions, tokenizers, packing, a training step, assembly."""

import json
import re
import shlex
import shutil
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji128"
NOUNS = ("cat", "fox", "berry", "bus")


@pytest.fixture(scope="module", autouse=True)
def recipe_on_path():
    names = {file.stem for file in RECIPE.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path.insert(0, str(RECIPE))
    yield
    sys.path.remove(str(RECIPE))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def write_images(folder, n=10, per_concept=5, heldout=1):
    """images.npz as data.py writes it, of coarse noise."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    words = [
        json.dumps({"char": "❤️", "label": f"{noun} face", "name": [noun, "face"], "further": ["red"]})
        for noun in (NOUNS * 3)[:n]
    ]
    np.savez(
        folder / "images.npz",
        pictures=coarse.repeat(16, 1).repeat(16, 2),
        style=np.arange(n) % 5,
        concept=np.arange(n) // per_concept,
        weight=np.ones(n),
        heldout=np.arange(n) < heldout,
        flippable=np.arange(n) % 2 == 0,
        words=np.array(words),
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A build folder with ten images, packed, and an untrained autoencoder."""
    import networks
    from pack import pack
    from training import save_weights

    folder = tmp_path_factory.mktemp("build")
    write_images(folder)
    pack(folder)
    torch.manual_seed(0)
    save_weights(networks.autoencoder(), folder / "vae.safetensors")
    (folder / "scale.json").write_text('{"shift": 0.1, "scale": 0.8}')
    return folder


def test_packing_keeps_the_images(build):
    from dataset import load_dataset

    data = load_dataset(build)
    with np.load(build / "images.npz") as original:
        difference = np.abs(data.pictures.astype(int) - original["pictures"]).max((1, 2, 3))
    assert (difference[data.style.numpy() > 0] == 0).all()  # WebP is lossless
    assert difference.max() < 90  # JPEG at hard edges is not
    assert data.chance[0] == 0 and (data.chance[1:] == 1).all()


def test_the_vocabulary_has_plurals_and_emoji(build):
    from dataset import load_dataset

    vocabulary = load_dataset(build).vocabulary
    index = {token: i for i, token in enumerate(vocabulary["tokens"])}
    for one, several in (("cat", "cats"), ("fox", "foxes"), ("berry", "berries"), ("bus", "buses")):
        assert vocabulary["same_as"][str(index[several])] == index[one]
    assert "❤" in index and "❤️" not in index


def test_captions_are_what_the_tokenizers_read(build):
    """Training encodes words itself; the pipeline's tokenizers give the same ids for the same text."""
    from captions import LENGTH, STYLES, caption, encode, tokenizers
    from dataset import load_dataset

    data, random = load_dataset(build), np.random.default_rng(0)
    clip, t5 = tokenizers(data.vocabulary["tokens"])
    captions = [caption(data.words[i % 10], STYLES[i % 5], random) for i in range(200)]
    assert 5 < captions.count([]) < 40
    for words in captions:
        ids = encode(words, data.index).tolist()
        assert t5(" ".join(words), padding="max_length").input_ids == ids
        assert clip(" ".join(words), padding="max_length").input_ids == [2, *ids][:LENGTH]


def test_latents_are_packed_as_the_pipeline_packs_them():
    from diffusers import FluxPipeline
    from networks import pack, position_ids, unpack

    z = torch.randn(2, 16, 16, 16)
    assert torch.equal(pack(z), FluxPipeline._pack_latents(z, 2, 16, 16, 16))
    assert torch.equal(unpack(pack(z)), z)
    expected = FluxPipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
    assert torch.equal(position_ids()[1], expected)


@pytest.mark.long
def test_training_goes_on_and_its_weights_become_a_pipeline(build, tmp_path):
    import train_cpu
    from assemble import assemble, save
    from dataset import load_dataset
    from diffusers import FluxPipeline
    from networks import autoencoder, position_ids
    from training import load_weights

    options = Namespace(build=build, out=tmp_path, batch=2, rate=1e-3, text=None, start=None, compile=False, limit=None)
    options = Namespace(**vars(options), guided=0.5, alignment=False)
    torch.manual_seed(0)
    data = load_dataset(build)
    batches = train_cpu.Batches(data, load_weights(autoencoder(), build / "vae.safetensors"), options)
    trainer = train_cpu.Trainer(data, options, None)
    for _ in range(3):
        loss, _ = trainer.step(*batches.draw())
        assert np.isfinite(loss)
    trainer.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"decay\.pt was trained without the features .*; pass --no-alignment to go on"
    ):
        train_cpu.Trainer(data, options, 112).resume(tmp_path / "before-decay.pt")
    torch.save({"head": {}}, tmp_path / "with-features.pt")
    with pytest.raises(
        ValueError, match=r"was trained with the features .*; run it with features\.pt and without --no-"
    ):
        trainer.resume(tmp_path / "with-features.pt")
    options.rate = 5e-4
    resumed = train_cpu.Trainer(data, options, None)
    resumed.resume(tmp_path / "before-decay.pt")
    assert resumed.images == 6 and not resumed.decayed
    assert resumed.optimizers[1].param_groups[0]["peak"] == 5e-4
    for ours, theirs in zip(resumed.average.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)

    # From weights with which the learning rate had fallen, also at a constant rate, before-decay.pt stays.
    trainer.decayed = True
    trainer.save(tmp_path)
    resumed.resume(tmp_path / "checkpoint.pt")
    resumed.images = 1000
    resumed.save(tmp_path)
    assert torch.load(tmp_path / "before-decay.pt")["images"] == 6
    resumed.resume(tmp_path / "before-decay.pt")
    resumed.images = 8
    resumed.save(tmp_path)
    assert torch.load(tmp_path / "before-decay.pt")["images"] == 8

    save(assemble(tmp_path, build, distilled=True), tmp_path / "guided")
    options.start = tmp_path / "guided"
    again = train_cpu.Trainer(data, options, None)
    for ours, theirs in ((again.network, resumed.average), (again.text.pooled, resumed.average_text.pooled)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b.half().float()) or a.shape == (len(data.index), 128)  # plurals are tied
    assert again.text.sequence.encoder.embed_tokens.weight is again.text.sequence.shared.weight

    save(assemble(tmp_path, build), tmp_path / "pipeline")
    pipe = FluxPipeline.from_pretrained(tmp_path / "pipeline")
    assert not pipe.transformer.config.guidance_embeds
    ids = data.index
    clip = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(clip[ids["foxes"]], clip[ids["fox"]])
    text_ids, image_ids = position_ids()
    given = dict(
        hidden_states=torch.randn(1, 64, 64),
        timestep=torch.tensor([0.4]),
        encoder_hidden_states=torch.randn(1, 16, 128),
        pooled_projections=torch.randn(1, 128),
        img_ids=image_ids,
        txt_ids=text_ids,
        return_dict=False,
    )
    with torch.no_grad():
        folded = pipe.transformer(**given)[0]
        trained = trainer.average(**given, guidance=torch.ones(1))[0]
    assert trained.abs().max() > 0
    assert torch.allclose(folded, trained, atol=1e-2 * float(trained.abs().max()))


def test_muon_is_torchs():
    from training import Muon

    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((8, 8), (8, 8), (16, 8), (8, 20))]

    def run(optimizer_of):
        parameters, noise = [torch.nn.Parameter(p.clone()) for p in start], torch.Generator().manual_seed(1)
        optimizer = optimizer_of(parameters)
        for _ in range(4):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=noise)
            optimizer.step()
        return parameters

    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    ours = run(lambda p: Muon(p, lr=0.1))
    theirs = run(lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_an_attack_raises_the_loss_within_its_radius():
    from train_scorers import attack

    torch.manual_seed(0)
    x, weight = torch.rand(4, 3, 8, 8) - 0.5, torch.randn(3, 8, 8)
    radius = torch.tensor([0.0, 0.1, 0.3, 0.5]).view(4, 1, 1, 1)

    def loss(y):
        return (y * weight).sum((1, 2, 3)).tanh().sum()

    attacked = attack(loss, x, radius, 5, 0.5)
    size = (attacked - x).flatten(1).norm(dim=1)
    assert (size <= radius.flatten() + 1e-5).all() and size[3] > 0.4
    assert loss(attacked) > loss(x)


def test_frechet_distance_and_precision():
    from noisetilt.bench.metrics import frechet_distance, precision_recall

    def precision(images, real):
        return precision_recall(real, images)[0]

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(24, rel=1e-6)
    assert frechet_distance(a, 3 * a) == pytest.approx(4 * 6, rel=0.15)  # (3 − 1)² of each of six variances 1
    assert precision(a[:100], a) == 1.0
    assert precision(a[:100] + 50, a) == 0.0


@pytest.mark.long
def test_distillation_draws_pairs_once_and_goes_on(build, tmp_path, monkeypatch):
    import networks
    import train_turbo
    from assemble import assemble, save
    from dataset import draw_captions, load_dataset
    from safetensors.torch import load_file
    from training import save_weights

    from noisetilt.rewards.scorers.efficientnet_lite import EfficientNetLite

    monkeypatch.setattr(train_turbo, "IN_A_FILE", 4)
    monkeypatch.setattr(train_turbo, "BATCH", 4)
    torch.manual_seed(0)
    data = load_dataset(build)
    save_weights(networks.transformer(), tmp_path / "flow.safetensors")
    save_weights(networks.transformer(), tmp_path / "guided.safetensors")
    save_weights(networks.new_text_encoders(len(data.index)), tmp_path / "text.safetensors")
    save(assemble(tmp_path, build), tmp_path / "undistilled")
    save(assemble(tmp_path, build, "guided", distilled=True), tmp_path / "pipeline")
    save_weights(EfficientNetLite("lite0"), tmp_path / "lite0.safetensors")
    options = Namespace(out=tmp_path, backbones=tmp_path, pairs=8, teacher_steps=2, seconds=0.01, decoded=2)
    options = Namespace(**vars(options), rate=1e-3, flat=0.5, every=1, compile=False)
    with pytest.raises(ValueError, match="takes no guidance"):
        train_turbo.Model(tmp_path / "undistilled", data.index)
    with pytest.raises(ValueError, match="another vocabulary"):
        train_turbo.Model(tmp_path / "pipeline", {**data.index, "zebra": len(data.index)})
    model = train_turbo.Model(tmp_path / "pipeline", data.index)
    captions = draw_captions(data, 2)
    train_turbo.write_pairs(model, captions, data.chance, "one model", options)
    first = load_file(tmp_path / "pairs-000.safetensors")
    (tmp_path / "pairs-001.safetensors").unlink()
    train_turbo.write_pairs(model, captions, data.chance, "one model", options)
    with pytest.raises(ValueError, match="another --model"):
        train_turbo.write_pairs(model, captions, data.chance, "another model", options)
    assert torch.equal(load_file(tmp_path / "pairs-000.safetensors")["noise"], first["noise"])
    pairs = {name: torch.cat([first[name], load_file(tmp_path / "pairs-001.safetensors")[name]]) for name in first}
    assert pairs["ids"].shape == (8, 16) and not torch.equal(pairs["noise"], pairs["end"])

    trainer = train_turbo.Trainer(model, options)
    images = torch.rand(1, 3, 128, 128)
    assert trainer.image_loss(images, images) == 0 < trainer.image_loss(images, images.flip(-1))
    train_turbo.train(trainer, pairs, options)
    assert trainer.images >= 4
    resumed = train_turbo.Trainer(model, Namespace(**{**vars(options), "rate": 1e-4}))
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.images == trainer.images
    assert resumed.optimizers[1].param_groups[0]["peak"] == 1e-4
    for ours, theirs in zip(resumed.average.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    save(assemble(tmp_path, build, "turbo"), tmp_path / "turbo", transformer_only=True)
    assert {file.name for file in (tmp_path / "turbo").iterdir()} == {"transformer", "checksums.json"}


def test_words_of_the_scorers_share_rows_as_the_vocabulary_says(build):
    from dataset import load_dataset
    from export_scorers import concepts, word_rows

    data = load_dataset(build)
    rows = word_rows(data)
    assert rows["foxes"] == rows["fox"] != rows["cat"] and "<pad>" not in rows
    assert sorted(set(rows.values())) == list(range(max(rows.values()) + 1))
    assert concepts(data)[0] == ["❤", "cat", "face"]


def test_optimizers_go_on_at_their_own_learning_rates():
    from training import load_parts

    def optimizer_at(rate):
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "peak": factor * rate} for factor in (1, 5)]
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))

    before, after = optimizer_at(1e-3), optimizer_at(1e-4)
    for group in before.param_groups:
        group["params"][0].grad = torch.ones(2)
    before.step()
    load_parts({"adamw": after}, {"adamw": before.state_dict()})
    assert [group["peak"] for group in after.param_groups] == [1e-4, 5e-4]
    assert after.state[after.param_groups[0]["params"][0]]["step"] == 1


def test_cached_tensors_are_of_the_same_inputs(tmp_path, build):
    from training import cached, digest, read_features

    source, file = tmp_path / "source", tmp_path / "cache.pt"
    source.write_bytes(b"one")

    def made(value, limit=None):
        return cached(file, digest(source, limit), lambda: torch.tensor(value)).item()

    assert made(1) == 1 and made(2) == 1  # kept
    source.write_bytes(b"two")
    assert made(3) == 3 and made(4) == 3
    assert made(5, limit=10) == 5
    torch.save(torch.tensor(6), file)  # a file that does not say what it was made of
    assert made(7) == 7
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cache.pt", "source"]

    shutil.copy(build / "pack.npz", tmp_path)
    torch.save({"inputs": digest(tmp_path / "pack.npz", 5), "pooled": torch.ones(5)}, tmp_path / "features.pt")
    assert read_features(tmp_path, 5)["pooled"].shape == (5,)
    with pytest.raises(ValueError, match=r"run features\.py again"):
        read_features(tmp_path, None)


def test_a_stage_begins_with_the_network_of_the_stage_before(tmp_path, monkeypatch, capsys):
    import train_gpu

    (tmp_path / "flow.safetensors").touch()
    assert train_gpu.start_network(tmp_path, None).name == "flow.safetensors"
    assert train_gpu.start_network(tmp_path, "guidance").name == "flow.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no guided\.safetensors, with which turbo begins"):
        train_gpu.start_network(tmp_path, "turbo")
    (tmp_path / "guided.safetensors").touch()
    assert train_gpu.start_network(tmp_path, "turbo").name == "guided.safetensors"
    (tmp_path / "figures.json").write_text(json.dumps({"flow": {"steps": 1}, "guidance": {}, "turbo": {}}))
    assert train_gpu.earlier_figures(tmp_path, "guidance") == {"flow": {"steps": 1}}
    assert train_gpu.earlier_figures(tmp_path, "turbo") == {"flow": {"steps": 1}, "guidance": {}}
    assert train_gpu.earlier_figures(tmp_path, None) == {}

    command = f"train_gpu.py {tmp_path} {tmp_path} --backbones {tmp_path} --seconds 1 1 1 --resume-at turbo"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit):
        train_gpu.main()
    assert "--resume-at turbo needs --start" in capsys.readouterr().err


def test_assembly_names_the_network_that_is_missing(tmp_path):
    from assemble import read_weights

    (tmp_path / "flow.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"has no guided\*.safetensors; .* --network flow"):
        read_weights(tmp_path, "guided")
    with pytest.raises(FileNotFoundError, match=r"has no text\*.safetensors; train first"):
        read_weights(tmp_path, "text")


def test_data_without_a_style_are_refused_and_other_numbers_warned_of():
    import warnings

    from data import EXPECTED, check

    n, concepts, heldout = EXPECTED.values()
    style, concept, held = np.arange(n) % 5, np.arange(n) % concepts, np.arange(n) < heldout
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(style, concept, held) == EXPECTED
        check(style[:50], concept[:50], held[:50], complete=False)
    with pytest.warns(UserWarning, match="9701"):
        check(style[1:], concept[1:], held[1:])
    with pytest.raises(ValueError, match="the styles flat have no images"):
        check(style[style != 3], concept[style != 3], held[style != 3])


@pytest.mark.parametrize("name", ["emoji128", "emoji128-turbo", "build/emoji128/distilled"])
def test_models_are_measured_where_the_judge_is(name, monkeypatch):
    """The pipeline of a folder would otherwise be on a GPU, if there is one, in bfloat16."""
    import gates

    seen = []
    monkeypatch.setattr(gates.noisetilt, "load", lambda name, **options: seen.append((name, options)))
    gates.load_model(name)
    guidance = None if name == "emoji128-turbo" else 3.0
    assert seen == [(name, {"device": "cpu", "dtype": "float32", "guidance": guidance})]


def test_figures_of_other_runs_are_kept(tmp_path):
    from gates import add_row

    for name, value in (("one", 1.0), ("two", 2.0), ("one", 3.0)):
        add_row(tmp_path / "gates.json", name, {"n": value})
    assert json.loads((tmp_path / "gates.json").read_text()) == {"one": {"n": 3.0}, "two": {"n": 2.0}}


# Options for each script of the README's commands, which come last and so count.
SMALL = {
    "train_autoencoder": "--seconds 0.01 --device cpu --batch 6",
    "pretrain_text": "--seconds 0.01",
    "train_cpu": "--seconds 0.01 --no-compile --batch 4",
    "train_scorers": "--seconds 0.01 0.01 0.01 --device cpu --batch 8 --workers 1",
    "train_gpu": "--seconds 0.01 0.01 0.01 --device cpu --batch 4 --variants 2 --copies 4 --workers 1",
    "fit_text": "--seconds 0.01 --no-compile --batch 4",
    "train_turbo": "--seconds 0.01 --no-compile --pairs 4 --teacher-steps 1 --decoded 1",
    "train_style": "--seconds 0.01 --batch 8",
    "gates": "--n 4 --steps 1",
}


def readme_commands():
    """[script or "cp", arguments …] of the indented lines of the recipe's README."""
    text = (RECIPE / "README.md").read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    (\S.*)$", text, re.M):
        words = shlex.split(line.removesuffix("&"), comments=True)
        if words[0] == "python":
            yield Path(words[1]).stem, *words[2:]
        elif words[0] == "cp":
            yield words


@pytest.mark.long
def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path, monkeypatch):
    import convert_backbones
    import gates
    import train_cpu
    import train_scorers
    import train_style
    import train_turbo
    from diffusers import FluxPipeline
    from safetensors.torch import load_file

    from noisetilt.rewards.scorers.efficientnet_lite import FEATURES, EfficientNetLite
    from noisetilt.rewards.scorers.style import load_style_network

    def random_backbone(number):
        classifier = torch.nn.Linear(FEATURES, 1000)
        return EfficientNetLite(f"lite{number}").state_dict(), classifier.state_dict()

    fit_head, attack, features = train_style.fit_head, train_scorers.attack, gates.untouched_features
    for module in (train_scorers, train_style):
        monkeypatch.setattr(module, "attack", lambda loss, x, radius, steps, rate: attack(loss, x, radius, 1, rate))
    monkeypatch.setattr(gates, "untouched_features", lambda *given: features(*given)[:, :32])
    monkeypatch.setattr(convert_backbones, "convert", random_backbone)
    monkeypatch.setattr(train_style, "fit_head", lambda *given: fit_head(*given, steps=2))
    monkeypatch.setattr(gates, "SHEET", ("cat 3d", "fox flat"))  # words that both vocabularies have
    for module in (train_cpu, train_turbo):
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)  # of the process
    for name in ("BATCH", "IN_A_FILE"):
        monkeypatch.setattr(train_turbo, name, 4)
    monkeypatch.chdir(RECIPE.parents[1])
    build, scripts = tmp_path / "build", set()
    build.mkdir()
    write_images(build, n=12, per_concept=2, heldout=4)
    for script, *words in readme_commands():
        # The vocabulary of the package's model is another one.
        words = [str(build / "distilled") if word == "src/noisetilt/models/emoji128" else word for word in words]
        words = [word.replace("build/emoji128", str(build)) for word in words]
        if script == "cp":
            shutil.copy(*words)
        elif script != "data":
            scripts.add(script)
            monkeypatch.setattr(sys, "argv", [script, *words, *SMALL.get(script, "").split()])
            import_module(script).main()
    assert scripts == {*{file.stem for file in RECIPE.glob("*.py") if "argparse" in file.read_text("utf-8")} - {"data"}}

    for folder, network, guidance in (("undistilled", "run/flow", False), ("distilled", "gpu/guided", True)):
        pipe = FluxPipeline.from_pretrained(build / folder)
        assert pipe.transformer.config.guidance_embeds is guidance
        trained = load_file(build / f"{network}.safetensors")["x_embedder.weight"]
        assert torch.equal(pipe.transformer.state_dict()["x_embedder.weight"], trained.float())
    for folder, network in (("few-steps", "gpu"), ("turbo-transformer", "turbo")):
        packed = load_file(build / folder / "transformer" / "diffusion_pytorch_model.safetensors")
        trained = load_file(build / network / "turbo.safetensors")
        assert torch.equal(packed["x_embedder.weight"], trained["x_embedder.weight"])
    networks = [load_file(build / "gpu" / f"{name}.safetensors") for name in ("flow", "guided", "turbo")]
    assert len({tuple(network["proj_out.weight"].flatten()[:50].tolist()) for network in networks}) == 3
    assert set(json.loads((build / "gpu" / "figures.json").read_text())) == {"flow", "guidance", "turbo"}
    load_style_network("target", folder=build / "exported" / "style")
    assert {file.name for file in (build / "exported").iterdir()} == {"concepts", "style", "imagenet"}
