"""U-Nets in every configuration that d2g reads: miniatures of published models, and random ones.

A configuration is what config.json says (`options`), how it is written down (`omit`: options left
out, `extra`: ones that diffusers does not know, `saving`: how weights are stored), and the inputs.
"""
import json
import math
import warnings

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging

logging.set_verbosity_error()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)

LIMIT = 1e-4
DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"

SD15 = dict(
    sample_size=64, in_channels=4, out_channels=4, act_fn="silu", attention_head_dim=8,
    block_out_channels=[16, 32, 64, 64], center_input_sample=False, cross_attention_dim=24,
    down_block_types=[CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN], downsample_padding=1,
    flip_sin_to_cos=True, freq_shift=0, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-05,
    norm_num_groups=8, up_block_types=[UP, CROSS_UP, CROSS_UP, CROSS_UP])
SD21 = dict(
    SD15, sample_size=96, attention_head_dim=[2, 4, 8, 8], cross_attention_dim=40,
    dual_cross_attention=False, num_class_embeds=None, only_cross_attention=False,
    upcast_attention=True, use_linear_projection=True)
SDXL = dict(
    SD21, sample_size=128, attention_head_dim=[2, 4, 8], block_out_channels=[16, 32, 64],
    down_block_types=[DOWN, CROSS_DOWN, CROSS_DOWN], up_block_types=[CROSS_UP, CROSS_UP, UP],
    transformer_layers_per_block=[1, 2, 5], addition_embed_type="text_time",
    addition_embed_type_num_heads=64, addition_time_embed_dim=8, attention_type="default",
    class_embed_type=None, class_embeddings_concat=False, conv_in_kernel=3, conv_out_kernel=3,
    cross_attention_norm=None, encoder_hid_dim=None, encoder_hid_dim_type=None,
    mid_block_only_cross_attention=None, mid_block_type="UNetMidBlock2DCrossAttn",
    num_attention_heads=None, projection_class_embeddings_input_dim=6 * 8 + 20,
    resnet_out_scale_factor=1.0, resnet_skip_time_act=False, resnet_time_scale_shift="default",
    time_cond_proj_dim=None, time_embedding_act_fn=None, time_embedding_dim=None,
    time_embedding_type="positional", timestep_post_act=None, upcast_attention=None)
REFINER = dict(
    SDXL, attention_head_dim=[3, 6, 12, 12], block_out_channels=[24, 48, 96, 96],
    down_block_types=[DOWN, CROSS_DOWN, CROSS_DOWN, DOWN], transformer_layers_per_block=4,
    up_block_types=[UP, CROSS_UP, CROSS_UP, UP], projection_class_embeddings_input_dim=5 * 8 + 16)
SSD_1B = dict(
    SDXL, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[[0, 0], [2, 2], [4, 4]],
    reverse_transformer_layers_per_block=[[4, 4, 5], [2, 1, 1], 1])
SEGMIND_VEGA = dict(
    SSD_1B, transformer_layers_per_block=[[0, 0], [1, 1], [2, 2]],
    reverse_transformer_layers_per_block=[[2, 2, 2], [1, 1, 1], 1])
BK_TINY = dict(
    SD15, block_out_channels=[16, 32, 64], layers_per_block=1, mid_block_type=None,
    down_block_types=[CROSS_DOWN] * 3, up_block_types=[CROSS_UP] * 3)
BK_SMALL = dict(
    SD15, layers_per_block=1, mid_block_type=None, down_block_types=[CROSS_DOWN] * 3 + [DOWN])
BK_BASE = dict(SD15, layers_per_block=1)
UPSCALER = dict(
    SD21, in_channels=7, sample_size=128, block_out_channels=[16, 32, 32, 64], attention_head_dim=8,
    down_block_types=[DOWN, CROSS_DOWN, CROSS_DOWN, CROSS_DOWN], num_class_embeds=50,
    only_cross_attention=[True, True, True, False], up_block_types=[CROSS_UP] * 3 + [UP])
LCM = dict(SD15, time_cond_proj_dim=20)
LCM_XL = dict(SDXL, time_cond_proj_dim=20)
UNCLIP = dict(
    SD21, class_embed_type="projection", projection_class_embeddings_input_dim=30,
    num_class_embeds=None)
INPAINT = dict(SD15, in_channels=9)
PIX2PIX = dict(SD15, in_channels=8)
TEST_SD = dict(
    block_out_channels=[32, 64], layers_per_block=2, sample_size=32, cross_attention_dim=32,
    down_block_types=[DOWN, CROSS_DOWN], up_block_types=[CROSS_UP, UP])
TEST_SDXL = dict(
    TEST_SD, attention_head_dim=[2, 4], use_linear_projection=True, addition_time_embed_dim=8,
    addition_embed_type="text_time", transformer_layers_per_block=[1, 2], cross_attention_dim=64,
    projection_class_embeddings_input_dim=80)
