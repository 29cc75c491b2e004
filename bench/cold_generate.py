"""One picture from a model folder the way one writes it with diffusers: the peer of `d2g generate`.

    python bench/cold_generate.py MODEL OUT.png THREADS
"""
import sys

import torch
from diffusers import StableDiffusionPipeline

model, out, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
pipeline = StableDiffusionPipeline.from_pretrained(
    model, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
pipeline.set_progress_bar_config(disable=True)
with torch.inference_mode():
    latents = torch.randn(1, 4, 8, 8)
    picture = pipeline("a", num_inference_steps=1, guidance_scale=1.0, latents=latents,
                       output_type="pt").images[0]
from PIL import Image

picture = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1)
Image.fromarray(picture.numpy()).save(out)
