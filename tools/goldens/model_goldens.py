"""Runs diffusers and transformers on small random models and saves what they compute, for the tests
of model/.

    python tools/goldens/model_goldens.py OUT

OUT gets one folder a case: a config.json (or a whole model folder) and golden.safetensors with
inputs and outputs. Weights come from random_weights.py, so most cases need no weight file.
"""
import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import torch
from diffusers import (AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline,
                       UNet2DConditionModel)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import random_weights
import solver_goldens
import tokenizer_goldens

DEMO_UNET = dict(
    sample_size=8, block_out_channels=(48, 96), layers_per_block=1, cross_attention_dim=96,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, norm_num_groups=8)
# Stable Diffusion 1.5 with a tenth of its width.
SD15_TENTH = dict(
    sample_size=64, block_out_channels=(32, 64, 128, 128), layers_per_block=2,
    cross_attention_dim=80, attention_head_dim=8, norm_num_groups=16)
TINY = dict(
    sample_size=8, block_out_channels=(16, 32, 32), layers_per_block=1, cross_attention_dim=24,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=4, norm_num_groups=8)

# name -> (config, batch, height, width, tokens, timesteps)
UNETS = {
    "demo": (DEMO_UNET, 3, 8, 8, 16, [999]),
    "sd15_tenth": (SD15_TENTH, 2, 16, 16, 77, [501]),
    "sd15_tenth_long": (SD15_TENTH, 1, 32, 40, 77, [1]),
    "odd_size": (TINY, 2, 7, 5, 9, [300]),
    "one_by_one": (TINY, 2, 1, 1, 3, [20]),
    "timestep_per_sample": (TINY, 3, 8, 8, 5, [999, 0, 421]),
    "linear_projection": (dict(TINY, use_linear_projection=True, attention_head_dim=(2, 4, 8),
                               upcast_attention=True), 2, 8, 8, 5, [77]),
    "deep": (dict(TINY, transformer_layers_per_block=(1, 2, 3), layers_per_block=(1, 2, 1)), 2, 8, 8,
             5, [640]),
    "uneven_heads": (dict(TINY, attention_head_dim=3), 2, 8, 8, 5, [640]),
    "options": (dict(TINY, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0,
                     mid_block_scale_factor=1.4142, act_fn="gelu", norm_eps=1e-3,
                     center_input_sample=True, conv_in_kernel=5, conv_out_kernel=1,
                     time_embedding_dim=40, in_channels=5, out_channels=3), 2, 8, 8, 5, [640]),
    "scale_shift": (dict(TINY, resnet_time_scale_shift="scale_shift"), 2, 8, 8, 5, [64]),
    "no_mid_block": (dict(TINY, mid_block_type=None), 2, 8, 8, 5, [64]),
    "text_width_per_level": (dict(TINY, cross_attention_dim=(24, 24, 24)), 2, 8, 8, 5, [64]),
}

TEXTS = {
    "quick_gelu": dict(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=3,
                       num_attention_heads=4, max_position_embeddings=20, hidden_act="quick_gelu"),
    "gelu": dict(vocab_size=300, hidden_size=64, intermediate_size=200, num_hidden_layers=2,
                 num_attention_heads=2, max_position_embeddings=77, hidden_act="gelu",
                 layer_norm_eps=1e-3),
}

DEMO_VAE = dict(
    in_channels=1, out_channels=1, down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(16, 32, 64), layers_per_block=1,
    norm_num_groups=8, sample_size=32, scaling_factor=0.4)
VAES = {
    "demo": (DEMO_VAE, 2, 32, 32),
    "sd15_tenth": (dict(down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4,
                        block_out_channels=(16, 32, 48, 48), layers_per_block=2,
                        norm_num_groups=8, sample_size=64), 1, 64, 40),
    "no_quant": (dict(DEMO_VAE, use_quant_conv=False, use_post_quant_conv=False,
                      mid_block_add_attention=False, latent_channels=3), 1, 24, 16),
}

