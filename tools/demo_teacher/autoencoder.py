"""The AutoencoderKL: 32x32x1 pictures <-> 4x8x8 latents."""
import torch
from diffusers import AutoencoderKL
from torch import nn

from . import pictures, training_features
from .workspace import Log, cosine, save_atomically, share_of, start, work_path

SEED = 3003
CONFIG = dict(in_channels=1, out_channels=1, latent_channels=4, sample_size=32, layers_per_block=1,
              down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
              block_out_channels=(16, 32, 64), norm_num_groups=8)
VALIDATION = 1000  # the last training pictures watch the progress
STEPS, BATCH, RATE = 5000, 16, 2e-3
KL, PERCEPTUAL = 5e-4, 0.3
LATENT_SCALE = 2.5  # what whitened latents are multiplied by, so that scaling_factor is not 1


def build(**changes):
    return AutoencoderKL(**{**CONFIG, **changes})


@torch.no_grad()
def reconstruct(vae, images, batch=100):
    return torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
                      for x in images.split(batch)])


def psnr(a, b):
    return 10 * torch.log10(4 / (a - b).square().mean((1, 2, 3))).mean().item()


def train():
    """Encoder and decoder: L1 + MSE + perceptual + KL."""
    if work_path("vae.pt").exists():
        return
    start(SEED)
    steps = share_of(STEPS)
    log, checkpoint = Log("autoencoder"), work_path("vae.ckpt")
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
    save_atomically(vae.state_dict(), work_path("vae.pt"))


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


def load():
    vae = build(scaling_factor=scaling_factor())
    vae.load_state_dict(torch.load(work_path("vae.pt")))
    return vae.eval().requires_grad_(False)


if __name__ == "__main__":
    train()
