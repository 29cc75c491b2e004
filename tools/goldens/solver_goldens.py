"""Random scheduler files, and what diffusers' solvers make of a stand-in for a network."""
import json
import random
import warnings

import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       HeunDiscreteScheduler)
from diffusers.utils import logging
from safetensors.torch import save_file

CLASSES = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler,
           "dpmpp_2m": DPMSolverMultistepScheduler, "heun": HeunDiscreteScheduler}
# Files are written by one class and read by another.
WRITERS = [c.__name__ for c in CLASSES.values()] + [
    "PNDMScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler", "DDPMScheduler"]
SD_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CASES = 240


def draw_file(draw, kind):
    """The contents of a scheduler_config.json that `kind` can run; some keys are missing."""
    total = draw.choice([1000, 1000, 1000, 1000, 400, 100, 77])
    file = {"_class_name": draw.choice(WRITERS), "_diffusers_version": "0.35.2"}
    if total != 1000 or draw.random() < 0.7:
        file["num_train_timesteps"] = total

    def maybe(share, key, *values):
        if draw.random() < share:
            file[key] = draw.choice(values)

    betas = draw.random()
    if betas < 0.5:
        file.update(SD_BETAS)
    elif betas < 0.8:
        maybe(0.8, "beta_start", 0.0001, 0.0005)
        maybe(0.8, "beta_end", 0.02, 0.015)
        schedules = ["linear", "scaled_linear", "squaredcos_cap_v2"]
        maybe(0.8, "beta_schedule", *schedules + (["exp"] if kind == "heun" else []))
    elif betas < 0.9:
        file["trained_betas"] = [1e-4 * (1 + 40 * i / total) for i in range(total)]
    maybe(0.2, "trained_betas", None) if "trained_betas" not in file else None
    maybe(0.8, "prediction_type", "epsilon", "v_prediction", "sample")
    maybe(0.7, "timestep_spacing", "leading", "trailing", "linspace")
    maybe(0.5, "steps_offset", 0, 1, 1, 2)
    maybe(0.5, "clip_sample", True, False, False, None)
    maybe(0.3, "clip_sample_range", 1.0, 0.7, 2.5)
    maybe(0.25, "thresholding", True, False)
    maybe(0.3, "dynamic_thresholding_ratio", 0.9, 0.995, 0.5)
    maybe(0.3, "sample_max_value", 1.0, 1.5, 0.8, 4)
    maybe(0.5, "set_alpha_to_one", True, False)
    maybe(0.4, "rescale_betas_zero_snr", True, False)
    rule = draw.choice([None, None, "use_karras_sigmas", "use_exponential_sigmas",
                        "use_lu_lambdas"])
    if rule:
        file[rule] = True
    else:
        maybe(0.3, "use_karras_sigmas", False)
    maybe(0.15, "sigma_min", None, 0.02, 0.1)
    maybe(0.15, "sigma_max", None, 10.0, 20)
    maybe(0.2, "interpolation_type", "linear", "log_linear")
    maybe(0.2, "timestep_type", "discrete", "continuous")
    maybe(0.3, "final_sigmas_type", "zero", "sigma_min")
    maybe(0.4, "solver_order", 1, 2, 3)
    maybe(0.3, "algorithm_type", "dpmsolver++", "dpmsolver")
    maybe(0.4, "solver_type", "midpoint", "heun", "bh2")
    maybe(0.4, "lower_order_final", True, False)
    maybe(0.3, "euler_at_final", True, False)
    maybe(0.3, "lambda_min_clipped", float("-inf"), -5.1)
    maybe(0.2, "variance_type", "fixed_small", None)
    maybe(0.2, "skip_prk_steps", True)
    return file


def make(kind, file, steps):
    """The scheduler as a user of diffusers makes it; None where it cannot run these steps."""
    try:
        scheduler = CLASSES[kind].from_config(json.loads(json.dumps(file)))
        scheduler.set_timesteps(steps)
    except (ValueError, TypeError, IndexError):
        return None
    timesteps = scheduler.timesteps
    if kind == "ddim" and (len(timesteps) != steps or timesteps.max() >= len(scheduler)):
        return None
    # Found by its value, the first of two equal timesteps would be skipped.
    return scheduler if (timesteps == timesteps[0]).sum() == 1 else None


def network(z, timestep):
    """Stands for a network; the C++ test has the same line."""
    return torch.tanh(0.7 * z + 0.2) + 0.0003 * timestep


def run(scheduler, noise):
    z = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(z, timestep), timestep.item())
        z = scheduler.step(output, timestep, z, return_dict=False)[0]
    return z


def write(out):
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    draw = random.Random(20)
    noise = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    cases, tensors = [], {"noise": noise}
    while len(cases) < CASES:
        kind = draw.choice(list(CLASSES))
        file, steps = draw_file(draw, kind), draw.choice([1, 2, 3, 5, 8, 14, 15, 20, 29, 50])
        scheduler = make(kind, file, steps)
        if scheduler is None:
            continue
        latents = run(scheduler, noise)
        if not latents.isfinite().all():
            continue
        tensors[f"latents.{len(cases)}"] = latents.contiguous()
        tensors[f"timesteps.{len(cases)}"] = scheduler.timesteps.double()
        cases.append({"kind": kind, "file": json.dumps(file), "steps": steps,
                      "init_noise_sigma": float(scheduler.init_noise_sigma)})
    out.mkdir(parents=True)
    (out / "golden.json").write_text(json.dumps(cases))
    save_file(tensors, out / "golden.safetensors")
