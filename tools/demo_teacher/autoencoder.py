"""The AutoencoderKL: 32x32x1 pictures <-> 4x8x8 latents.

Stage `train` fits encoder and decoder together. Stage `sharpen` freezes the encoder, so that latents stay what they
are, and goes on with the decoder alone under an adversarial term: texture comes back without moving the latent space.
"""
import math
import sys

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from . import pictures, training_features
from .workspace import Log, save_atomically, start, work_path

SEED = 3003
CONFIG = dict(in_channels=1, out_channels=1, latent_channels=4, sample_size=32, layers_per_block=1,
              down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
              block_out_channels=(16, 32, 64), norm_num_groups=8)
VALIDATION = 1000  # the last training pictures watch the progress
STEPS, BATCH, RATE = 6000, 16, 2e-3
KL, PERCEPTUAL = 5e-4, 0.3
SHARPEN_STEPS, SHARPEN_RATE, SHARPEN_PERCEPTUAL, ADVERSARIAL, CODE_NOISE = 15000, 4e-4, 0.6, 0.4, 0.15
LATENT_SCALE = 2.5  # what whitened latents are multiplied by, so that scaling_factor is not 1


def build(**changes):
    return AutoencoderKL(**{**CONFIG, **changes})


def cosine(step, steps, warm_up, floor):
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def reconstruct(vae, images, batch=100):
    return torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
                      for x in images.split(batch)])


def psnr(a, b):
    return 10 * torch.log10(4 / (a - b).square().mean((1, 2, 3))).mean().item()


