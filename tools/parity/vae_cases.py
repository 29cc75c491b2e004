"""AutoencoderKL and AutoencoderTiny: random configurations, sizes, tiles and kinds of weight files."""
import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "goldens"))
import random_weights  # noqa: E402

LIMIT = 1e-4
torch.set_num_threads(1)
CLASSES = {"kl": AutoencoderKL, "tiny": AutoencoderTiny}
PLAIN_DOWN, PLAIN_UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def kl(options, size, **more):
    """A case of AutoencoderKL; block types default to the plain ones."""
    levels = len(options.get("block_out_channels", (64,)))
    options = dict(down_block_types=[PLAIN_DOWN] * levels, up_block_types=[PLAIN_UP] * levels,
                   **options) if "down_block_types" not in options else options
    return dict(kind="kl", options=options, size=size, **more)


def tiny(options, size, **more):
    return dict(kind="tiny", options=options, size=size, **more)


SMALL = dict(block_out_channels=(8, 16), norm_num_groups=4)
SMALL_TINY = dict(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)

# size: height, width of the picture; the latents are its size divided by the scale, rounded down.
NAMED = [
    ("kl_sd15_shape", kl(dict(block_out_channels=(16, 32, 64, 64), layers_per_block=2,
                              norm_num_groups=8), (64, 40))),
    ("kl_sd3_shape", kl(dict(block_out_channels=(16, 32, 64, 64), layers_per_block=2,
                             norm_num_groups=8, latent_channels=16, scaling_factor=1.5305,
                             shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
                             force_upcast=True), (32, 48))),
    ("kl_one_level", kl(dict(block_out_channels=(16,), norm_num_groups=8), (7, 5))),
    ("kl_normalised", kl(dict(SMALL, latents_mean=[.1, .2, .3, .4], latents_std=[1., 2., 3., 4.]),
                         (8, 8))),
    ("kl_attention", kl(dict(SMALL, down_block_types=["AttnDownEncoderBlock2D"] * 2,
                             up_block_types=["AttnUpDecoderBlock2D"] * 2), (9, 12))),
    ("kl_unetres_names", kl(dict(SMALL, down_block_types=["UNetResAttnDownEncoderBlock2D",
                                                          "UNetResDownEncoderBlock2D"],
                                 up_block_types=["UNetResUpDecoderBlock2D",
                                                 "UNetResAttnUpDecoderBlock2D"]), (8, 8))),
    ("kl_sample_size_list", kl(dict(SMALL, sample_size=[32, 48]), (8, 8))),
    ("kl_channel_a_group", kl(dict(block_out_channels=(8, 8), norm_num_groups=8), (18, 16))),
    ("kl_old_names", kl(SMALL, (8, 8), weights="old")),
    ("kl_old_convolutions", kl(SMALL, (8, 8), weights="old_conv")),
    ("kl_tiled", kl(dict(SMALL, sample_size=16), (40, 27), tile=True)),
    ("kl_tiled_batch", kl(dict(SMALL, sample_size=32), (33, 70), tile=True, batch=3)),
    ("kl_not_tiled_small", kl(dict(SMALL, sample_size=64), (40, 27), tile=True)),
    ("kl_tiled_last_too_small", kl(dict(SMALL, block_out_channels=(8, 8, 8), sample_size=16),
                                   (25, 16), tile=True)),
    ("kl_picture_too_small", kl(dict(SMALL, block_out_channels=(8, 8, 8)), (3, 16), latent=(1, 1))),
    ("kl_large_batch", kl(dict(SMALL, block_out_channels=(4,), mid_block_add_attention=False),
                          (520, 512), batch=5)),
    ("tiny_taesd", tiny({}, (24, 40))),
    ("tiny_sixteen", tiny(dict(SMALL_TINY, latent_channels=16), (17, 23))),
    ("tiny_tiled", tiny(SMALL_TINY, (1000, 16), tile=True)),
    ("tiny_tiled_wide", tiny(SMALL_TINY, (16, 968), tile=True, batch=2)),
    ("tiny_tiled_odd", tiny(SMALL_TINY, (500, 16), tile=True)),
    ("tiny_no_blocks", tiny(dict(SMALL_TINY, num_encoder_blocks=(0,) * 4,
                                 num_decoder_blocks=(0,) * 4), (16, 16))),
]


def weights_kind(random):
    return random.choice(["plain"] * 4 + ["fp16", "bf16", "sharded", "variant", "old"])


def draw_kl(random):
    levels = random.randint(1, 4)
    groups = random.choice([1, 2, 4, 8])
    scale = 2 ** (levels - 1)
    tile = random.random() < 0.3
    latent_tile = random.randint(2, 9)
    options = dict(
        # A group of one channel at one point is all rounding, in diffusers too.
        block_out_channels=[groups * random.choice([2, 3, 4]) for _ in range(levels)],
        down_block_types=[random.choice([PLAIN_DOWN] * 3 + ["AttnDownEncoderBlock2D"])
                          for _ in range(levels)],
        up_block_types=[random.choice([PLAIN_UP] * 3 + ["AttnUpDecoderBlock2D"])
                        for _ in range(levels)],
        in_channels=random.choice([1, 3, 3, 4]), out_channels=random.choice([1, 3, 3, 4]),
        layers_per_block=random.randint(1, 3), norm_num_groups=groups,
        act_fn=random.choice(["silu", "swish", "mish", "gelu", "relu", "SiLU"]),
        latent_channels=random.choice([1, 3, 4, 4, 8, 16]),
        sample_size=latent_tile * scale + random.randrange(scale) if tile else 32,
        scaling_factor=random.choice([0.18215, 0.13025, 1.0]),
        shift_factor=random.choice([None, 0.0609]), force_upcast=random.random() < 0.5,
        use_quant_conv=random.random() < 0.7, use_post_quant_conv=random.random() < 0.7,
        mid_block_add_attention=random.random() < 0.8)
    largest = 4 * latent_tile if tile else 8
    size = [scale * random.randint(1, largest) + random.randrange(scale) for _ in range(2)]
    return kl(options, size, batch=random.randint(1, 3), tile=tile, weights=weights_kind(random))


