"""The training pictures as scaled latents, with their attributes; made once per encoder."""
import torch

from . import autoencoder, captions, pictures
from .workspace import Log, save_atomically, start, work_path

SEED = 4004


@torch.no_grad()
def encode(vae, images, batch=200):
    """uint8 pictures -> scaled posterior means."""
    return torch.cat([vae.encode(pictures.to_float(x)).latent_dist.mode() * autoencoder.scaling_factor()
                      for x in images.split(batch)])


def make():
    if work_path("latents.pt").exists():
        return
    start(SEED)
    vae = autoencoder.load()
    images, labels = pictures.load_train()
    found = encode(vae, images)
    brightness, size = captions.attributes(images, labels)
    Log("latents")(f"mean {found.mean((0, 2, 3)).tolist()} spread {found.std((0, 2, 3)).tolist()}")
    save_atomically({"latents": found, "labels": labels, "brightness": brightness, "size": size},
                    work_path("latents.pt"))


def load():
    make()
    return torch.load(work_path("latents.pt"))


if __name__ == "__main__":
    make()