def train(steps=STEPS):
    """Encoder and decoder: L1 + MSE + perceptual + KL."""
    if work_path("vae-joint.pt").exists():
        return
    start(SEED)
    log, checkpoint = Log("autoencoder"), work_path("vae-joint.ckpt")
    images, _ = pictures.load_train()
    watched = pictures.to_float(images[-VALIDATION:][:500])
    images = images[:-VALIDATION]
    features = training_features.load()
    vae, step = build(), 0
    optimiser = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    if checkpoint.exists():
        state = torch.load(checkpoint)
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    while step < steps:
        torch.manual_seed(SEED * 100000 + step)
        for group in optimiser.param_groups:
            group["lr"] = RATE * cosine(step, steps, 100, 0.02)
        x = pictures.to_float(images[torch.randint(len(images), (BATCH,))])
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        l1, mse = (y - x).abs().mean(), (y - x).square().mean()
        perceptual = training_features.distance(features, y, x)
        loss = l1 + mse + PERCEPTUAL * perceptual + KL * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            log(f"step {step}/{steps} l1 {l1:.4f} mse {mse:.4f} perceptual {perceptual:.4f} kl {kl:.2f} "
                f"sigma {posterior.std.mean():.3f} spread {posterior.mean.std():.3f}")
        if step % 500 == 0:
            log(f"validation PSNR {psnr(reconstruct(vae, watched), watched):.2f} dB")
            save_atomically({"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, checkpoint)
    whiten(vae, images)
    save_atomically(vae.state_dict(), work_path("vae-joint.pt"))


@torch.no_grad()
def whiten(vae, images):
    """Folds per-channel centring and scaling of the latents into the two 1x1 convolutions."""
    means = torch.cat([vae.encode(pictures.to_float(x)).latent_dist.mean for x in images[:4000].split(100)])
    mu = means.mean((0, 2, 3))
    gain = LATENT_SCALE / means.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= gain.view(-1, 1, 1, 1)
    quant.bias[:4] = (quant.bias[:4] - mu) * gain
    quant.bias[4:] += 2 * gain.log()
    post.bias += (post.weight[:, :, 0, 0] @ mu)
    post.weight /= gain.view(1, -1, 1, 1)


def scaling_factor():
    return 1 / LATENT_SCALE


class PatchCritic(nn.Sequential):
    """Judges overlapping patches of a picture as real or rebuilt."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1),
                         nn.GroupNorm(8, 64), nn.LeakyReLU(0.2), nn.Conv2d(64, 64, 3, 1, 1), nn.GroupNorm(8, 64),
                         nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 3, 1, 1))


def sharpen(steps=SHARPEN_STEPS):
    """The decoder alone, on fixed latents: L1 + perceptual + a patch critic's hinge loss, balanced by gradient norms."""
    from . import latents
    if work_path("vae.pt").exists():
        return
    start(SEED + 1)
    log, checkpoint = Log("sharpen"), work_path("vae-sharpen.ckpt")
    images, _ = pictures.load_train()
    watched = pictures.to_float(images[-VALIDATION:][:500])
    codes = latents.load()["latents"] / scaling_factor()
    features, vae, critic, step = training_features.load(), load_joint(), PatchCritic(), 0
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    average = [p.detach().clone() for p in decoder.parameters()]
    decode_optimiser = torch.optim.AdamW(decoder.parameters(), lr=SHARPEN_RATE, betas=(0.5, 0.98), weight_decay=1e-4)
    critic_optimiser = torch.optim.AdamW(critic.parameters(), lr=SHARPEN_RATE, betas=(0.5, 0.98), weight_decay=1e-4)
    if checkpoint.exists():
        state = torch.load(checkpoint)
        decoder.load_state_dict(state["decoder"])
        critic.load_state_dict(state["critic"])
        decode_optimiser.load_state_dict(state["decode_optimiser"])
        critic_optimiser.load_state_dict(state["critic_optimiser"])
        average, step = state["average"], state["step"]
        log(f"resumed at {step}")
    last = vae.decoder.conv_out.weight
    while step < steps:
        torch.manual_seed(SEED * 200000 + step)
        for group in decode_optimiser.param_groups + critic_optimiser.param_groups:
            group["lr"] = SHARPEN_RATE * cosine(step, steps, 100, 0.05)
        i = torch.randint(len(images) - VALIDATION, (BATCH,))
        x, z = pictures.to_float(images[i]), codes[i]
        z = z + CODE_NOISE * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(z)
        y = vae.decode(z).sample
        real, fake = critic(x), critic(y.detach())
        critic_loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        critic_optimiser.zero_grad(set_to_none=True)
        critic_loss.backward()
        critic_optimiser.step()
        l1, perceptual = (y - x).abs().mean(), training_features.distance(features, y, x)
        rebuilt = l1 + SHARPEN_PERCEPTUAL * perceptual
        critic.requires_grad_(False)
        fooled = -critic(y).mean()
        critic.requires_grad_(True)
        ratio = (torch.autograd.grad(rebuilt, last, retain_graph=True)[0].norm()
                 / (torch.autograd.grad(fooled, last, retain_graph=True)[0].norm() + 1e-6)).clamp(0, 10)
        weight = ADVERSARIAL * ratio * min(1.0, step / 300)
        decode_optimiser.zero_grad(set_to_none=True)
        (rebuilt + weight * fooled).backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        decode_optimiser.step()
        step += 1
        torch._foreach_lerp_(average, [p.detach() for p in decoder.parameters()], 1 - min(0.999, step / (10 + step)))
        if step % 100 == 0:
            log(f"step {step}/{steps} l1 {l1:.4f} perceptual {perceptual:.4f} critic {critic_loss:.3f} "
                f"weight {weight:.4f}")
        if step % 500 == 0:
            log(f"validation PSNR {psnr(reconstruct(vae, watched), watched):.2f} dB")
            save_atomically({"decoder": decoder.state_dict(), "critic": critic.state_dict(), "average": average,
                             "decode_optimiser": decode_optimiser.state_dict(), "step": step,
                             "critic_optimiser": critic_optimiser.state_dict()}, checkpoint)
    with torch.no_grad():
        for parameter, value in zip(decoder.parameters(), average):
            parameter.copy_(value)
    save_atomically(vae.state_dict(), work_path("vae.pt"))


def load():
    """The best autoencoder so far: sharpened, half sharpened (its average), or joint."""
    vae = load_joint()
    if work_path("vae.pt").exists():
        vae.load_state_dict(torch.load(work_path("vae.pt")))
    elif work_path("vae-sharpen.ckpt").exists():
        decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])
        for parameter, value in zip(decoder.parameters(), torch.load(work_path("vae-sharpen.ckpt"))["average"]):
            parameter.data.copy_(value)
    return vae


def load_joint():
    vae = build(scaling_factor=scaling_factor())
    vae.load_state_dict(torch.load(work_path("vae-joint.pt")))
    return vae.eval().requires_grad_(False)


if __name__ == "__main__":
    {"train": train, "sharpen": sharpen}[sys.argv[1]]()