FOURIER = dict(TEST_SD, time_embedding_type="fourier", time_embedding_act_fn="silu",
               timestep_post_act="gelu", act_fn="mish", mid_block_type="UNetMidBlock2D")
IF_LIKE = dict(TEST_SD, encoder_hid_dim=40, encoder_hid_dim_type="text_proj", act_fn="gelu",
               addition_embed_type="text", addition_embed_type_num_heads=5,
               resnet_time_scale_shift="scale_shift", resnet_skip_time_act=True,
               resnet_out_scale_factor=1.4, cross_attention_norm="group_norm")


def case(options, **more):
    defaults = dict(options=options, omit=[], extra={}, saving={}, batch=2, height=8, width=8,
                    tokens=7, timestep=[501], timestep_dtype="int64", time_ids=6, dtype="float32", seed=1)
    return dict(defaults, **more)


NAMED = [
    ("sd15", case(SD15, height=16, width=16, tokens=77)),
    ("sd15_wide", case(SD15, height=8, width=24, batch=1, timestep=[999])),
    ("sd15_odd", case(SD15, height=9, width=13)),
    ("sd21", case(SD21, timestep=[1, 998], saving={"dtype": "float16", "variant": "fp16"})),
    ("sdxl", case(SDXL, saving={"dtype": "float16", "shards": "100KB"})),
    ("sdxl_odd", case(SDXL, height=7, width=5, batch=3)),
    ("refiner", case(REFINER, time_ids=5)),
    ("ssd_1b", case(SSD_1B)),
    ("segmind_vega", case(SEGMIND_VEGA)),
    ("bk_tiny", case(BK_TINY)),
    ("bk_small", case(BK_SMALL)),
    ("bk_base", case(BK_BASE)),
    ("x4_upscaler", case(UPSCALER)),
    ("lcm", case(LCM)),
    ("lcm_unguided", case(LCM, no_timestep_cond=True)),
    ("lcm_xl", case(LCM_XL)),
    ("unclip", case(UNCLIP)),
    ("inpaint", case(INPAINT)),
    ("pix2pix", case(PIX2PIX)),
    ("tiny_sd", case(TEST_SD)),
    ("tiny_sdxl", case(TEST_SDXL, timestep_dtype="float32")),
    ("fourier", case(FOURIER)),
    ("if_like", case(IF_LIKE)),
    ("one_level", case(dict(block_out_channels=[32], down_block_types=[CROSS_DOWN], mid_block_type=None,
                            up_block_types=[CROSS_UP], cross_attention_dim=8), height=3, width=1)),
    ("no_attention", case(dict(block_out_channels=[32, 32], down_block_types=[DOWN, DOWN],
                               up_block_types=[UP, UP], mid_block_type="UNetMidBlock2D"))),
    ("nulls", case(dict(TEST_SD, flip_sin_to_cos=None, use_linear_projection=None, sample_size=None,
                        upcast_attention=None, center_input_sample=None, time_embedding_dim=None,
                        class_embeddings_concat=None, dual_cross_attention=None,
                        attention_type=None))),
    ("strangers", case(TEST_SD, extra={"_name_or_path": "x", "unheard_of": {"a": [1]},
                                       "_use_default_values": ["sample_size"]})),
]


def some(random, chance):
    return random.random() < chance


