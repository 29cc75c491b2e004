"""d2g beside diffusers: the same weights, inputs, machine and number of threads, by turns.

    ./run bench model [--threads N] [--repeats N] [--only TEXT] [--sd15] [--compile]
    ./run bench model --kernels [--sd15] [--only TEXT]        # each kernel: kernel_table.py
    D2G_CUDA=1 ./run bench model --device cuda [--dtype fp16] [--sd15] [--sdxl] [--compile]

Prints a Markdown table: for each piece of work the median and the best time of both, and how many
times faster d2g is (the ratio of the medians). diffusers is given what helps it: a warm process,
inference mode, both guidance halves in one batch, texts encoded before, flushed denormals, and the
quickest of four settings (channels last or not, fused query/key/value or not), found before the
measurement. Both are bound to the same processors. `difference` is max|a - b| / max|b| of the two
results. --sd15 adds networks of the size of Stable Diffusion 1.5 with random weights (minutes,
10 GB of memory and 4 GB of disk); --compile adds what torch.compile makes of diffusers. On a GPU
the rows are trajectories: of the demo's teacher and, by batches of 1 and 16 with guidance, of
networks of the size of Stable Diffusion 1.5 (512 px) and XL (1024 px).
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import kernel_table

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo" / "teacher"
VARIANTS = kernel_table.VARIANTS
# One turn of a quick piece of work repeats it for about so long.
TURN_SECONDS = 0.3


class Half:
    """One of the two programs at work on one case."""

    def __init__(self, command, arguments, environment):
        self.process = subprocess.Popen([*map(str, command), *map(str, arguments)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=environment)
        self.load_seconds, self.peak_bytes = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return [float(word) for word in line.split()]

    def run(self, count, variant="plain"):
        """Wall and CPU seconds of one piece of work."""
        self.process.stdin.write(f"{count} {variant}\n")
        self.process.stdin.flush()
        return self.answer()

    def compare(self):
        """CPU seconds by kernel and form; ours alone can tell."""
        self.process.stdin.write("1 compare\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        if self.process.wait() != 0:
            sys.exit(f"{self.process.args[0]} ended with {self.process.returncode}")


class Bench:
    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads),
                                MKL_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1")
        self.rows = []

    def halves(self, work, model, tensors, steps, guidance):
        from safetensors.torch import save_file
        save_file(tensors, self.folder / "in.safetensors")
        common = ["--work", work, "--model", model, "--inputs", self.folder / "in.safetensors",
                  "--threads", self.options.threads, "--steps", steps, "--guidance", guidance,
                  "--device", self.options.device, "--dtype", self.options.dtype]
        ours = ([self.options.bin / "model_bench"], [*common, "--outputs", self.folder / "ours"])
        peer = ([sys.executable, ROOT / "bench" / "model_bench_peer.py"],
                [*common, "--outputs", self.folder / "peer"])
        return ours, peer

    def difference(self):
        from safetensors.torch import load_file
        ours, theirs = (load_file(self.folder / name)["result"].double() for name in ("ours", "peer"))
        return float((ours - theirs).abs().max() / theirs.abs().max())

    def row(self, name, unit, scale, ours, peer, note):
        """ours, peer: (wall, CPU) seconds of each turn. A rate's unit ends in /s."""
        def show(seconds):
            return f"{scale / seconds if unit.endswith('/s') else scale * seconds:.3g}"

        def cell(times):
            walls, cpus = zip(*times)
            return (f"{show(statistics.median(walls))} {unit} (best {show(min(walls))}, "
                    f"CPU {show(statistics.median(cpus))})")
        ratio = statistics.median(t[0] for t in peer) / statistics.median(t[0] for t in ours)
        line = f"| {name} | {cell(ours)} | {cell(peer)} | {ratio:.2f} | {note} |"
        print(line, flush=True)
        self.rows.append({"name": name, "ratio": ratio, "ours": ours, "peer": peer})

    def case(self, name, work, tensors, unit, scale, model=DEMO, steps=50, guidance=3.0):
        """By turns, both processes alive."""
        if self.options.only not in name:
            return
        (ours_command, ours_arguments), (peer_command, peer_arguments) = self.halves(
            work, model, tensors, steps, guidance)
        ours = Half(ours_command, ours_arguments, self.environment)
        peer = Half(peer_command, peer_arguments, self.environment)
        ours.run(1)
        tried = {}
        for variant in VARIANTS if work in ("evaluate", "solve") else VARIANTS[:2]:
            peer.run(1, variant)
            tried[variant] = min(peer.run(1, variant)[0] for _ in range(3))
        best = min(tried, key=tried.get)
        ours_count = max(1, round(TURN_SECONDS / ours.run(3)[0]))
        peer_count = max(1, round(TURN_SECONDS / tried[best]))
        times = [], []
        for _ in range(self.options.repeats):
            times[0].append(ours.run(ours_count))
            times[1].append(peer.run(peer_count, best))
        compiled = []
        if self.options.compile and work == "solve":
            peer.run(1, best + "+compiled")
            compiled = [peer.run(peer_count, best + "+compiled")
                        for _ in range(self.options.repeats)]
        ours.end()
        peer.end()
        self.row(name, unit, scale, *times, f"{best}, difference {self.difference():.1e}")
        if compiled:
            self.row(f"{name}, torch.compile", unit, scale, times[0], compiled, best)

    def trajectories(self):
        import torch
        torch.manual_seed(0)
        for batch in (1, 64):
            self.case(f"demo trajectories, batch {batch}", "solve", {
                "noise": torch.randn(batch, 4, 8, 8), "cond": torch.randn(batch, 16, 96),
                "uncond": torch.randn(1, 16, 96)}, "/s", batch)

    def demo(self):
        import torch
        self.trajectories()
        for batch in (1, 64):
            self.case(f"demo U-Net, batch {batch}", "evaluate", {
                "sample": torch.randn(batch, 4, 8, 8), "hidden": torch.randn(batch, 16, 96)},
                "ms", 1e3)
        self.case("demo U-Net, forward and backward, batch 32", "train", {
            "sample": torch.randn(32, 4, 8, 8), "hidden": torch.randn(32, 16, 96)}, "ms", 1e3)
        self.case("demo decoder, batch 32", "decode", {"latents": torch.randn(32, 4, 8, 8)}, "ms",
                  1e3)
        self.case("demo text encoder, batch 32", "encode", {
            "input_ids": torch.randint(0, 590, (32, 16))}, "ms", 1e3)

    def kernels(self):
        """Each kernel of ours beside a library's, at the sizes that count."""
        import torch
        sizes = [(f"demo, batch {batch}", DEMO, batch, 8, (16, 96)) for batch in (1, 64)]
        if self.options.sd15:
            sizes.append(("SD 1.5 size", None, 1, 64, (77, 768)))
        for name, model, batch, side, text in sizes:
            if self.options.only not in name:
                continue
            large = model is None
            torch.manual_seed(0)
            ours, peer = self.halves(
                "evaluate", model or make_sd15(self.folder / "sd15")[0],
                {"sample": torch.randn(batch, 4, side, side), "hidden": torch.randn(batch, *text)},
                1, 1)
            kernel_table.compare(name, Half(*ours, self.environment),
                                 lambda: Half(*peer, self.environment),
                                 2 if large else self.options.repeats, large)

    def gpu(self):
        import torch
        self.trajectories()
        for wanted, name, make, side, width, pooled in (
                (self.options.sd15, "SD 1.5 size, 512 px", make_sd15, 64, 768, None),
                (self.options.sdxl, "SDXL size, 1024 px", make_sdxl, 128, 2048, 1280)):
            if not wanted:
                continue
            model, _ = make(self.folder / name.replace(" ", "-"))
            # A small network records a CUDA graph once a trajectory: enough steps at batch 1 for that.
            for batch, steps in ((1, 50), (16, 10)):
                tensors = {"noise": torch.randn(batch, 4, side, side),
                           "cond": torch.randn(batch, 77, width), "uncond": torch.randn(1, 77, width)}
                if pooled:
                    tensors |= {"pooled": torch.randn(batch, pooled),
                                "pooled_uncond": torch.randn(1, pooled)}
                self.case(f"{name}, {self.options.dtype}, batch {batch}", "solve", tensors, "steps/s",
                          steps * batch, model=model, steps=steps, guidance=7.5)

    def program(self, command):
        started, before = time.perf_counter(), os.times()
        done = subprocess.run([*map(str, command)], env=self.environment, capture_output=True,
                              text=True)
        wall, after = time.perf_counter() - started, os.times()
        if done.returncode != 0:
            sys.exit(f"{command[0]} ended with {done.returncode}: {done.stderr}")
        return wall, (after.children_user - before.children_user
                      + after.children_system - before.children_system)

    def cold(self):
        """Whole processes, from exec to exit."""
        d2g = self.options.bin / "d2g"
        if not d2g.exists():
            d2g = self.options.bin / "d2g-model"
        if self.options.only in "d2g generate, cold process to PNG":
            ours = [d2g, "generate", "--model", DEMO, "--prompt", "a", "--steps", 1, "--guidance", 1,
                    "--threads", self.options.threads, "--out", self.folder / "ours.png"]
            peer = [sys.executable, ROOT / "bench" / "cold_generate.py", DEMO,
                    self.folder / "peer.png", self.options.threads]
            self.program(ours), self.program(peer)
            times = [], []
            for _ in range(self.options.repeats):
                times[0].append(self.program(ours))
                times[1].append(self.program(peer))
            self.row("d2g generate, cold process to PNG", "s", 1, *times, "one step, demo size")
        if self.options.only in "d2g --help":
            self.program([d2g, "--help"])
            helps = sorted(self.program([d2g, "--help"])[0] for _ in range(20))
            print(f"| d2g --help | {1e3 * helps[10]:.1f} ms (best {1e3 * helps[0]:.1f}) | | | |",
                  flush=True)

    def sd15(self):
        """One program after the other: two of this size need not fit."""
        import torch
        model, weights = make_sd15(self.folder / "sd15")
        tensors = {"noise": torch.randn(1, 4, 64, 64), "cond": torch.randn(1, 77, 768),
                   "uncond": torch.randn(1, 77, 768)}
        for guidance in (1.0, 7.5):
            name = f"SD 1.5 size, 512 px, two steps, guidance {guidance:g}"
            if self.options.only not in name:
                continue
            ours, peer = self.halves("solve", model, tensors, 2, guidance)
            half = Half(*ours, self.environment)
            half.run(1)
            ours_times = [half.run(1) for _ in range(2)]
            peak, load = half.peak_bytes, half.load_seconds
            half.end()
            half = Half(*peer, self.environment)
            tried = {variant: half.run(1, variant) for variant in VARIANTS}
            best = min(tried, key=lambda variant: tried[variant][0])
            peer_times = [half.run(1, best) for _ in range(2)]
            half.end()
            self.row(name, "s/step", 0.5, ours_times, peer_times,
                     f"{best}, difference {self.difference():.1e}")
            print(f"| SD 1.5 size, load | {load:.2f} s, peak {peak / weights:.3f} of the weights | "
                  f"{half.load_seconds:.2f} s, peak {half.peak_bytes / weights:.3f} | | "
                  f"weights {weights / 1e9:.2f} GB |", flush=True)


