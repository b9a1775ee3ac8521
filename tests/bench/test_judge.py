"""The judge: its outputs, its accuracy on emoji that it was not trained on, and that nothing can optimise it."""

import ast
import json
from pathlib import Path

import pytest
import torch

import noisetilt
from noisetilt import rewards
from noisetilt.bench import judge
from noisetilt.bench.metrics import precision_recall
from noisetilt.rewards.scorers import concepts, style
from noisetilt.rewards.scorers.concepts import concept_row

PACKAGE = Path(noisetilt.__file__).parent


@pytest.fixture(scope="module")
def images():
    """One image per name, made by the model in few steps."""
    model = noisetilt.load("emoji128")
    return noisetilt.sample(model, ["cat face 3d", "pizza noto", "rose flat"], None, "base", 6, eta=0.0).images


def test_the_judge_names_concepts_and_styles(images):
    found = judge.evaluate(images)
    assert found.concepts.shape == (3, 1406) and found.features.shape == (3, judge.FEATURES)
    right = [[concept_row(name)] for name in ("cat face", "pizza", "rose")]
    assert judge.names_concept(found.concepts, right).sum() >= 2
    assert not judge.names_concept(found.concepts, right[1:] + right[:1]).any()
    assert (found.styles.argmax(1) == torch.tensor([0, 1, 3])).sum() >= 2
    torch.testing.assert_close(judge.evaluate(images, batch=1), found, rtol=1e-3, atol=1e-3)


def test_one_of_several_concepts_is_right():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert judge.names_concept(logits, [[2, 0]], top=1).tolist() == [True]
    assert judge.names_concept(logits, [[2]], top=2).tolist() == [False]


def test_the_judge_computes_in_float32_under_autocast(images):
    with torch.autocast("cpu", torch.bfloat16):
        found = judge.evaluate(images[:1])
    assert all(torch.equal(*pair) for pair in zip(found, judge.evaluate(images[:1]), strict=True))


def test_images_of_any_size_are_resized_and_wrong_shapes_refused(images):
    small = torch.nn.functional.interpolate(images, size=96, mode="bilinear", antialias=True)
    assert judge.features(small).shape == (3, judge.FEATURES)
    with pytest.raises(ValueError, match=r"the images have the shape .* expected"):
        judge.evaluate(torch.zeros(3, 64, 64))


def test_images_in_pieces_are_not_named_and_their_features_are_far_from_real_ones(images):
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    pieces = images.unfold(2, 32, 32).unfold(3, 32, 32).flatten(2, 3)[:, :, order]
    mixed = pieces.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    right = [[concept_row(name)] for name in ("cat face", "pizza", "rose")]
    assert judge.names_concept(judge.evaluate(mixed).concepts, right).sum() <= 1
    measured = json.loads((judge.WEIGHTS / "measured.json").read_text("utf-8"))
    assert measured["parts in another order"]["frechet"] > 2 * measured["clean"]["frechet"]
    real = judge.real_features()
    assert precision_recall(real, real[:200])[0] == 1.0


def test_the_card_has_the_measured_accuracy():
    measured = json.loads((judge.WEIGHTS / "measured.json").read_text("utf-8"))
    card = (judge.WEIGHTS / "CARD.md").read_text("utf-8")
    assert measured["clean"]["concept_top5"] > 0.85
    for name, row in measured.items():
        line = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert f"{100 * row['concept_top5']:.0f} %" in line and f"{100 * row['style']:.0f} %" in line


def imports_judge(source: str) -> bool:
    """Whether a module imports the judge: the module itself, a name of it, or it as a name of its package."""
    found = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [f"{getattr(n, 'module', None) or ''}.{alias.name}" for n in found for alias in n.names]
    return any("judge" in name.split(".") for name in names)


@pytest.mark.parametrize(
    "line",
    ["from ..bench import judge", "from noisetilt.bench.judge import evaluate", "import noisetilt.bench.judge as j"],
)
def test_imports_of_the_judge_are_seen(line):
    assert imports_judge(line) and not imports_judge(line.replace("judge", "ledger"))


def test_no_reward_loads_the_judge():
    """The scorers refuse its name, no module outside of the benchmark imports it, and its weights are there alone."""
    for load in (concepts.load_concept_network, style.load_style_network):
        with pytest.raises(ValueError, match="'judge'"):
            load("judge")
    for name in ("judge", "style:judge", "judge.safetensors"):
        with pytest.raises((ValueError, FileNotFoundError)):
            rewards.load(name)
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name != "bench":
            assert not imports_judge(file.read_text("utf-8")), file
    weights = {file.parent for file in PACKAGE.rglob("*judge*.safetensors")}
    assert weights == {judge.WEIGHTS}
    digests = {json.loads(f.read_text("utf-8")).get("target.safetensors") for f in PACKAGE.rglob("checksums.json")}
    assert not digests & set(json.loads((judge.WEIGHTS / "checksums.json").read_text("utf-8")).values())


def test_the_probability_of_the_right_concepts_is_their_sum():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    first, both = judge.concept_probability(logits, [[0], [1, 2]]).tolist()
    assert first == pytest.approx(logits[0].softmax(0)[0].item()) and both == pytest.approx(2 / 3)
    assert judge.concept_probability(logits, [[0, 1, 2]] * 2).tolist() == pytest.approx([1, 1])