def draw_options(random):
    levels = random.choice([1, 2, 2, 3, 3, 4])
    groups = random.choice([1, 2, 4, 8, 32])
    step = max(groups, 8)
    channels = [step * random.randint(1, 3 if step < 32 else 1) for _ in range(levels)]
    down = [random.choice([DOWN, CROSS_DOWN]) for _ in range(levels)]
    up = [random.choice([UP, CROSS_UP]) for _ in range(levels)]
    if some(random, 0.5):  # The usual symmetry.
        up = [CROSS_UP if name == CROSS_DOWN else UP for name in reversed(down)]
    if some(random, 0.1):
        down[0] = "UNetRes" + down[0]
    layers = random.choice([1, 2, [random.randint(1, 3) for _ in range(levels)]])
    options = dict(
        block_out_channels=channels, norm_num_groups=groups, down_block_types=down,
        up_block_types=up, layers_per_block=layers,
        cross_attention_dim=random.choice([8, 12, 33]), attention_head_dim=random.choice(
            [1, 2, 3, 4, [random.randint(1, 4) for _ in range(levels)]]))
    each = layers if isinstance(layers, list) else [layers] * levels

    def maybe(name, chance, *values):
        if some(random, chance):
            options[name] = random.choice(values)

    depth = random.choice(["none", "number", "list", "lists"])
    if depth == "number":
        options["transformer_layers_per_block"] = random.randint(0, 3)
    elif depth == "list":
        options["transformer_layers_per_block"] = [random.randint(0, 3) for _ in range(levels)]
        if some(random, 0.3):
            options["reverse_transformer_layers_per_block"] = [
                random.randint(0, 3) for _ in range(levels)]
    elif depth == "lists":
        spare = random.randint(0, 1)
        options["transformer_layers_per_block"] = [
            [random.randint(0, 2) for _ in range(count + spare)] if some(random, 0.7)
            else random.randint(0, 2) for count in each]
        options["reverse_transformer_layers_per_block"] = [
            [random.randint(0, 2) for _ in range(count + 1 + spare)] if some(random, 0.7)
            else random.randint(0, 2) for count in reversed(each)]
    maybe("mid_block_type", 0.5, None, "UNetMidBlock2D", "UNetMidBlock2DCrossAttn")
    maybe("in_channels", 0.3, 1, 3, 9)
    maybe("out_channels", 0.3, 1, 3, 8)
    maybe("sample_size", 0.5, 8, [8, 16], None)
    maybe("center_input_sample", 0.2, True)
    maybe("flip_sin_to_cos", 0.3, False, None)
    maybe("freq_shift", 0.3, 1, 0.5)
    maybe("only_cross_attention", 0.3, True, [some(random, 0.5) for _ in range(levels)])
    maybe("mid_block_only_cross_attention", 0.1, True, False)
    maybe("downsample_padding", 0.2, 0)
    maybe("mid_block_scale_factor", 0.2, 1.4142, 2, -1)
    maybe("dropout", 0.1, 0.3)
    maybe("act_fn", 0.3, "gelu", "mish", "relu", "swish", "SiLU")
    maybe("norm_eps", 0.2, 1e-3, 1e-6)
    maybe("use_linear_projection", 0.4, True)
    maybe("upcast_attention", 0.2, True)
    maybe("resnet_time_scale_shift", 0.3, "scale_shift")
    maybe("resnet_skip_time_act", 0.1, True)
    maybe("resnet_out_scale_factor", 0.1, 2.0)
    maybe("cross_attention_norm", 0.1, "layer_norm", "group_norm")
    maybe("time_embedding_type", 0.2, "fourier", "positional")
    maybe("time_embedding_dim", 0.2, 10, 48)
    maybe("time_embedding_act_fn", 0.2, "silu", "gelu", "mish", "relu")
    maybe("timestep_post_act", 0.2, "silu", "gelu", "mish")
    maybe("time_cond_proj_dim", 0.2, 6, 17)
    maybe("conv_in_kernel", 0.2, 1, 5)
    maybe("conv_out_kernel", 0.2, 1, 5)
    maybe("cross_attention_dim", 0.1, [12] * levels)
    maybe("addition_time_embed_dim", 0.1, 6)
    maybe("projection_class_embeddings_input_dim", 0.2, 40)
    if not isinstance(options["cross_attention_dim"], list):
        if some(random, 0.15):
            options["encoder_hid_dim"] = random.choice([5, 20])
            maybe("encoder_hid_dim_type", 0.5, "text_proj", None)
        if some(random, 0.1):
            width = options.get("encoder_hid_dim") or options["cross_attention_dim"]
            options["addition_embed_type"] = "text"
            options["addition_embed_type_num_heads"] = random.choice([1, width])
    if "addition_embed_type" not in options and some(random, 0.3):
        options["addition_embed_type"] = "text_time"
        options["addition_time_embed_dim"] = random.choice([4, 8, 7])
        options["projection_class_embeddings_input_dim"] = 6 * options["addition_time_embed_dim"] + 9
    classes = random.choice([None] * 3 + [
        "table", "timestep", "identity", "projection", "simple_projection"])
    if classes == "table":
        options["num_class_embeds"] = random.choice([1, 11])
    elif classes:
        options["class_embed_type"] = classes
        if "projection" in classes:
            options.setdefault("projection_class_embeddings_input_dim", 13)
    if classes and "addition_embed_type" not in options:
        maybe("class_embeddings_concat", 0.4, True)
    return options


def cases(random):
    number = 0
    while True:
        number += 1
        options = draw_options(random)
        batch = random.choice([1, 1, 2, 3])
        # Norms over one number are noise, and diffusers refuses some of them.
        fine = options.get("downsample_padding") != 0 and (
            min(options["block_out_channels"]) > options["norm_num_groups"])
        smallest = 1 if fine else 16
        saving = {}
        if some(random, 0.4):
            saving["dtype"] = random.choice(["float16", "bfloat16", "float64"])
        if some(random, 0.2):
            saving["shards"] = "20KB"
        if some(random, 0.2):
            saving["variant"] = "fp16"
        yield f"random_{number}", case(
            options,
            omit=[name for name in ("sample_size", "dropout") if some(random, 0.3)],
            extra=random.choice([{}, {"_diffusers_version": "0.6.0", "someone_elses": 7}]),
            saving=saving, batch=batch, height=random.randint(smallest, smallest + 15),
            width=random.randint(smallest, smallest + 15), tokens=random.choice([1, 5, 77, 130]),
            timestep=[random.choice([0, 1, 500, 999]) + random.choice([0, 0.25])
                      for _ in range(random.choice([1, batch]))],
            scalar_timestep=some(random, 0.3),
            timestep_dtype=random.choice(["int64", "int32", "float32", "float64"]),
            dtype=random.choice(["float32"] * 3 + ["float16", "bfloat16", "float64"]),
            shared_rows=some(random, 0.1), no_timestep_cond=some(random, 0.3),
            seed=random.randint(0, 1 << 30))