# name -> (scheduler options, steps)
SCHEDULERS = {
    "defaults_10": ({}, 10),
    "sd15_50": (dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                     clip_sample=False, set_alpha_to_one=False, steps_offset=1), 50),
    "sd15_1": (dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                    clip_sample=False, set_alpha_to_one=False, steps_offset=1), 1),
    "trailing_v_50": (dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                           clip_sample=False, timestep_spacing="trailing",
                           prediction_type="v_prediction"), 50),
    "trailing_16": (dict(timestep_spacing="trailing"), 16),
    "trailing_3": (dict(timestep_spacing="trailing"), 3),
    "linspace_6": (dict(timestep_spacing="linspace"), 6),
    "linspace_7": (dict(timestep_spacing="linspace"), 7),
    "linspace_1": (dict(timestep_spacing="linspace"), 1),
    "leading_7": (dict(steps_offset=1), 7),
    "sample_20": (dict(prediction_type="sample", clip_sample_range=0.7), 20),
    "zero_snr_v_25": (dict(rescale_betas_zero_snr=True, timestep_spacing="trailing",
                           prediction_type="v_prediction", clip_sample=False), 25),
    "cosine_12": (dict(beta_schedule="squaredcos_cap_v2", clip_sample=False), 12),
    "trained_betas_1": (dict(num_train_timesteps=400, timestep_spacing="trailing",
                             clip_sample=False, trained_betas=[1e-4 * (1 + i / 40)
                                                               for i in range(400)]), 1),
}

PROMPTS = ["a photo of a dark slim t-shirt", "", "two bags, 3 shoes!"]


def rand(name, *shape):
    """Inputs from the shared generator too: uniform in [-1.7, 1.7), variance about 1."""
    return 17 * (random_weights.parameter(7, name + ".bias", (int(torch.Size(shape).numel()),))
                 .reshape(shape))


def save(folder, config=None, **tensors):
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()},
              folder / "golden.safetensors")


def config_of(model):
    return json.loads(model.to_json_string())


def unets(out):
    for name, (options, batch, height, width, tokens, timesteps) in UNETS.items():
        model = random_weights.fill(UNet2DConditionModel(**options), seed=1)
        sample = rand("sample", batch, model.config.in_channels, height, width)
        text_width = model.config.cross_attention_dim
        text_width = text_width if isinstance(text_width, int) else text_width[0]
        hidden = rand("hidden", batch, tokens, text_width)
        timestep = torch.tensor(timesteps)
        result = model(sample, timestep if len(timesteps) > 1 else timesteps[0], hidden).sample
        save(out / "unet" / name, config_of(model), sample=sample, hidden=hidden,
             timestep=timestep, output=result)
    # One with its weights in a file, in half precision and in shards.
    model = random_weights.fill(UNet2DConditionModel(**TINY), seed=1).half()
    model.save_pretrained(out / "unet_folder", max_shard_size="200KB")
    model = model.float()
    sample, hidden = rand("sample", 2, 4, 8, 8), rand("hidden", 2, 5, 24)
    save(out / "unet_folder", sample=sample, hidden=hidden, timestep=torch.tensor([10]),
         output=model(sample, 10, hidden).sample)


def texts(out):
    for name, options in TEXTS.items():
        config = CLIPTextConfig(**options)
        model = random_weights.fill(CLIPTextModel(config), seed=2)
        length = options["max_position_embeddings"]
        ids = (torch.arange(3 * length) * 7919 % options["vocab_size"]).reshape(3, length)
        save(out / "text" / name, json.loads(config.to_json_string(use_diff=False)), input_ids=ids,
             output=model(ids).last_hidden_state)


