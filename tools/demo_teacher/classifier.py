"""Trains a SequentialNet to tell the ten classes apart."""
import torch
from torch.nn import functional as F

from .workspace import Log, share_of


def accuracy(net, inputs, labels, batch=250):
    with torch.no_grad():
        hits = sum((net(inputs[i:i + batch]).argmax(1) == labels[i:i + batch]).sum().item()
                   for i in range(0, len(inputs), batch))
    return hits / len(inputs)


def train_classifier(net, batch_of, count, labels, epochs, name, lr=4e-3, batch=128, smoothing=0.0):
    """batch_of(indices) gives the network's input. One-cycle AdamW; returns the net in eval mode."""
    log = Log(name)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    per_epoch = share_of(count // batch)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * per_epoch, pct_start=0.2)
    for epoch in range(epochs):
        order, running = torch.randperm(count), 0.0
        for step in range(per_epoch):
            indices = order[step * batch:(step + 1) * batch]
            loss = F.cross_entropy(net(batch_of(indices)), labels[indices], label_smoothing=smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            cycle.step()
            running = 0.98 * running + 0.02 * loss.item()
            if step % 100 == 0:
                log(f"epoch {epoch} step {step}/{per_epoch} loss {running:.4f}")
    return net.eval().requires_grad_(False)
