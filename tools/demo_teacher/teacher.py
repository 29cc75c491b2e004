"""The teacher: a UNet2DConditionModel and its text encoder, trained together on v-prediction."""
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from . import captions, latents, text
from .workspace import Log, cosine, save_atomically, share_of, start, work_path

SEED = 5005
CONFIG = dict(sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(48, 96),
              down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
              up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=text.WIDTH,
              attention_head_dim=4, norm_num_groups=8, flip_sin_to_cos=True, freq_shift=0)
STEPS = 6000
BATCH, RATE, DROPOUT, EMA, SAVE_EVERY = 64, 1.2e-3, 0.1, 0.9995, 200
EMPTY = 480  # the place of the empty prompt, after the 480 prompts


def build_unet():
    return UNet2DConditionModel(**CONFIG)


def scheduler():
    return DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False,
                         set_alpha_to_one=True, steps_offset=1)


class Teacher(nn.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.unet, self.text_encoder = build_unet(), text.build_encoder(tokenizer)

    def forward(self, x, t, token_ids):
        return self.unet(x, t, encoder_hidden_states=self.text_encoder(token_ids).last_hidden_state).sample


class MovingAverage:
    """An exponential moving average of parameters, with a warm-up so that early snapshots are usable."""

    def __init__(self, module):
        self.values, self.count = [p.detach().clone() for p in module.parameters()], 0

    @torch.no_grad()
    def update(self, module):
        self.count += 1
        keep = min(EMA, (1 + self.count) / (20 + self.count))
        torch._foreach_lerp_(self.values, [p.detach() for p in module.parameters()], 1 - keep)

    @torch.no_grad()
    def copy_to(self, module):
        for parameter, value in zip(module.parameters(), self.values):
            parameter.copy_(value)


def train():
    if work_path("teacher.pt").exists():
        return
    start(SEED)
    steps = share_of(STEPS)
    log, checkpoint = Log("teacher"), work_path("teacher.ckpt")
    data, tok = latents.load(), text.tokenizer()
    token_ids = text.encode(tok, captions.prompts() + [""])
    alphas = scheduler().alphas_cumprod
    model, step = Teacher(tok), 0
    average = MovingAverage(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.values, average.count, step = state["average"], state["count"], state["step"]
        log(f"resumed at {step}")
    running = 0.0
    while step < steps:
        torch.manual_seed(SEED * 100000 + step)
        for group in optimiser.param_groups:
            group["lr"] = RATE * cosine(step, steps, 200, 0.02)
        i = torch.randint(len(data["latents"]), (BATCH,))
        prompt = captions.random_caption_indices(data["brightness"][i], data["size"][i], data["labels"][i])
        prompt = torch.where(torch.rand(BATCH) < DROPOUT, EMPTY, prompt)
        t = ((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH * 1000).long()  # stratified
        a = alphas[t].view(-1, 1, 1, 1)
        x0, noise = data["latents"][i], torch.randn(BATCH, 4, 8, 8)
        loss = (model(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, token_ids[prompt])
                - (a.sqrt() * noise - (1 - a).sqrt() * x0)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update(model)
        step += 1
        running += 0.01 * (loss.item() - running) if running else loss.item()
        if step % 100 == 0:
            log(f"step {step}/{steps} loss {running:.4f}")
        if step % SAVE_EVERY == 0:
            save_atomically({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
                             "average": average.values, "count": average.count}, checkpoint)
    average.copy_to(model)
    save_atomically(model.state_dict(), work_path("teacher.pt"))


def load():
    """The finished teacher, or the average of an unfinished one."""
    model = Teacher(text.tokenizer())
    if work_path("teacher.pt").exists():
        model.load_state_dict(torch.load(work_path("teacher.pt")))
    else:
        average = MovingAverage(model)
        average.values = torch.load(work_path("teacher.ckpt"))["average"]
        average.copy_to(model)
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    train()
