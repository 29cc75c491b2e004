"""Runs an export in the stock pipeline and compares its pictures with d2g generate's, from one noise; the size
that each draws by itself is compared too.

Needs the Python whose diffusers is meant: compare_with_diffusers.py EXPORT D2G WORK_FOLDER
"""
import json
import subprocess
import sys

import diffusers
import numpy
import torch
import transformers
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

LIMIT = 2  # of 255
PROMPTS = ["a photo of a dark slim t-shirt", "a light sandal"]
ONE_STEP = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "np"}


def main():
    folder, d2g, work = sys.argv[1:]
    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}")
    torch.set_num_threads(1)
    # In float32 whatever the weights are stored in, as d2g computes on a CPU.
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    alone = pipeline(PROMPTS[0], **ONE_STEP).images[0]
    shape = latent_shape(pipeline.unet.config)
    noise = torch.randn(len(PROMPTS), *shape, generator=torch.Generator().manual_seed(5))
    shown = pipeline(PROMPTS, latents=noise, height=alone.shape[0], width=alone.shape[1], **ONE_STEP).images
    steps = pipeline.scheduler.timesteps.tolist()
    if steps != [recorded_t0(folder)]:
        raise SystemExit(f"diffusers runs at {steps}")
    save_file({"noise": noise}, f"{work}/noise.safetensors")
    ours = generate(d2g, folder, work, PROMPTS, "--noise", f"{work}/noise.safetensors")
    theirs = numpy.concatenate([(picture * 255).round() for picture in shown], axis=1).astype(int)
    if theirs.shape[-1] == 1:
        theirs = theirs.repeat(3, axis=-1)
    if ours.shape != theirs.shape:
        raise SystemExit(f"d2g drew {ours.shape}, diffusers {theirs.shape}")
    size = generate(d2g, folder, work, PROMPTS[:1], "--seed", "1").shape[:2]
    if size != alone.shape[:2]:
        raise SystemExit(f"by itself d2g draws {size}, diffusers {alone.shape[:2]}")
    difference = abs(ours - theirs).max()
    print(f"largest difference {difference} of 255, spread {theirs.std():.1f}, size {size}")
    if difference > LIMIT or theirs.std() < 5:
        raise SystemExit(f"limit {LIMIT}")


def latent_shape(config):
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return config.in_channels, height, width


def generate(d2g, folder, work, prompts, *flags):
    command = [d2g, "generate", "--model", folder, "--out", f"{work}/grid.png", "--columns", str(len(prompts)),
               "--gap", "0", "--threads", "1", *flags]
    for prompt in prompts:
        command += ["--prompt", prompt]
    subprocess.run(command, check=True)
    return numpy.asarray(Image.open(f"{work}/grid.png").convert("RGB")).astype(int)


def recorded_t0(folder):
    with open(f"{folder}/d2g.json") as file:
        return json.load(file)["t0"]


if __name__ == "__main__":
    main()
