"""The peer's half of model_bench.py: diffusers doing the same pieces of work.

It answers the same lines as model_bench.cc does; a line's second word names how diffusers is set
up: plain, or any of channels_last, fused_qkv and compiled joined by "+".
"""
import argparse
import re
import sys
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

TIMESTEP = 500


def peak_bytes():
    """The largest resident size since exec."""
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read())[1])


class Peer:
    def __init__(self, options):
        self.options = options
        self.unet = self.vae = self.text_encoder = None
        self.dtype = {"fp32": torch.float32, "fp16": torch.float16,
                      "bf16": torch.bfloat16}[options.dtype]
        if options.work == "decode":
            self.vae = AutoencoderKL.from_pretrained(options.model, subfolder="vae").eval()
        elif options.work == "encode":
            self.text_encoder = CLIPTextModel.from_pretrained(
                options.model, subfolder="text_encoder").eval()
        else:
            self.unet = UNet2DConditionModel.from_pretrained(options.model, subfolder="unet").eval()
        self.scheduler = DDIMScheduler.from_pretrained(options.model, subfolder="scheduler")
        vae = AutoencoderKL.load_config(options.model, subfolder="vae")
        self.vae_scale = 2 ** (len(vae["block_out_channels"]) - 1)
        self.network = self.unet or self.vae or self.text_encoder
        self.network.to(options.device, self.dtype)
        self.called = self.network
        self.variant = "plain"

    def set_up(self, variant):
        if variant == self.variant:
            return
        before, chosen = self.variant.split("+"), variant.split("+")
        self.variant = variant
        self.network.to(memory_format=torch.channels_last if "channels_last" in chosen
                        else torch.contiguous_format)
        if "fused_qkv" in before and "fused_qkv" not in chosen:
            self.unet.unfuse_qkv_projections()
        elif "fused_qkv" in chosen and "fused_qkv" not in before:
            self.unet.fuse_qkv_projections()
        self.called = torch.compile(self.network) if "compiled" in chosen else self.network

    def solve(self, given):
        """What StableDiffusionPipeline runs between prompts and pictures."""
        guided = self.options.guidance > 1
        hidden = given["cond"]
        if guided:
            hidden = torch.cat([given["uncond"].expand_as(hidden), hidden])
        added = None
        if "pooled" in given:  # XL: sizes, crop and sizes again
            pooled = given["pooled"]
            if guided:
                pooled = torch.cat([given["pooled_uncond"].expand_as(pooled), pooled])
            height, width = (self.vae_scale * side for side in given["noise"].shape[2:])
            ids = torch.tensor([height, width, 0, 0, height, width], device=pooled.device,
                               dtype=self.dtype)
            added = {"text_embeds": pooled, "time_ids": ids.repeat(len(pooled), 1)}
        z = given["noise"] * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(self.options.steps, device=self.options.device)
        for timestep in self.scheduler.timesteps:
            output = self.called(torch.cat([z, z]) if guided else z, timestep, hidden,
                                 added_cond_kwargs=added, return_dict=False)[0]
            if guided:
                u, c = output.chunk(2)
                output = u + self.options.guidance * (c - u)
            z = self.scheduler.step(output, timestep, z, return_dict=False)[0]
        return z

    def work(self, given):
        match self.options.work:
            case "evaluate":
                return self.called(given["sample"], TIMESTEP, given["hidden"]).sample
            case "solve":
                return self.solve(given)
            case "decode":
                latents = given["latents"] / self.vae.config.scaling_factor
                decoded = (self.vae.decode if self.called is self.network
                           else torch.compile(self.vae.decode))(latents)
                return decoded.sample.clamp(-1, 1)
            case "encode":
                return self.called(given["input_ids"]).last_hidden_state
        output = self.called(given["sample"], TIMESTEP, given["hidden"]).sample
        output.square().mean().backward()
        return output.detach()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--outputs", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)

    started = time.perf_counter()
    peer = Peer(options)
    print(time.perf_counter() - started, peak_bytes(), flush=True)
    given = {name: tensor.to(options.device, peer.dtype if tensor.is_floating_point() else None)
             for name, tensor in load_file(options.inputs).items()}
    if options.work == "train":
        peer.network.train()
    result = None
    with torch.inference_mode(options.work != "train"):
        for line in sys.stdin:
            count, variant = line.split()
            peer.set_up(variant)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(int(count)):
                result = peer.work(given)
            result = result.cpu()  # A GPU's work has then ended.
            print((time.perf_counter() - wall) / int(count),
                  (time.process_time() - cpu) / int(count), flush=True)
    if result is not None:
        save_file({"result": result.contiguous()}, options.outputs)


if __name__ == "__main__":
    main()