def draw_tiny(random):
    tile = random.random() < 0.15
    stages = 4 if tile else random.randint(1, 4)
    decoder_stages = 4 if tile else random.choice([stages, random.randint(1, 4)])
    options = dict(
        encoder_block_out_channels=[random.choice([4, 8, 12])] * stages,
        decoder_block_out_channels=[random.choice([4, 8, 12])] * decoder_stages,
        num_encoder_blocks=[random.randint(0, 3) for _ in range(stages)],
        num_decoder_blocks=[random.randint(0, 3) for _ in range(decoder_stages)],
        in_channels=3 if tile else random.choice([1, 3, 4]),
        out_channels=3 if tile else random.choice([1, 3, 4]),
        latent_channels=4 if tile else random.choice([1, 4, 16]),
        act_fn=random.choice(["relu", "silu", "swish", "mish", "gelu"]),
        upsample_fn=random.choice(["nearest"] * 3 + ["nearest-exact", "bilinear", "bicubic",
                                                     "area"]),
        upsampling_scaling_factor=2 if tile else random.choice([1, 2, 2, 2, 3]),
        latent_magnitude=random.choice([3, 2]), latent_shift=0.5,
        scaling_factor=random.choice([1.0, 0.5]), force_upcast=False)
    size = ([8 * random.choice([1, 56, 64, 65, 120]), 8 * random.choice([1, 2])] if tile
            else [random.randint(1, 40), random.randint(1, 40)])
    if random.random() < 0.5:
        size.reverse()
    return tiny(options, size, batch=random.randint(1, 3), tile=tile,
                weights=weights_kind(random).replace("old", "plain"))


def cases(random):
    index = 0
    while True:
        kind = "kl" if random.random() < 0.65 else "tiny"
        yield f"{kind}_{index}", (draw_kl if kind == "kl" else draw_tiny)(random)
        index += 1


def rename_to_old(folder, as_convolutions):
    """The names that AttentionBlock gave its parameters, and the shapes of the first checkpoints."""
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        for now, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"),
                         ("to_out.0", "proj_attn")):
            if f".{now}." in name:
                name = name.replace(f".{now}.", f".{old}.")
                if as_convolutions and tensor.dim() == 2:
                    tensor = tensor[:, :, None, None]
        tensors[name] = tensor.contiguous()
    save_file(tensors, path)


def save(model, folder, kind):
    """Saves the model and returns it with the values that the files hold."""
    if kind in ("fp16", "variant"):
        model = model.half()
    elif kind == "bf16":
        model = model.bfloat16()
    # A shard holds at least one tensor, so the smallest size gives as many as there are.
    model.save_pretrained(folder, variant="fp16" if kind == "variant" else None,
                          max_shard_size="4KB" if kind == "sharded" else "10GB")
    if kind.startswith("old"):
        rename_to_old(folder, kind == "old_conv")
    return model.float()


def theirs_or_none(run):
    """What diffusers gives, or None for sizes that it cannot run either."""
    try:
        return run()
    except RuntimeError:
        return None


def ours_or_none(run, d2g):
    try:
        return run()
    except d2g.Refused as refused:
        if "exit code 3" not in str(refused):
            raise
        return None


def compare(config, folder, d2g):
    model = random_weights.fill(CLASSES[config["kind"]](**config["options"]), seed=11)
    model = save(model, folder / "vae", config.get("weights", "plain"))
    batch, tile = config.get("batch", 1), config.get("tile", False)
    if tile:
        model.enable_tiling()
    generator = torch.Generator().manual_seed(5)
    saved = json.loads((folder / "vae" / "config.json").read_text())
    levels = len(saved.get("down_block_types", saved.get("encoder_block_out_channels")))
    scale = 2 ** (levels - 1)
    height, width = config["size"]
    latent = config.get("latent", (max(height // scale, 1), max(width // scale, 1)))
    image = torch.rand(batch, model.config.in_channels, height, width, generator=generator) * 2 - 1
    latents = torch.randn(batch, model.config.latent_channels, *latent, generator=generator)

    def encode():
        encoded = model.encode(image)
        if config["kind"] == "tiny":
            return {"mean": encoded.latents, "latents": encoded.latents}
        return {"mean": encoded.latent_dist.mean, "logvar": encoded.latent_dist.logvar}

    def run(component, inputs):
        given, made = folder / f"{component}.in", folder / f"{component}.out"
        save_file(inputs, given)
        d2g.run("component", "--model", folder, "--component", component, "--inputs", given,
                "--outputs", made, "--threads", 1, *(["--tile"] if tile else []))
        return load_file(made)

    pairs = [("vae_encoder", {"image": image}, encode),
             ("vae_decoder", {"latent": latents}, lambda: {"image": model.decode(latents).sample})]
    with torch.no_grad():
        for component, inputs, reference in pairs:
            theirs = theirs_or_none(reference)
            ours = ours_or_none(lambda: run(component, inputs), d2g)
            if theirs is None or ours is None:
                yield f"{component}: runs", [float(ours is not None)], [float(theirs is not None)], 0
                continue
            yield (f"{component}: outputs", [float(sorted(ours) == sorted(theirs))], [1.0], 0)
            for name, tensor in theirs.items():
                yield f"{component}: {name}", ours[name], tensor, LIMIT
