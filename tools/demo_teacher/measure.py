"""Prints the quality of what demo/ holds: reals, reconstructions, teacher at 50 steps and at one."""
import argparse
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from . import autoencoder, captions, pictures
from .evaluator import features_and_labels
from .export import MODELS
from .sequential_net import SequentialNet
from .workspace import start

SEED = 7007


def frechet(a, b):
    """Between Gaussians fitted to two sets of features."""
    a, b = a.double(), b.double()
    gap, ca, cb = a.mean(0) - b.mean(0), torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(ca)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp(min=0).sqrt().sum()
    return (gap.square().sum() + ca.trace() + cb.trace() - 2 * cross).item()


def diversity(features, prompt_of):
    """Mean distance between features of pictures that share a prompt."""
    total, count = 0.0, 0
    for prompt in prompt_of.unique():
        mine = features[prompt_of == prompt]
        if len(mine) > 1:
            total += torch.pdist(mine).sum().item()
            count += len(mine) * (len(mine) - 1) // 2
    return total / count if count else float("nan")


@torch.no_grad()
def embed(pipe, prompts):
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True,
                         return_tensors="pt").input_ids
    return pipe.text_encoder(ids).last_hidden_state


@torch.no_grad()
def sample(pipe, prompts, noise, steps, guidance, batch=64):
    """DDIM latents for one prompt a noise, as d2g simulates them."""
    unconditional, done = embed(pipe, [""]), []
    for place in range(0, len(prompts), batch):
        x = noise[place:place + batch]
        words = torch.cat([unconditional.expand(len(x), -1, -1), embed(pipe, prompts[place:place + batch])])
        pipe.scheduler.set_timesteps(steps)
        for t in pipe.scheduler.timesteps:
            u, c = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=words).sample.chunk(2)
            x = pipe.scheduler.step(u + guidance * (c - u), t, x).prev_sample
        done.append(x)
    return torch.cat(done)


@torch.no_grad()
def decode(pipe, latents, batch=100):
    return torch.cat([pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
                      for x in latents.split(batch)])


def agreement(images, predicted, prompts):
    """Shares of pictures with the class, brightness and size that their prompts ask for."""
    asked = [captions.parse(p) for p in prompts]
    label = torch.tensor([a[0] for a in asked])
    brightness, size = captions.attributes(pictures.to_bytes(images), label)
    said_b = torch.tensor([-1 if a[1] is None else a[1] for a in asked])
    said_s = torch.tensor([-1 if a[2] is None else a[2] for a in asked])
    share = lambda found, said: (found == said)[said >= 0].float().mean().item()
    return (predicted == label).float().mean().item(), share(brightness, said_b), share(size, said_s)


def sheet(rows, path, scale=2):
    """Rows of pictures, one above the other."""
    lines = [torch.cat(list(pictures.to_bytes(row)), dim=1) for row in rows]
    array = torch.cat(lines).numpy()
    image = Image.fromarray(array)
    image.resize((image.width * scale, image.height * scale), Image.NEAREST).save(path)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--models", type=Path, default=MODELS)
    options.add_argument("--count", type=int, default=4800, help="pictures in each set")
    options.add_argument("--guidance", type=float, nargs="+", default=[2.0, 3.0])
    options.add_argument("--steps", type=int, nargs="+", default=[50, 1])
    options.add_argument("--sheet", type=Path, help="write a sheet of samples here")
    chosen = options.parse_args()
    start(SEED)
    count = chosen.count
    judge = SequentialNet.load(chosen.models / "evaluator")
    pipe = StableDiffusionPipeline.from_pretrained(chosen.models / "teacher", torch_dtype=torch.float32,
                                                   safety_checker=None, requires_safety_checker=False)
    reference, _ = pictures.load_reference()
    reference = features_and_labels(judge, pictures.to_float(reference))[0]
    images, labels = pictures.load_probe()
    images, labels = images[:count], labels[:count]
    base = None

    def report(name, shown, prompts, prompt_of, extra=""):
        nonlocal base
        found, predicted = features_and_labels(judge, shown)
        distance = frechet(found, reference)
        base = base or distance
        agrees = agreement(shown, predicted, prompts)
        print(f"| {name} | " + " | ".join(f"{a:.3f}" for a in agrees)
              + f" | {distance:.2f} | {distance / base:.1f}x | {diversity(found, prompt_of):.2f} |{extra}", flush=True)

    print(f"{len(images)} pictures a set, against {len(reference)} others")
    print("| pictures | class | brightness | size | Frechet | of reals | diversity |\n" + "| --- " * 7 + "|")
    every = captions.prompts()
    own = captions.random_caption_indices(*captions.attributes(images, labels), labels)
    own_prompts = [every[i] for i in own]
    real = pictures.to_float(images)
    report("real", real, own_prompts, own)
    rebuilt = autoencoder.reconstruct(pipe.vae, real)
    report("reconstructed", rebuilt, own_prompts, own, f" PSNR {autoencoder.psnr(rebuilt, real):.2f} dB")
    # Uniform over the 480 prompts, spread so that any prefix covers all labels.
    prompt_of = (torch.arange(count) * 49) % len(every)
    prompts = [every[i] for i in prompt_of]
    noise = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    rows = [real[:20], rebuilt[:20]]
    for guidance in chosen.guidance:
        for steps in chosen.steps:
            began = time.time()
            latents = sample(pipe, prompts, noise, steps, guidance)
            rate = count / (time.time() - began)
            shown = decode(pipe, latents)
            rows.append(shown[:20])
            report(f"teacher, {steps} step{'s' * (steps > 1)}, guidance {guidance:g}", shown, prompts, prompt_of, f" {rate:.1f}/s")
    if chosen.sheet:
        sheet(rows, chosen.sheet)


if __name__ == "__main__":
    main()
