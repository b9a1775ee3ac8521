"""The pipeline's own arguments and set-ups, aligned: base at η = 0 equals the plain pipeline, and guidance works."""

import importlib.util
import warnings
from types import SimpleNamespace

import diffusers
import diffusers.callbacks
import pytest
import torch
from tiny_pipelines import SIZE, build, cascade, check_same, kandinsky, sd
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Generator
from transformers import PreTrainedTokenizerFast

from noisetilt import METHODS, align, load, optimize, rewards, sample
from noisetilt.integrations.diffusers.pipeline_call import PipelineCall
from noisetilt.integrations.diffusers.support import takes_prompts
from noisetilt.rewards import Reward

RED = rewards.load("redness")
PROMPT = "a red fox"


def field(output):
    return next(iter(output.values()))


def check_plain(pipe, record, within=1e-5, **call):
    """The plain pipeline's output, which base at η = 0 must equal."""
    call = {"prompt": PROMPT, **call}
    plain = field(pipe(generator=Generator().manual_seed(1), **call))
    found = field(align(pipe, None, "base", eta=0.0)(generator=Generator().manual_seed(1), **call))
    check_same(found, plain, record, within)
    return plain


EMBEDS = dict(prompt=None, prompt_embeds=torch.randn(2, 8, 16), negative_prompt_embeds=torch.randn(2, 8, 16))


@pytest.mark.parametrize(
    "family, call",
    [
        ("sd", dict(guidance_scale=0.0)),
        ("sd", dict(guidance_scale=1.0)),
        ("sd", dict(negative_prompt="blue cat", guidance_rescale=0.7)),
        ("sd", EMBEDS),
        ("sd", dict(num_images_per_prompt=2, prompt=[PROMPT, "blue cat"])),
        ("sd", dict(height=SIZE, width=2 * SIZE)),
        ("sdxl", dict(prompt_2="blue cat", negative_prompt="snow", negative_prompt_2="green hill")),
        ("sdxl", dict(guidance_scale=0.0)),
        ("sd3", dict(prompt_2="blue cat", prompt_3="green hill", guidance_scale=1.0)),
        ("flux", dict(prompt_2="blue cat")),
        ("flux", dict(negative_prompt="blue cat", true_cfg_scale=3.0)),
        ("flux", dict(guidance_scale=0.0)),
        ("flux", dict(sigmas=[1.0, 0.7, 0.2])),
        ("sd3", dict(sigmas=[1.0, 0.7, 0.2])),
        ("qwen", dict(sigmas=[1.0, 0.5], negative_prompt="snow", true_cfg_scale=2.0)),
    ],
)
def test_arguments(family, call, record_property):
    pipe, arguments = build(family)
    plain = check_plain(pipe, record_property, **{**arguments, **call})
    guided = align(pipe, RED, "ntrk")(**{"prompt": PROMPT, **arguments, **call}, seeds=list(range(len(plain))))
    assert guided.rewards.shape == (len(plain),) and (guided.trace.gradient_norm[1:-1] > 0).all()


@pytest.mark.parametrize("argument", ["timesteps", "sigmas"])
def test_timesteps_and_sigmas_of_the_call(argument, record_property):
    pipe, arguments = build("sd")
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    del arguments["num_inference_steps"]
    given = {"timesteps": [900, 500, 100], "sigmas": [9.0, 2.0, 0.3]}
    check_plain(pipe, record_property, 2e-5, **arguments, **{argument: given[argument]})
    with pytest.raises(ValueError, match="noise level rises"):
        align(pipe, RED, "ntrk")(PROMPT, **arguments, **{argument: given[argument][::-1]})


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_latent_output(family, record_property):
    """Its rewards are those of the images that the pipeline would have decoded."""
    pipe, arguments = build(family)
    check_plain(pipe, record_property, **{**arguments, "output_type": "latent"})
    latents, images = (
        align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **{**arguments, "output_type": kind}) for kind in ("latent", "pt")
    )
    assert torch.equal(latents.rewards, images.rewards) and latents.images.shape != images.images.shape


def with_scheduler(family):
    """A tiny pipeline; for "euler" one whose latents are x_0 + σ ε."""
    pipe, arguments = build("sd" if family == "euler" else family)
    if family == "euler":
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe, arguments


