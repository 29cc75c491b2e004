"""The peer of model_bench: diffusers on the same networks and one thread.

    python bench/model_bench.py [--sd15]
"""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tools" / "goldens"))

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

import model_goldens
import random_weights


def best_cpu_seconds(run, repeats=5):
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def trajectories(unet, scheduler, batch):
    """What StableDiffusionPipeline runs between prompts and pictures."""
    hidden = torch.randn(2 * batch, 16, 96)

    def run():
        z = torch.randn(batch, 4, 8, 8)
        scheduler.set_timesteps(50)
        for timestep in scheduler.timesteps:
            u, c = unet(torch.cat([z, z]), timestep, hidden).sample.chunk(2)
            z = scheduler.step(u + 3.0 * (c - u), timestep, z).prev_sample
        return z

    return batch / best_cpu_seconds(run, repeats=3)


def main():
    torch.set_num_threads(1)
    with torch.inference_mode():
        unet = random_weights.fill(UNet2DConditionModel(**model_goldens.DEMO_UNET), seed=1)
        scheduler = DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing",
                                  prediction_type="v_prediction", clip_sample=False)
        for batch in (1, 16, 64):
            sample, hidden = torch.randn(batch, 4, 8, 8), torch.randn(batch, 16, 96)
            seconds = best_cpu_seconds(lambda: unet(sample, 500, hidden), repeats=10)
            print(f"DemoUNetForward/{batch}: {1e3 * seconds:.1f} ms CPU")
        for batch in (16, 32):
            print(f"DemoTrajectories/{batch}: {trajectories(unet, scheduler, batch):.1f}/s of CPU")
        if "--sd15" in sys.argv:
            unet = random_weights.fill(UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8), seed=1)
            sample, hidden = torch.randn(1, 4, 64, 64), torch.randn(1, 77, 768)
            seconds = best_cpu_seconds(lambda: unet(sample, 500, hidden), repeats=1)
            print(f"Sd15UNetForward/1: {1e3 * seconds:.0f} ms CPU")


if __name__ == "__main__":
    main()
