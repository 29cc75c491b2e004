"""Whole folders through `d2g teacher`: Stable Diffusion, XL and refiner miniatures, every solver.

The reference encodes prompts with the real pipeline, makes the scheduler from the folder's file
(the class of `kind`, whatever the file names) and runs the loop of the pipelines. A case with
`whole` calls the pipeline itself instead.
"""
import json
import pathlib
import sys
import warnings

import torch
import transformers
from diffusers import (AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline,
                       StableDiffusionXLPipeline, UNet2DConditionModel)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer,
                          CLIPTokenizerFast)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "goldens"))
import parity
import random_weights
import solver_goldens
import tokenizer_goldens

logging.set_verbosity_error()
transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)

LENGTH = 16
VOCABULARY, MERGES = tokenizer_goldens.build(150)
UNET = dict(
    block_out_channels=(16, 32), layers_per_block=1, attention_head_dim=4, norm_num_groups=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
WORDS = ["a", "photo", "of", "dark", "red", "bag", "boots!", "two", "caf\u00e9", "!", "it's", "42"]


def case(kind, file, **more):
    """`negative` None means that no negative prompt is given; `noises` of `size` share one prompt
    unless there are as many prompts. `unet_version` is what unet/config.json says of its age; then
    nothing but the size of the latents that are drawn without --noise is compared."""
    defaults = dict(kind=kind, file=file, pipeline="sd", steps=4, guidance=3.0, rescale=0.0,
                    negative=None, prompts=["a photo of a bag"], noises=1, size=[8, 8],
                    channels=4, sample_size=8, vae_levels=2, fast=False, pad_bang=False,
                    force_zeros=True, aesthetics=True, time_cond=None, encoders_project=False,
                    whole=False, seed=1, unet_version=None)
    return dict(defaults, **more)


SD_FILE = dict(solver_goldens.SD_BETAS, _class_name="PNDMScheduler", steps_offset=1,
               clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
XL_FILE = dict(SD_FILE, _class_name="EulerDiscreteScheduler", timestep_spacing="leading",
               interpolation_type="linear", sample_max_value=1.0, use_karras_sigmas=False)
SD21_FILE = dict(SD_FILE, _class_name="DDIMScheduler", prediction_type="v_prediction")
ZERO_SNR = dict(SD21_FILE, rescale_betas_zero_snr=True, timestep_spacing="trailing")
XL = dict(pipeline="xl", vae_levels=4)
NAMED = [(f"{name}_{kind}", case(kind, file, **more)) for kind in solver_goldens.CLASSES
         for name, file, more in [
             ("sd15", SD_FILE, dict(guidance=7.5, steps=8)),
             ("zero_snr", ZERO_SNR, dict(rescale=0.7, guidance=6.0, negative="dark!", steps=6)),
             ("xl_pipeline", XL_FILE, dict(XL, whole=True, rescale=0.5, negative="")),
         ]] + [
    ("sd15_pipeline", case("heun", SD_FILE, whole=True, noises=2, prompts=["a bag", ""])),
    ("sd21_50", case("dpmpp_2m", SD21_FILE, steps=50, pad_bang=True, fast=True)),
    ("xl_zeros", case("euler", XL_FILE, **XL, guidance=5.0, noises=3)),
    ("xl_encoded_empty", case("ddim", XL_FILE, **XL, force_zeros=False, size=[6, 10])),
    ("refiner", case("euler", XL_FILE, pipeline="refiner", guidance=4.0, negative="two bags")),
    ("lcm", case("ddim", SD_FILE, time_cond=12, guidance=8.0)),
    ("lcm_xl_pipeline", case("euler", XL_FILE, **XL, time_cond=12, whole=True)),
    ("unguided", case("heun", SD_FILE, guidance=1.0)),
    ("one_step", case("ddim", SD_FILE, steps=1, guidance=0.0)),
    ("old_small", case("ddim", SD_FILE, steps=1, guidance=0.0, unet_version="0.7.0.dev0")),
    ("old_list", case("ddim", SD_FILE, steps=1, guidance=0.0, unet_version="0.7.0.dev0",
                      sample_size=[8, 12])),
    ("old_large", case("ddim", SD_FILE, steps=1, guidance=0.0, unet_version="0.8.1",
                       sample_size=68)),
    ("no_longer_old", case("ddim", SD_FILE, steps=1, guidance=0.0, unet_version="0.9.0.dev0")),
]


def cases(random):
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    n = 0
    while True:
        kind = random.choice(list(solver_goldens.CLASSES))
        file = solver_goldens.draw_file(random, kind)
        steps = random.choice([1, 2, 3, 4, 5, 8, 14, 15, 20, 50])
        scheduler = solver_goldens.make(kind, file, steps)
        if scheduler is None or not solver_goldens.run(scheduler, noise).isfinite().all():
            continue
        noises = random.choice([1, 1, 2, 3])
        prompts = [" ".join(random.choices(WORDS, k=random.randint(0, 25)))
                   for _ in range(random.choice([1, noises]))]
        n += 1
        yield f"{kind}_{n}", case(
            kind, file, pipeline=random.choice(["sd", "sd", "xl", "xl", "refiner"]), steps=steps,
            guidance=random.choice([0.0, 1.0, 1.5, 3.0, 7.5, 12.0]),
            rescale=random.choice([0.0, 0.0, 0.3, 0.7, 1.0]),
            negative=random.choice([None, None, "", "dark boots!", "bag " * 20]), prompts=prompts,
            noises=noises, size=[random.randint(2, 12), random.randint(2, 12)],
            channels=random.choice([4, 4, 3, 16]), vae_levels=random.randint(1, 4),
            fast=random.random() < 0.3, pad_bang=random.random() < 0.3,
            force_zeros=random.random() < 0.7, aesthetics=random.random() < 0.7,
            time_cond=random.choice([None] * 6 + [8, 13]),
            encoders_project=random.random() < 0.2, seed=random.randrange(1000))


def tokenizer(config, folder):
    tokenizer_goldens.files(folder, VOCABULARY, MERGES)
    kind = CLIPTokenizerFast if config["fast"] else CLIPTokenizer
    pad = {"pad_token": "!"} if config["pad_bang"] else {}
    return kind(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH,
                **pad)


def text_encoder(config, width, projection, seed):
    options = CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH,
        projection_dim=projection or 24, hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=VOCABULARY["<|startoftext|>"], eos_token_id=VOCABULARY["<|endoftext|>"])
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return random_weights.fill(kind(options), seed)


def quiet(unet, seed):
    """A random network that does not move its sample so far that runs become chaotic."""
    random_weights.fill(unet, seed)
    unet.conv_out.weight.mul_(0.3)
    return unet


def pipeline(config, scheduler, folder):
    seed, kind = config["seed"], config["pipeline"]
    levels = config["vae_levels"]
    vae = random_weights.fill(AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, sample_size=16,
        up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=(8,) * levels,
        latent_channels=config["channels"], norm_num_groups=4), seed)
    options = dict(UNET, sample_size=config["sample_size"], in_channels=config["channels"],
                   out_channels=config["channels"], time_cond_proj_dim=config["time_cond"])
    parts = dict(vae=vae, scheduler=scheduler, tokenizer=tokenizer(config, folder / "words"))
    if kind == "sd":
        unet = UNet2DConditionModel(cross_attention_dim=32, **options)
        return StableDiffusionPipeline(
            unet=quiet(unet, seed), text_encoder=text_encoder(config, 32, None, seed),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    first = None if kind == "refiner" else text_encoder(
        config, 32, 20 if config["encoders_project"] else None, seed)
    second = text_encoder(config, 40, 20, seed + 1)
    aesthetics = kind == "refiner" and config["aesthetics"]
    unet = quiet(UNet2DConditionModel(
        cross_attention_dim=40 if first is None else 72, addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 8 * (5 if aesthetics else 6), **options), seed)
    parts.update(unet=unet, text_encoder=first, text_encoder_2=second,
                 tokenizer_2=tokenizer(dict(config, pad_bang=True), folder / "words_2"),
                 force_zeros_for_empty_prompt=config["force_zeros"], add_watermarker=False)
    if kind == "xl":
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionXLImg2ImgPipeline(**dict(parts, tokenizer=None),
                                            requires_aesthetics_score=aesthetics)


def conditions(pipe, config, prompts, guided):
    """Text states for all rows, and the pooled ones with time ids for XL."""
    negative = config["negative"]
    negative = None if negative is None else [negative] * len(prompts)
    encoded = pipe.encode_prompt(
        prompt=prompts, device="cpu", num_images_per_prompt=1,
        do_classifier_free_guidance=guided, negative_prompt=negative)
    states = torch.cat([encoded[1], encoded[0]]) if guided else encoded[0]
    if config["pipeline"] == "sd":
        return states, None
    pooled = torch.cat([encoded[3], encoded[2]]) if guided else encoded[2]
    size = tuple(side * pipe.vae_scale_factor for side in config["size"])
    if config["pipeline"] == "xl":
        ids = pipe._get_add_time_ids(size, (0, 0), size, torch.float32, 20)
        negative_ids = ids
    else:
        ids, negative_ids = pipe._get_add_time_ids(size, (0, 0), size, 6.0, 2.5, size, (0, 0),
                                                   size, torch.float32, 20)
    rows = len(prompts)
    ids = torch.cat([negative_ids.repeat(rows, 1)] * guided + [ids.repeat(rows, 1)])
    return states, {"text_embeds": pooled, "time_ids": ids}


def reference(pipe, config, prompts, noise):
    scale, time_cond = config["guidance"], config["time_cond"]
    if config["whole"]:
        negative = config["negative"]
        return pipe(prompt=prompts, latents=noise.clone(), num_inference_steps=config["steps"],
                    guidance_scale=scale, guidance_rescale=config["rescale"], output_type="latent",
                    negative_prompt=None if negative is None else [negative] * len(prompts),
                    height=config["size"][0] * pipe.vae_scale_factor,
                    width=config["size"][1] * pipe.vae_scale_factor).images
    scheduler = pipe.scheduler
    guided = scale > 1 and time_cond is None
    states, added = conditions(pipe, config, prompts, guided)
    unet = pipe.unet.to(noise.dtype)
    timestep_cond = None
    if time_cond is not None:
        timestep_cond = pipe.get_guidance_scale_embedding(
            torch.tensor(scale - 1).repeat(len(prompts)), time_cond).to(noise.dtype)
    z = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(torch.cat([z] * 2) if guided else z, t)
        output = unet(inputs, t, encoder_hidden_states=states.to(z.dtype), timestep_cond=timestep_cond,
                      added_cond_kwargs=added, return_dict=False)[0]
        if guided:
            u, c = output.chunk(2)
            output = u + scale * (c - u)
            if config["rescale"] > 0:
                output = rescale_noise_cfg(output, c, config["rescale"])
        z = scheduler.step(output, t, z, return_dict=False)[0]
    return z


def compare_drawn_size(config, model, d2g):
    path = model / "unet" / "config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()),
                                    _diffusers_version=config["unet_version"])))
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(config["prompts"], num_inference_steps=1, guidance_scale=0.0,
                  output_type="latent").images
    d2g.run("teacher", "--model", model, "--prompt", config["prompts"][0], "--steps", 1,
            "--guidance", 0, "--threads", 1, "--out", model / "out")
    ours = load_file(model / "out")["latents"]
    yield "size of the drawn latents", ours.shape, theirs.shape, 0