@pytest.mark.parametrize("family", ["sd", "flux", "euler"])
def test_a_callback_that_changes_latents(family, record_property):
    """The next step starts from them, and its gradient is taken at them."""
    pipe, arguments = with_scheduler(family)

    def change(pipe, number, timestep, values):
        return {"latents": values["latents"] * 0.9 + 0.01}

    plain = check_plain(pipe, record_property, callback_on_step_end=change, **arguments)
    assert (check_plain(pipe, record_property, **arguments) - plain).abs().max() > 1e-3
    guided = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], callback_on_step_end=change, **arguments)
    assert (guided.trace.gradient_norm[1:-1] > 0).all()


def look(pipe, number, timestep, values):
    values["latents"].numpy()
    assert not torch.is_grad_enabled()
    return values


def change_in_place(pipe, number, timestep, values):
    values["latents"][:] *= 0.9
    return values


def replace(pipe, number, timestep, values):
    return {"latents": torch.as_tensor(values["latents"].numpy() * 0.9)}


@pytest.mark.parametrize("family", ["sd", "flux", "euler"])
@pytest.mark.parametrize("callback", [look, change_in_place, replace])
def test_a_callback_of_the_plain_pipeline(family, callback, record_property):
    """Its tensors have no gradients, and those that it does not replace keep theirs."""
    pipe, arguments = with_scheduler(family)
    check_plain(pipe, record_property, callback_on_step_end=callback, **arguments)
    call = dict(prompt=PROMPT, seeds=[0], **arguments)
    found = align(pipe, RED, "ntrk")(callback_on_step_end=callback, **call)
    # The first and the last step of a flow need no gradient.
    assert (found.trace.gradient_norm[1:-1] > 0).all()
    scale = 1.0 if callback is look else 0.9
    scaled = lambda pipe, number, t, values: {"latents": values["latents"] * scale}  # noqa: E731
    expected = align(pipe, RED, "ntrk")(callback_on_step_end=scaled, **call)
    assert torch.allclose(found.images, expected.images, atol=1e-4)
    if callback is look:
        assert torch.equal(found.images, align(pipe, RED, "ntrk")(**call).images)


def test_a_legacy_callback_and_one_of_diffusers(record_property):
    pipe, arguments = build("sd")
    seen = []
    legacy = lambda number, t, latents: seen.append(latents.numpy())  # noqa: E731
    expected = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    found = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], callback=legacy, callback_steps=1, **arguments)
    assert len(seen) == 4 and torch.equal(found.images, expected.images)
    cutoff = diffusers.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    check_plain(pipe, record_property, callback_on_step_end=cutoff, **arguments)
    guided = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], callback_on_step_end=cutoff, **arguments)
    assert not torch.equal(guided.images, expected.images) and (guided.trace.gradient_norm > 0).all()