def make_sd15(folder):
    """A folder with the U-Net of Stable Diffusion 1.5; returns it and its weights' bytes."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    shutil.copytree(DEMO, folder)
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "text_encoder")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet.save_pretrained(folder / "unet", max_shard_size="100GB")
    text = json.loads((DEMO / "text_encoder" / "config.json").read_text())
    CLIPTextModel(CLIPTextConfig(**{**text, "hidden_size": 768, "max_position_embeddings": 77})
                  ).save_pretrained(folder / "text_encoder")
    return folder, sum(4 * p.numel() for p in unet.parameters())


def make_sdxl(folder, channels=(320, 640, 1280), depth=(1, 2, 10)):
    """A folder with the U-Net of Stable Diffusion XL; returns it and its weights' bytes."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(DEMO, subfolder="tokenizer")
    tokenizer.model_max_length = 77
    # The texts are encoded before: encoders of the right widths and little depth do.
    small = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "intermediate_size": 64,
             "max_position_embeddings": 77, "eos_token_id": tokenizer.eos_token_id}
    unet = UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
        block_out_channels=channels, transformer_layers_per_block=depth, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816)
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(DEMO, subfolder="vae"), unet=unet,
        scheduler=DDIMScheduler.from_pretrained(DEMO, subfolder="scheduler"),
        text_encoder=CLIPTextModel(CLIPTextConfig(
            hidden_size=768, num_attention_heads=12, projection_dim=768, **small)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(
            hidden_size=1280, num_attention_heads=20, projection_dim=1280, **small)),
        tokenizer=tokenizer, tokenizer_2=tokenizer)
    pipeline.save_pretrained(folder, max_shard_size="100GB")
    return folder, sum(4 * p.numel() for p in unet.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the rows of a GPU")
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], help="fp32; fp16 on a GPU")
    parser.add_argument("--sd15", action="store_true")
    parser.add_argument("--sdxl", action="store_true", help="only on a GPU")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--kernels", action="store_true",
                        help="instead: what each kernel of the CPU pays over a library's")
    parser.add_argument("--json", type=pathlib.Path, help="write every time to this file")
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    if options.kernels and (on_gpu or options.threads != 1):
        parser.error("--kernels is for one thread of a CPU")
    options.dtype = options.dtype or ("fp16" if on_gpu else "fp32")
    if not on_gpu and (options.sdxl or options.dtype != "fp32"):
        parser.error("--sdxl and --dtype need --device cuda")
    if on_gpu:
        import torch
        if not torch.cuda.is_available():
            sys.exit(f"--device {options.device}: this machine has no GPU that PyTorch can use")
        print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")

    processors = sorted(os.sched_getaffinity(0))
    if options.threads > len(processors):
        sys.exit(f"--threads {options.threads}: this machine has {len(processors)} processors")
    os.sched_setaffinity(0, processors[-options.threads:])
    if options.kernels:
        with tempfile.TemporaryDirectory() as temporary:
            Bench(options, pathlib.Path(temporary)).kernels()
        return
    print("| work | d2g | diffusers | times faster | diffusers' setting, agreement |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options, pathlib.Path(temporary))
        if on_gpu:
            bench.gpu()
        else:
            bench.demo()
            bench.cold()
            if options.sd15:
                bench.sd15()
    if options.json:
        options.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
