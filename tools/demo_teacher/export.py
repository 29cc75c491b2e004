"""Writes demo/: the diffusers folder, the evaluator, the latent features, the prompts."""
import hashlib
import shutil
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModel

from . import autoencoder, captions, evaluator, latent_features, pictures, teacher, text
from .sequential_net import SequentialNet
from .workspace import work_path

MODELS = Path(__file__).resolve().parents[2] / "demo"


def write_teacher(folder):
    trained = teacher.load()
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.load(), text_encoder=trained.text_encoder, tokenizer=text.tokenizer(), unet=trained.unet,
        scheduler=teacher.scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    check_text_encoder(folder)


def check_text_encoder(folder):
    """Newer transformers drop the prefix; older ones then start a random encoder with only a warning."""
    _, info = CLIPTextModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    wrong = {kind: keys for kind, keys in info.items() if keys}
    if wrong:
        raise SystemExit(f"text encoder does not load cleanly: {wrong}")
    for name in ("vocab.json", "merges.txt"):
        if not (folder / "tokenizer" / name).exists():
            raise SystemExit(f"tokenizer lacks {name}")


def label_entries():
    return [{"name": label.name, "words": list(label.words),
             "brightness": {"words": list(captions.BRIGHTNESS), "thresholds": limit["brightness"]},
             "size": {"words": list(label.sizes), "measure": label.measure, "threshold": limit["size"]}}
            for label, limit in zip(captions.LABELS, captions.thresholds())]


ATTRIBUTES = {
    "foreground_above": captions.FOREGROUND,
    "scale": "picture * 127.5 + 127.5, clamped to 0..255 and rounded",
    "brightness": "mean of the foreground; class i of 3 = number of thresholds that it exceeds; thresholds per label",
    "area": "number of foreground pixels",
    "mean_width": "area / number of rows with foreground",
    "mean_height": "area / number of columns with foreground",
    "size": "class i of 2 = 1 if the label's measure exceeds the label's threshold",
}


def write_evaluator(folder):
    net = evaluator.load()
    net.config = {**net.config, "labels": label_entries(), "attributes": ATTRIBUTES}
    net.save(folder)
    images, _ = pictures.load_reference()
    features, _ = evaluator.features_and_labels(net, pictures.to_float(images))
    wide = features.double()
    save_file({"features": features.contiguous(), "mean": wide.mean(0), "cov": torch.cov(wide.T).contiguous()},
              folder / "reference.safetensors")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
            for name in ("config.json", "model.safetensors", "reference.safetensors")]
    (folder / "SHA256SUMS").write_text("".join(sums))


def write_latent_features(folder, vae_file):
    net = SequentialNet.load(work_path("latent-features"))
    net.config = {**net.config, "latent_space": latent_features.latent_space(vae_file),
                  "scaling_factor": autoencoder.scaling_factor()}
    net.save(folder)


def write(models=MODELS):
    models.mkdir(parents=True, exist_ok=True)
    parts = {
        "teacher": write_teacher, "evaluator": write_evaluator,
        "latent-features": lambda folder: write_latent_features(
            folder, models / "teacher/vae/diffusion_pytorch_model.safetensors"),
    }
    for name, writer in parts.items():
        fresh = models / f".{name}.part"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        writer(fresh)
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(models / name, ignore_errors=True)
        fresh.rename(models / name)
    (models / "prompts.txt").write_text("".join(p + "\n" for p in captions.prompts()))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS)