def test_sigmas_split_over_two_calls(record_property):
    """The second call starts from the latents of the first, at the noise level where that ended."""
    pipe, arguments = build("sd3")
    del arguments["num_inference_steps"]
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    latents, plain = torch.randn(1, 4, SIZE // 2, SIZE // 2), align(pipe, None, "base", eta=0.0)

    def split(pipe):
        first = {**arguments, "output_type": "latent", "sigmas": [1.0, 0.6, 0.3]}
        half = []
        keep = lambda _, number, t, values: half.append(values["latents"]) or {}  # noqa: E731
        pipe(PROMPT, latents=latents, callback_on_step_end=keep, **first)
        return pipe(PROMPT, latents=half[1], sigmas=[0.3], **arguments).images

    check_same(split(plain), split(pipe), record_property)
    check_same(split(plain), pipe(PROMPT, latents=latents, sigmas=[1.0, 0.6, 0.3], **arguments).images, record_property)


@pytest.mark.long
def test_a_compiled_network():
    """Dynamo traces the network, and AOTAutograd its backward pass."""
    pipe, arguments = build("flux")
    arguments["num_inference_steps"] = 2
    expected = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")
    found = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    assert torch.allclose(found.images, expected.images, atol=1e-4)
    assert torch.allclose(found.trace.gradient_norm, expected.trace.gradient_norm, rtol=1e-3)


def test_a_pipeline_that_checkpoints_already():
    pipe, arguments = build("flux")
    expected = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    pipe.transformer.enable_gradient_checkpointing()
    found = align(pipe, RED, "ntrk", checkpointing=True)(PROMPT, seeds=[0], **arguments)
    assert torch.allclose(found.images, expected.images, atol=1e-4) and pipe.transformer.is_gradient_checkpointing


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_weights_quantised_by_torchao():
    """The gradient passes through int8 weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    pipe, arguments = build("flux")
    exact = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    quantize_(pipe.transformer, Int8WeightOnlyConfig())
    guided = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    assert torch.allclose(guided.trace.gradient_norm[1:], exact.trace.gradient_norm[1:], rtol=0.2)
    assert guided.rewards > align(pipe, RED, "base")(PROMPT, seeds=[0], **arguments).rewards


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available(), reason="needs bitsandbytes, CUDA"
)
def test_weights_quantised_by_bitsandbytes():
    import bitsandbytes

    pipe, arguments = build("flux")
    for module in list(pipe.transformer.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                new = bitsandbytes.nn.Linear8bitLt(
                    child.in_features, child.out_features, child.bias is not None, has_fp16_weights=False
                )
                new.load_state_dict(child.state_dict())
                setattr(module, name, new)
    pipe.to("cuda", torch.float16)
    guided = align(pipe, RED, "ntrk")(PROMPT, seeds=[0], **arguments)
    assert guided.images.isfinite().all() and (guided.trace.gradient_norm[1:-1] > 0).all()


@pytest.mark.parametrize("loaded", ["outside", "inside"])
@pytest.mark.parametrize("given", ["prompt", "latents", "prompt_embeds"])
def test_inference_mode(loaded, given):
    """Of the call, and of the code that loads the pipeline; it is left as it was."""
    pipe, arguments = build("sd")
    expected = align(pipe, RED, "ntrk")
    with torch.inference_mode(loaded == "inside"):
        pipe, _ = build("sd")
    own = dict(pipe.unet.named_parameters())
    with torch.inference_mode():
        more = {
            "prompt": dict(prompt=PROMPT),
            "latents": dict(prompt=PROMPT, latents=torch.ones(1, 4, SIZE // 2, SIZE // 2)),
            "prompt_embeds": dict(prompt_embeds=torch.ones(1, 8, 16), negative_prompt_embeds=torch.zeros(1, 8, 16)),
        }[given]
        found = align(pipe, RED, "ntrk")(seeds=[0], **more, **arguments)
        assert torch.is_inference_mode_enabled()
    more = {name: value.clone() if torch.is_tensor(value) else value for name, value in more.items()}
    wanted = expected(seeds=[0], **more, **arguments)
    assert torch.allclose(found.images, wanted.images, atol=1e-5) and (found.trace.gradient_norm[:-1] > 0).all()
    for name, parameter in pipe.unet.named_parameters():
        assert parameter is own[name] and parameter.requires_grad


def test_inference_mode_of_sample_and_optimize():
    call = dict(prompts=["cat face"], seeds=[0])
    style = rewards.load("style:3d")
    runs = [
        lambda: sample(load("emoji128"), reward=style, method="ntrk", steps=3, **call),
        lambda: optimize(load("emoji128-turbo"), reward=rewards.load("style:3d"), method="gper", iterations=1, **call),
    ]
    for run in runs:
        outside = run()
        with torch.inference_mode():
            inside = run()
        assert torch.equal(inside.rewards, outside.rewards)


def interrupting(pipe, number, timestep, values):
    """A callback that ends the call after its second step, as the documents of diffusers have it."""
    pipe._interrupt = number == 1
    return values


@pytest.mark.parametrize("family, method", [("sd", "base"), ("euler", "base"), ("sd", "ntrk"), ("sd", "svdd")])
def test_an_interrupted_call_gives_the_images_of_the_state_so_far(family, method, record_property):
    pipe, arguments = with_scheduler(family)
    call = dict(arguments, num_inference_steps=4, callback_on_step_end=interrupting, output_type="np")
    aligned = align(pipe, RED, method, eta=0.0 if method == "base" else 1.0)
    output = aligned(PROMPT, generator=Generator().manual_seed(1), **call)
    assert output.images.shape == (1, SIZE, SIZE, 3) and len(output.trace.rewards) == 2
    assert torch.equal(output.rewards, output.trace.rewards[-1]) and output.heldout is None  # of the last prediction
    assert output.trace.nfe == 2 * METHODS[method].selection.particles and output.trace.seconds > 0
    if method == "base":
        plain = pipe(PROMPT, generator=Generator().manual_seed(1), **call).images
        check_same(torch.as_tensor(output.images), torch.as_tensor(plain), record_property)
    assert len(aligned(PROMPT, seeds=[0], **arguments).rewards) == 1  # the next call is not interrupted


def test_an_interrupted_call_gives_the_particle_that_its_reward_is_of():
    pipe, arguments = build("sd")
    values, latents = [], []

    def noted(images, prompts):
        values.append(RED(images, prompts))
        return values[-1]

    def interrupt(pipe, number, timestep, given):
        latents.append(given["latents"].clone())
        return interrupting(pipe, number, timestep, given)

    call = dict(arguments, num_inference_steps=4, seeds=[2], callback_on_step_end=interrupt)
    found = align(pipe, noted, METHODS["best-of-n"].replace(particles=8), chunk=8)(PROMPT, **call)
    best = int(values[-1].argmax())
    assert best > 0 and found.rewards == values[-1].max()
    with torch.no_grad():
        expected = pipe.vae.decode(latents[-1][best : best + 1] / pipe.vae.config.scaling_factor).sample
    assert torch.allclose(found.images, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_the_callback_of_an_euler_scheduler_gets_its_latents():
    pipe, arguments = with_scheduler("euler")
    seen = []
    note = lambda pipe, number, timestep, values: seen.append(values["latents"].clone()) or values  # noqa: E731
    for own in (pipe, align(pipe, None, "base", eta=0.0)):
        own(PROMPT, generator=Generator().manual_seed(1), callback_on_step_end=note, **arguments)
    plain, aligned = (torch.stack(part) for part in (seen[: len(seen) // 2], seen[len(seen) // 2 :]))
    assert torch.allclose(plain, aligned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "pipe, reward, message",
    [
        (lambda: "some/model", RED, "pipe is 'some/model', expected a diffusers pipeline"),
        (lambda: diffusers.FluxPipeline, RED, "use FluxPipeline.from_pretrained"),
        (lambda: align(build("sd")[0], RED), RED, "aligned already; pass its attribute pipe"),
        (lambda: build("sd")[0], "redness", "the reward is 'redness', expected a function"),
        (lambda: None, RED, "pipe is None, expected a diffusers pipeline"),
        (lambda: 3, RED, "pipe is 3, expected a diffusers pipeline"),
        (
            lambda: SimpleNamespace(pipe=None),
            RED,
            "pipe is a SimpleNamespace, .*; pass its attribute pipe",
        ),
    ],
)
def test_wrong_objects_are_refused_at_once(pipe, reward, message):
    with pytest.raises(ValueError, match=message):
        align(pipe(), reward)


@pytest.mark.parametrize(
    "prompt, call, message",
    [
        (PROMPT, dict(seeds=0), "seeds = 0 must have one seed per prompt"),
        ([], {}, "prompts is empty"),
        (PROMPT, dict(seeds=[1], generator=Generator()), "seeds and generator both set the noise"),
        (PROMPT, dict(generator=0), "generator = 0 must be a torch.Generator, such as"),
        ([PROMPT] * 2, dict(generator=[Generator(), 1]), "generator = 1 must be a torch.Generator"),
        (5, {}, "prompt = 5 must be a text or a list of texts"),
        ([5], {}, "the prompt 5 is no text"),
        (PROMPT, dict(reward_prompts=5), "prompts = 5 must be a text or a list"),
        (PROMPT, dict(num_inference_steps=2.5), "num_inference_steps = 2.5 must be a whole number, 1 or more"),
    ],
)
def test_wrong_arguments_of_a_call(prompt, call, message):
    pipe, arguments = build("sd")
    with pytest.raises(ValueError, match=message):
        align(pipe, RED)(prompt, **{**arguments, **call})


def test_a_whole_number_of_steps_may_be_a_float():
    pipe, arguments = build("sd")
    calls = [{**arguments, "num_inference_steps": steps} for steps in (2, 2.0)]
    assert torch.equal(*(align(pipe, RED)(PROMPT, seeds=[0], **call).rewards for call in calls))


def test_the_text_of_an_aligned_pipeline():
    pipe, _ = build("sd")
    aligned = align(pipe, RED, "ntrk", eta=0.5)
    assert repr(aligned) == "align(StableDiffusionPipeline, reward='redness', method='ntrk', eta=0.5)"
    assert "proposal=NoiseTilt(rho=0.3," in repr(align(pipe, RED, METHODS["ntrk"].replace(rho=0.3)))
    assert "reward=None, method='base'" in repr(align(pipe, None, "base"))


def piecewise_tokenizer():
    """A tokenizer that splits words, as T5's does."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁red", -1.0), ("▁fox", -1.0), ("▁", -2.0)]
    table = Tokenizer(models.Unigram(pieces, unk_id=2))
    table.pre_tokenizer = pre_tokenizers.Metaspace()
    special = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=table, model_max_length=8, **special)


