"""timm's train.py in short: its models, transforms, optimiser and schedule, with automatic mixed precision.

The images are random, so that it runs anywhere: put a data set of yours in their place.
"""

from functools import partial

import torch
from timm import create_model
from timm.data import create_transform
from timm.models import model_parameters
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, dispatch_clip_grad
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import FakeData

from grafs_timm import ActivationSearch

EPOCHS = 6

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
amp_autocast = partial(torch.autocast, device_type=device.type, dtype=torch.bfloat16)
data = FakeData(size=64, image_size=(3, 32, 32), transform=create_transform((3, 32, 32), is_training=True))
loader, architecture_loader = (DataLoader(half, batch_size=16, shuffle=True) for half in random_split(data, [0.5, 0.5]))

model = create_model("test_resnet", num_classes=10).to(device)
search = ActivationSearch(model, 4, train_on=True)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
lr_scheduler, num_epochs = create_scheduler_v2(
    optimizer, sched="cosine", num_epochs=EPOCHS, warmup_epochs=1, updates_per_epoch=len(loader)
)
loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)


def train_one_epoch(epoch: int) -> float:
    losses = AverageMeter()
    model.train()
    for index, ((input, target), (x, y)) in enumerate(zip(loader, architecture_loader)):
        input, target, x, y = input.to(device), target.to(device), x.to(device), y.to(device)
        with amp_autocast():
            search.architecture_step(lambda: loss_fn(model(x), y))
            loss = loss_fn(model(input), target)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model_parameters(model), value=1.0)
        optimizer.step()
        losses.update(loss.item(), input.size(0))
        lr_scheduler.step_update(num_updates=epoch * len(loader) + index + 1)
    return losses.avg


for epoch in range(num_epochs):
    loss = train_one_epoch(epoch)
    lr_scheduler.step(epoch + 1)
    search.end_epoch()
    print(f"epoch {epoch}: loss {loss:.3f}")
print(search.genotype().text)
