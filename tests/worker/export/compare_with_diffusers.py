"""Runs an export in the stock pipeline and compares its pictures with d2g generate's, from one noise."""
import json
import subprocess
import sys

import numpy
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

LIMIT = 2  # of 255
PROMPTS = ["a photo of a dark slim t-shirt", "a light sandal"]


def main():
    folder, d2g, work = sys.argv[1:]
    torch.set_num_threads(1)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None,
                                                       requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.unet.config
    noise = torch.randn(len(PROMPTS), config.in_channels, config.sample_size, config.sample_size,
                        generator=torch.Generator().manual_seed(5))
    shown = pipeline(PROMPTS, latents=noise, num_inference_steps=1, guidance_scale=1.0, output_type="np").images
    steps = pipeline.scheduler.timesteps.tolist()
    if steps != [recorded_t0(folder)]:
        raise SystemExit(f"diffusers runs at {steps}")
    save_file({"noise": noise}, f"{work}/noise.safetensors")
    command = [d2g, "generate", "--model", folder, "--noise", f"{work}/noise.safetensors", "--out",
               f"{work}/grid.png", "--columns", str(len(PROMPTS)), "--gap", "0", "--threads", "1"]
    for prompt in PROMPTS:
        command += ["--prompt", prompt]
    subprocess.run(command, check=True)
    ours = numpy.asarray(Image.open(f"{work}/grid.png").convert("RGB")).astype(int)
    theirs = numpy.concatenate([(picture * 255).round() for picture in shown], axis=1).astype(int)
    if theirs.shape[-1] == 1:
        theirs = theirs.repeat(3, axis=-1)
    if ours.shape != theirs.shape:
        raise SystemExit(f"d2g drew {ours.shape}, diffusers {theirs.shape}")
    difference = abs(ours - theirs).max()
    print(f"largest difference {difference} of 255, spread {theirs.std():.1f}")
    if difference > LIMIT or theirs.std() < 5:
        raise SystemExit(f"limit {LIMIT}")


def recorded_t0(folder):
    with open(f"{folder}/d2g.json") as file:
        return json.load(file)["t0"]


if __name__ == "__main__":
    main()