@pytest.mark.parametrize("of_words", [True, False])
def test_words_that_the_model_does_not_know_have_a_warning(of_words):
    pipe, arguments = build("sd")
    if not of_words:
        pipe.tokenizer = piecewise_tokenizer()
    aligned = align(pipe, RED)
    with pytest.warns(UserWarning, match=r"the model does not know .*'猫' of the prompt 'a red 猫'"):
        aligned(["a red fox", "a red 猫"], seeds=[0, 1], **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        aligned("a red fox", seeds=[0], **arguments)
        if not of_words:
            aligned("a red~ fox", seeds=[0], **arguments)


@pytest.mark.parametrize("kind", [diffusers.DDIMScheduler, diffusers.LCMScheduler])
def test_a_scheduler_that_the_pipeline_does_not_support_is_named(kind):
    pipe, arguments = build("flux")
    pipe.scheduler = kind()
    name = kind.__name__
    with pytest.raises(ValueError, match=f"^FluxPipeline does not run with the scheduler {name}: .* class {name}'s"):
        align(pipe, RED)(PROMPT, **arguments)


@pytest.mark.parametrize(
    "family, kind, reason",
    [
        ("sd", diffusers.FlowMatchEulerDiscreteScheduler, "no attribute 'init_noise_sigma'"),
        ("flux", diffusers.EulerDiscreteScheduler, "unexpected keyword argument 'mu'"),
        ("wan", diffusers.DDIMScheduler, "no attribute 'set_begin_index'"),
    ],
)
def test_a_scheduler_of_another_family_is_named_whatever_the_pipeline_misses(family, kind, reason):
    pipe, arguments = build(family)
    pipe.scheduler = kind()
    with pytest.raises(
        ValueError, match=f"does not run with the scheduler {kind.__name__}: .*{reason}.*; set pipe.sch"
    ):
        align(pipe, RED)(PROMPT, **arguments)


@pytest.mark.parametrize("kind", [diffusers.DDIMInverseScheduler, diffusers.DPMSolverMultistepInverseScheduler])
def test_a_scheduler_of_inversions_names_that_of_sampling(kind):
    pipe, _ = build("sd")
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    sampling = kind.__name__.replace("Inverse", "")
    assert hasattr(diffusers, sampling)
    with pytest.raises(ValueError, match=f"^{kind.__name__} steps from an image to noise.* to a {sampling}$"):
        align(pipe, RED)


def test_the_method_can_be_replaced_by_its_name():
    pipe, arguments = build("sd")
    aligned = align(pipe, RED, "ntrk")
    aligned.method = "dps"
    expected = align(pipe, RED, "dps")(PROMPT, seeds=[0], **arguments)
    assert torch.equal(aligned(PROMPT, seeds=[0], **arguments).images, expected.images)
    with pytest.raises(ValueError, match=r"method 'dpss' is unknown .*did you mean 'dps'"):
        aligned.method = "dpss"


def test_the_attributes_of_the_pipeline_are_listed():
    aligned = align(build("sd")[0], RED)
    assert {"enable_model_cpu_offload", "unet", "trace", "reward"} <= set(dir(aligned))


class Noted:
    """Redness, and a note of the prompts."""

    def __init__(self):
        self.prompts = []

    def __call__(self, images, prompts):
        self.prompts += prompts
        return RED(images, prompts)


@pytest.mark.parametrize("count", [1, 2])
def test_the_prompts_of_rewards_beside_embeddings(count):
    pipe, arguments = build("sd")
    reward, judge, texts = Noted(), Noted(), [PROMPT, "blue cat"]
    aligned = align(pipe, reward, "base", heldout=judge)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        output = aligned(**EMBEDS, reward_prompts=texts, num_images_per_prompt=count, **arguments)
    rows = [text for text in texts for _ in range(count)]
    assert reward.prompts == judge.prompts == rows * 5 and output.rewards.shape == (2 * count,)


def test_the_prompts_of_rewards_in_place_of_the_calls_own():
    pipe, arguments = build("sd")
    reward = Noted()
    align(pipe, reward, "base")(PROMPT, reward_prompts="blue cat", **arguments)
    assert set(reward.prompts) == {"blue cat"}
    with pytest.raises(ValueError, match="1 reward_prompts for 2 prompts; pass one per prompt"):
        align(pipe, reward, "base")([PROMPT, PROMPT], reward_prompts="blue cat", **arguments)


def test_prompts_without_a_score_are_refused_before_the_text_encoder(monkeypatch):
    pipe, arguments = build("sd")
    monkeypatch.setattr(type(pipe), "encode_prompt", lambda *_, **__: pytest.fail("the text was encoded"))
    for given in ({"reward": rewards.load("alignment")}, {"reward": None, "heldout": rewards.load("alignment")}):
        with pytest.raises(ValueError, match="does not know the word 'xylograph'"):
            align(pipe, method="base", **given)("xylograph", **arguments)


def test_empty_prompts_of_rewards_are_warned_of():
    pipe, arguments = build("sd")
    of_images = Reward("plain", lambda images: images.mean((1, 2, 3)))
    of_both = Reward("both", lambda images, prompts: images.mean((1, 2, 3)))
    with pytest.warns(UserWarning, match=r"the reward 'both' gets empty prompts; pass reward_prompts") as caught:
        align(pipe, of_both, "base")(**EMBEDS, **arguments)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="the reward 'both'"):
        align(pipe, None, "base", heldout=of_both)(**EMBEDS, **arguments)
    for reward in (
        RED,
        of_images,
        rewards.weighted_sum([(1.0, of_images)]),
        lambda images: images.mean((1, 2, 3)),
        None,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            align(pipe, reward, "base")(**EMBEDS, **arguments)


@pytest.mark.parametrize("form", ["batch", "list"])
@pytest.mark.parametrize("method", ["ntrk", "svdd"])
def test_a_batch_of_embeddings_of_images(method, form):
    torch.manual_seed(0)
    pipe = kandinsky()
    pipe.set_progress_bar_config(disable=True)
    image, negative = torch.randn(2, 2, 16)
    if form == "list":
        image, negative = (list(one.split(1)) for one in (image, negative))
    method = "ntrk" if method == "ntrk" else METHODS["svdd"].replace(particles=2)
    call = dict(height=SIZE, width=SIZE, num_inference_steps=2, output_type="pt", num_images_per_prompt=2)
    output = align(pipe, RED, method)(image, negative, seeds=[0, 1, 2, 3], **call)
    assert output.rewards.shape == (4,) and len(output.images) == 4
    call["num_images_per_prompt"] = 1
    alone = align(pipe, RED, method)(image[1:], negative[1:], seeds=[2], **call)
    assert torch.allclose(alone.images[0], output.images[2], atol=1e-4)


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, "blue cat"]])
def test_several_embeddings_of_images_per_prompt(prompt):
    torch.manual_seed(0)
    pipe, reward = cascade(), Noted()
    pipe.set_progress_bar_config(disable=True)
    call = dict(prompt=prompt, num_inference_steps=2, output_type="pt", guidance_scale=2.0)
    output = align(pipe, reward, "ntrk")(torch.randn(4, 16, 4, 4), seeds=[0, 1, 2, 3], **call)
    texts = [prompt] if isinstance(prompt, str) else prompt
    assert output.rewards.shape == (4,) and reward.prompts[:4] == [p for p in texts for _ in range(4 // len(texts))]


@pytest.mark.parametrize("form", ["batch", "list"])
def test_a_batch_of_images_without_prompts(form):
    """Of a class that takes the image in place of a prompt."""

    class OfImages(diffusers.StableDiffusionPipeline):
        @torch.no_grad()
        def __call__(self, image, num_inference_steps=2, generator=None, num_images_per_prompt=1):
            rows = num_images_per_prompt * len(image)
            self.scheduler.set_timesteps(num_inference_steps)
            latents = self.prepare_latents(rows, 4, SIZE, SIZE, torch.float32, "cpu", generator)
            condition = torch.zeros(rows, 8, 16)
            for t in self.scheduler.timesteps:
                output = self.unet(latents, t, condition, return_dict=False)[0]
                latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
            image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
            return (self.image_processor.postprocess(image, output_type="pt"),)

    pipe = OfImages(**sd().components, requires_safety_checker=False)
    images = torch.rand(2, 3, SIZE, SIZE)
    aligned = align(pipe, RED, "ntrk")
    output = aligned(images if form == "batch" else list(images), num_images_per_prompt=2, seeds=[0, 1, 2, 3])
    assert len(output[0]) == 4 and aligned.rewards.shape == (4,)


@pytest.mark.parametrize(
    "name, takes",
    [
        ("StableDiffusionPipeline", True),
        ("VisualClozeGenerationPipeline", True),  # task_prompt and content_prompt
        ("KandinskyV22Pipeline", False),
        ("StableVideoDiffusionPipeline", False),
    ],
)
def test_images_are_counted_in_classes_without_prompts_only(name, takes):
    assert takes_prompts(getattr(diffusers, name)) == takes


OF_BOTH = Reward("both", lambda images, prompts: images.mean((1, 2, 3)))


def prompts_of(name, **call):
    """The prompts of rewards in a call of a class, which needs no weights."""
    made = object.__new__(PipelineCall)
    made.pipe, made.call = object.__new__(getattr(diffusers, name)), call
    made.aligned = SimpleNamespace(reward=OF_BOTH, heldout_reward=None)
    return made._prompts(None)


@pytest.mark.parametrize(
    "name, given, first",
    [
        ("Kandinsky5T2VPipeline", {"prompt_embeds_qwen": (2, 8, 4), "prompt_embeds_clip": (2, 4)}, "prompt_embeds_"),
        (
            "HiDreamImagePipeline",
            {"prompt_embeds_llama3": (5, 2, 8, 4), "prompt_embeds_t5": (2, 8, 4), "pooled_prompt_embeds": (2, 4)},
            "pooled_prompt_embeds",
        ),
        (
            "HiDreamImagePipeline",
            {"prompt_embeds_llama3": (5, 2, 8, 4), "prompt_embeds_t5": (2, 8, 4)},
            "prompt_embeds_t5",
        ),
        ("FluxPipeline", {"prompt_embeds": (2, 8, 4), "pooled_prompt_embeds": (2, 4)}, "pooled_prompt_embeds"),
    ],
)
def test_embeddings_of_any_name_are_counted_and_have_no_text(name, given, first):
    with pytest.warns(
        UserWarning, match=f"{first}.* no text for rewards, so that the reward 'both' gets empty prompts"
    ):
        assert prompts_of(name, prompt=None, **{key: torch.zeros(shape) for key, shape in given.items()}) == ["", ""]


def test_the_prompts_of_visual_cloze_are_those_of_the_content():
    name = "VisualClozeGenerationPipeline"
    assert prompts_of(name, task_prompt="from depth", content_prompt="a red fox") == ["a red fox"]
    assert prompts_of(name, task_prompt=["a", "b"], content_prompt=["a red fox", None]) == ["a red fox", ""]
    with pytest.warns(UserWarning, match="task_prompt has no text for rewards"):
        assert prompts_of(name, task_prompt=["a"], content_prompt=None) == [""]


@pytest.mark.parametrize("family", ["sd", "flux"])
@pytest.mark.parametrize(
    "name, advice",
    [("seed", r"give seeds=\[0\], one number per image"), ("guidence_scale", "did you mean 'guidance_scale'")],
)
def test_an_argument_that_the_pipeline_does_not_have_is_refused(family, name, advice):
    """Also by pipelines such as Stable Diffusion's, whose call has **kwargs and ignores what it does not know."""
    pipe, arguments = build(family)
    with pytest.raises(TypeError, match=rf"{type(pipe).__name__} has no argument '{name}'.*{advice}"):
        align(pipe, RED, "ntrk")(PROMPT, **{name: 1}, **arguments)


def test_an_argument_that_is_given_twice_is_named():
    pipe, arguments = build("flux")
    with pytest.raises(TypeError, match=r"FluxPipeline cannot be called so: multiple values for argument 'prompt'"):
        align(pipe, RED, "ntrk")(PROMPT, prompt=PROMPT, **arguments)
