"""CLIP text encoders with random weights: configurations, weight files and ids, for parity.py."""
import json

import torch

LIMIT = 1e-4
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ACTIVATIONS = ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python",
               "relu", "silu", "swish", "mish", "tanh"]


def base(**changes):
    config = {
        "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
        "eos_token_id": 98, "projection_dim": 24}
    return {"seed": 1, "projection": False, "config": dict(config, **changes), "batch": 2,
            "length": 77, "pad": "eos", "file": "fp32", "sharded": False, "prefix": True,
            "position_ids": False, "folder": "text_encoder", "layout": "text", "ids": "int64",
            "drop": []}


NAMED = [
    ("defaults", dict(base(), config={}, drop="all", batch=1)),
    ("legacy_eos", base(eos_token_id=2)),
    ("no_end_token", dict(base(), pad="none")),
    ("one_layer", base(num_hidden_layers=1)),
    ("no_layers", base(num_hidden_layers=0)),
    ("projection", dict(base(hidden_act="gelu"), projection=True, folder="text_encoder_2")),
    ("whole_clip", dict(base(), layout="clip", position_ids=True)),
    ("whole_clip_projection", dict(base(), layout="clip", projection=True)),
    ("unprefixed", dict(base(), prefix=False, position_ids=True)),
    ("sharded_fp16", dict(base(num_hidden_layers=5), sharded=True, file="fp16", projection=True)),
]


def cases(random):
    number = 0
    while True:
        heads = random.choice([1, 2, 3, 4, 8, 12])
        config = {
            "vocab_size": random.choice([7, 50, 1000]),
            "hidden_size": heads * random.choice([8, 13, 24, 64]),
            "intermediate_size": random.choice([1, 17, 64, 200]),
            "num_hidden_layers": random.choice([0, 1, 2, 3, 6, 12]),
            "num_attention_heads": heads,
            "max_position_embeddings": random.choice([4, 77, 77, 130]),
            "hidden_act": random.choice(["quick_gelu", "gelu", *ACTIVATIONS]),
            "layer_norm_eps": random.choice([1e-5, 1e-5, 1e-12, 1e-3]),
            "attention_dropout": random.choice([0.0, 0.5]),
            "projection_dim": random.choice([1, 20, 64]),
        }
        config["eos_token_id"] = random.choice([2, config["vocab_size"] - 1, 5, 49407])
        yield f"text_{number}", {
            "seed": random.randrange(1 << 30), "projection": random.random() < 0.5,
            "config": config, "batch": random.choice([1, 2, 5]),
            "length": random.randrange(1, config["max_position_embeddings"] + 1),
            "pad": random.choice(["eos", "zero", "none"]), "file": random.choice(list(DTYPES)),
            "sharded": random.random() < 0.3, "prefix": random.random() < 0.8,
            "position_ids": random.random() < 0.3,
            "folder": random.choice(["text_encoder", "text_encoder_2"]),
            "layout": random.choice(["text", "text", "text", "clip"]),
            "ids": random.choice(["int64", "int32", "float"]),
            # Options that the file lacks, where the default is what they are anyway.
            "drop": random.sample(["model_type", "architectures", "dtype"], random.randrange(3))}
        number += 1


def randomise(model, generator):
    """Weights large enough that every layer shows in the output."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name and name.endswith("weight"):
                parameter.normal_(1, 0.2, generator=generator)
            elif parameter.dim() > 1:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)
            else:
                parameter.normal_(0, 0.3, generator=generator)


def token_ids(case, config, generator):
    ids = torch.randint(0, config.vocab_size, (case["batch"], case["length"]), generator=generator)
    end = config.eos_token_id if 0 <= config.eos_token_id < config.vocab_size else -1
    if end >= 0 and case["pad"] == "none":
        ids[ids == end] = 0
    if end >= 0 and case["pad"] != "none":
        for row in ids:
            stop = int(torch.randint(0, case["length"], (1,), generator=generator))
            row[stop] = end
            row[stop + 1:] = end if case["pad"] == "eos" else 0
    return ids


def compare(case, folder, d2g):
    from safetensors.torch import load_file, save_file
    from transformers import (CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel,
                              CLIPTextModelWithProjection)
    generator = torch.Generator().manual_seed(case["seed"])
    kind = CLIPTextModelWithProjection if case["projection"] else CLIPTextModel
    target = folder / case["folder"]
    if case["layout"] == "clip":
        text = CLIPTextConfig(**case["config"])
        whole = CLIPConfig(text_config=text.to_dict(), projection_dim=text.projection_dim,
                           vision_config={"hidden_size": 8, "intermediate_size": 8,
                                          "num_hidden_layers": 1, "num_attention_heads": 2,
                                          "image_size": 8, "patch_size": 4})
        model = CLIPModel(whole)
    else:
        model = kind(CLIPTextConfig(**case["config"]))
    randomise(model, generator)
    model.to(DTYPES[case["file"]]).save_pretrained(
        target, max_shard_size="30KB" if case["sharded"] else "5GB")

    single = target / "model.safetensors"
    if single.exists() and (not case["prefix"] or case["position_ids"]):
        weights = load_file(single)
        if case["position_ids"]:
            count = model.config.to_dict().get("max_position_embeddings", 77)
            weights["text_model.embeddings.position_ids"] = torch.arange(count)[None]
        if not case["prefix"] and case["layout"] == "text":
            save_file({name.removeprefix("text_model."): tensor for name, tensor in weights.items()},
                      target / "unprefixed.safetensors")
        save_file(weights, single, metadata={"format": "pt"})
    path = target / "config.json"
    config = json.loads(path.read_text())
    if case["drop"] == "all":
        config = {}
    for name in case["drop"] if case["drop"] != "all" else []:
        config.pop(name, None)
    path.write_text(json.dumps(config))

    reference = kind.from_pretrained(target, torch_dtype=torch.float32).eval()
    ids = token_ids(case, reference.config, generator)
    with torch.no_grad():
        theirs = reference(ids, output_hidden_states=True)
        # transformers 5 has the network itself where 4 has a module around it.
        pooled = getattr(reference, "text_model", reference)(ids).pooler_output
    # What transformers cannot read under these names, d2g can.
    unprefixed = target / "unprefixed.safetensors"
    if unprefixed.exists():
        unprefixed.replace(single)
    ours = d2g.component(folder, case["folder"],
                         {"input_ids": ids.to(getattr(torch, case["ids"]))}, folder)
    yield "last_hidden_state", ours["last_hidden_state"], theirs.last_hidden_state, LIMIT
    yield "pooled_output", ours["pooled_output"], pooled, LIMIT
    if len(theirs.hidden_states) > 1:
        yield ("penultimate_hidden_state", ours["penultimate_hidden_state"],
               theirs.hidden_states[-2], LIMIT)
    else:
        assert "penultimate_hidden_state" not in ours
    if case["projection"]:
        yield "text_embeds", ours["text_embeds"], theirs.text_embeds, LIMIT
    elif case["layout"] == "text":
        assert "text_embeds" not in ours