@torch.no_grad()
def compare(config, folder, d2g):
    scheduler = solver_goldens.make(config["kind"], config["file"], config["steps"])
    pipe = pipeline(config, scheduler, folder)
    pipe.set_progress_bar_config(disable=True)
    model = folder / "model"
    pipe.save_pretrained(model)
    scheduler_file = model / "scheduler" / "scheduler_config.json"
    scheduler_file.write_text(json.dumps(SD_FILE))  # inspect looks at it as the default solver does
    size = config["sample_size"] if isinstance(config["sample_size"], list) else [
        config["sample_size"]] * 2
    yield "latent_shape", d2g.inspect(model)["latent_shape"], [config["channels"], *size], 0
    scheduler_file.write_text(json.dumps(config["file"]))
    if config["unet_version"]:
        yield from compare_drawn_size(config, model, d2g)
        return
    # As the class makes it, not as the pipeline's constructor changed it.
    pipe.scheduler = solver_goldens.make(config["kind"], config["file"], config["steps"])
    noise = torch.randn(config["noises"], config["channels"], *config["size"],
                        generator=torch.Generator().manual_seed(config["seed"]))
    prompts = config["prompts"]
    save_file({"noise": noise}, folder / "noise")
    arguments = [word for prompt in prompts for word in ("--prompt", prompt)]
    if config["negative"] is not None:
        arguments += ["--negative-prompt", config["negative"]]
    if config["rescale"]:
        arguments += ["--guidance-rescale", config["rescale"]]
    d2g.run("teacher", "--model", model, "--noise", folder / "noise", "--scheduler", config["kind"],
            "--steps", config["steps"], "--guidance", config["guidance"], "--threads", 1,
            "--out", folder / "out", *arguments)
    ours = load_file(folder / "out")["latents"]
    prompts = prompts * (len(noise) // len(prompts))
    theirs = reference(pipe, config, prompts, noise)
    limit = 1e-3 if config["steps"] > 20 else 1e-4
    if not config["whole"] and parity.difference(ours, theirs) > limit:
        # A random network under strong guidance can be chaotic: what float32 itself loses tells.
        pipe.scheduler = solver_goldens.make(config["kind"], config["file"], config["steps"])
        limit = max(limit, 5 * parity.difference(
            theirs, reference(pipe, config, prompts, noise.double())))
    yield "latents", ours, theirs, limit