def randomise(model, generator):
    """Values of every parameter that keep what passes through at a size of about one."""
    for name, parameter in model.named_parameters():
        noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
        if parameter.dim() > 1:
            noise *= math.sqrt(3 / parameter[0].numel())
        elif name == "time_proj.weight":
            pass
        else:
            noise = noise * 0.1 + (1 if name.endswith("weight") else 0)
        parameter.data.copy_(noise)


def inputs_of(model, config, generator):
    """The tensors that d2g gets, by d2g's names."""
    options, batch = model.config, config["batch"]
    dtype = getattr(torch, config["dtype"])
    rows = 1 if config.get("shared_rows") else batch

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    timestep = torch.tensor(config["timestep"]).to(getattr(torch, config["timestep_dtype"]))
    if config.get("scalar_timestep") and timestep.numel() == 1:
        timestep = timestep[0]
    text = options.encoder_hid_dim or options.cross_attention_dim
    made = {
        "sample": normal(batch, options.in_channels, config["height"], config["width"]),
        "timestep": timestep,
        "encoder_hidden_states": normal(batch, config["tokens"],
                                        text if isinstance(text, int) else text[0]),
    }
    projected = options.projection_class_embeddings_input_dim
    if options.addition_embed_type == "text_time":
        count = config["time_ids"]
        made["added_text_embeds"] = normal(rows, projected - count * options.addition_time_embed_dim)
        made["added_time_ids"] = torch.randint(0, 1025, (rows, count), generator=generator).float()
    kind = options.class_embed_type
    # diffusers cannot join one class with several time embeddings.
    rows = batch if options.class_embeddings_concat else rows
    if kind is None and options.num_class_embeds is not None:
        made["class_labels"] = torch.randint(0, options.num_class_embeds, (rows,),
                                             generator=generator)
    elif kind == "timestep":
        made["class_labels"] = torch.randint(0, 1000, (rows,), generator=generator)
    elif kind is not None:
        width = projected if "projection" in kind else model.time_embedding.linear_2.out_features
        made["class_labels"] = normal(rows, width)
    if options.time_cond_proj_dim and not config.get("no_timestep_cond"):
        made["timestep_cond"] = normal(rows, options.time_cond_proj_dim)
    return made


def reference(model, made):
    def single(name):
        tensor = made.get(name)
        return tensor.float() if tensor is not None and tensor.is_floating_point() else tensor

    added = {}
    if "added_text_embeds" in made:
        added = {"text_embeds": single("added_text_embeds"), "time_ids": made["added_time_ids"]}
    with torch.no_grad():
        return model(single("sample"), made["timestep"], single("encoder_hidden_states"),
                     class_labels=single("class_labels"), timestep_cond=single("timestep_cond"),
                     added_cond_kwargs=added).sample


def save(config, folder):
    """Makes the model folder as users have it."""
    generator = torch.Generator().manual_seed(config["seed"])
    model = UNet2DConditionModel.from_config(config["options"])
    randomise(model, generator)
    saving = config["saving"]
    model.to(getattr(torch, saving.get("dtype", "float32"))).save_pretrained(
        folder, variant=saving.get("variant"), max_shard_size=saving.get("shards", "10GB"))
    written = json.loads((folder / "config.json").read_text())
    written.update(config["options"])
    written.update(config["extra"])
    for name in config["omit"]:
        if name not in config["options"]:
            del written[name]
    (folder / "config.json").write_text(json.dumps(written))
    return generator


def compare(config, folder, d2g):
    generator = save(config, folder / "unet")
    model = UNet2DConditionModel.from_pretrained(
        folder / "unet", variant=config["saving"].get("variant"), torch_dtype=torch.float32,
        low_cpu_mem_usage=False).eval()
    made = inputs_of(model, config, generator)
    theirs = reference(model, made)
    yield "sample", d2g.component(folder, "unet", made, folder)["sample"], theirs, LIMIT
    prepared = d2g.component(folder, "unet", made, folder, "--prepare")["sample"]
    yield "prepared sample", prepared, theirs, LIMIT