def vaes(out):
    for name, (options, batch, height, width) in VAES.items():
        model = random_weights.fill(AutoencoderKL(**options), seed=3)
        pictures = rand("pictures", batch, model.config.in_channels, height, width)
        posterior = model.encode(pictures).latent_dist
        scale = 2 ** (len(model.config.block_out_channels) - 1)
        latents = rand("latents", batch, model.config.latent_channels, height // scale,
                       width // scale)
        save(out / "vae" / name, config_of(model), pictures=pictures, mean=posterior.mean,
             logvar=posterior.logvar, latents=latents, decoded=model.decode(latents).sample)


def fake_network(z, timestep):
    """Stands for a network in scheduler cases; the C++ test has the same line."""
    return 0.6 * z + 0.1 * (z * z - 0.5) + 0.0003 * timestep


def schedulers(out):
    for name, (options, steps) in SCHEDULERS.items():
        scheduler = DDIMScheduler(**options)
        scheduler.set_timesteps(steps)
        z = rand("noise", 2, 4, 8, 8)
        start, trajectory = z, []
        for timestep in scheduler.timesteps:
            z = scheduler.step(fake_network(z, timestep.item()), timestep, z).prev_sample
            trajectory.append(z)
        save(out / "ddim" / name, config_of(scheduler), noise=start,
             timesteps=scheduler.timesteps.clone(), alphas_cumprod=scheduler.alphas_cumprod,
             trajectory=torch.stack(trajectory))


def pipeline(out, tokenizer, scheduler, name, steps, guidance, prompts, vae=None):
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    pipe = StableDiffusionPipeline(
        vae=random_weights.fill(vae or AutoencoderKL(**DEMO_VAE), seed=3),
        text_encoder=random_weights.fill(CLIPTextModel(text_config), seed=2),
        tokenizer=tokenizer,
        unet=random_weights.fill(UNet2DConditionModel(**DEMO_UNET), seed=1),
        scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    folder = out / "pipeline" / name
    pipe.save_pretrained(folder)
    noise = rand("noise", len(prompts), 4, 8, 8)
    run = dict(prompt=prompts, num_inference_steps=steps, guidance_scale=guidance)
    latents = pipe(**run, latents=noise.clone(), output_type="latent").images
    pictures = pipe(**run, latents=noise.clone(), output_type="np").images
    save(folder, noise=noise, latents=latents,
         pictures=torch.from_numpy((pictures * 255).round().astype("uint8")),
         embeddings=pipe.encode_prompt(prompts, "cpu", 1, False)[0],
         steps=torch.tensor([steps]), guidance=torch.tensor([float(guidance)]))
    (folder / "prompts.json").write_text(json.dumps(prompts))


def pipelines(out, tokenizer):
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    teacher = DDIMScheduler(**schedule, timestep_spacing="trailing", prediction_type="v_prediction",
                            clip_sample=False)
    pipeline(out, tokenizer, teacher, "teacher", 50, 3.0, PROMPTS)
    # A tiny autoencoder of 4 levels, with a scaling factor as the others have.
    pipeline(out, tokenizer, teacher, "tiny_vae", 50, 3.0, PROMPTS[:1],
             AutoencoderTiny(in_channels=1, out_channels=1, encoder_block_out_channels=(8,) * 4,
                             decoder_block_out_channels=(8,) * 4, scaling_factor=0.5))
    # Saved with clip_sample and steps_offset that the pipeline overrules, and words that are not
    # JSON.
    overruled = DDIMScheduler(**schedule, clip_sample=True, steps_offset=0)
    pipeline(out, tokenizer, overruled, "overruled", 10, 7.5, PROMPTS)
    path = out / "pipeline" / "overruled" / "scheduler" / "scheduler_config.json"
    text = json.loads(path.read_text())
    text.update(clip_sample=True, steps_offset=0)
    path.write_text(json.dumps(dict(text, lambda_min_clipped=float("-inf"))))
    # One-step exports: the first t0 + 1 betas, spaced trailing.
    for t0, prediction in [(999, "v_prediction"), (399, "epsilon"), (399, "sample")]:
        student = DDIMScheduler(
            num_train_timesteps=t0 + 1, trained_betas=teacher.betas[:t0 + 1].tolist(),
            timestep_spacing="trailing", steps_offset=1, set_alpha_to_one=True, clip_sample=False,
            prediction_type=prediction)
        pipeline(out, tokenizer, student, f"student_{t0}_{prediction}", 1, 0.0, PROMPTS)


def demo_teacher(out):
    """The model that is shipped: real weights in half precision, a real tokenizer."""
    folder = pathlib.Path(__file__).parents[2] / "demo" / "teacher"
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32,
                                                   safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a photo of a dark slim t-shirt", "a light wide bag", "an ankle boot"]
    noise = rand("noise", len(prompts), 4, 8, 8)
    run = dict(prompt=prompts, num_inference_steps=50, guidance_scale=3.0)
    latents = pipe(**run, latents=noise.clone(), output_type="latent").images
    pictures = pipe(**run, latents=noise.clone(), output_type="np").images
    decoded = torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1
    posterior = pipe.vae.encode(decoded).latent_dist
    save(out / "demo_teacher", noise=noise, latents=latents, decoded=decoded, mean=posterior.mean,
         logvar=posterior.logvar, embeddings=pipe.encode_prompt(prompts, "cpu", 1, False)[0],
         pictures=torch.from_numpy((pictures * 255).round().astype("uint8")))
    (out / "demo_teacher" / "prompts.json").write_text(json.dumps(prompts))


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    torch.set_num_threads(1)
    with torch.no_grad():
        weights = {name: random_weights.parameter(5, name, shape) for name, shape in
                   {"a.norm.weight": (7,), "a.conv.bias": (9,), "b.weight": (3, 5, 2, 2),
                    "b.c.weight": (11, 13)}.items()}
        save(out / "random_weights", **weights)
        tokenizer = tokenizer_goldens.write(out / "tokenizer")
        unets(out)
        texts(out)
        vaes(out)
        schedulers(out)
        solver_goldens.write(out / "solver")
        pipelines(out, tokenizer)
        demo_teacher(out)
    (out / "complete").write_text("")


if __name__ == "__main__":
    main()
