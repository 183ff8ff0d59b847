"""A plain PyTorch loop: a small network learns to tell two spirals apart."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from grafs_timm import ActivationSearch

EPOCHS = 12

torch.manual_seed(0)
radius, label = torch.rand(1024, 1), torch.randint(2, (1024,))
angle = 6 * radius + math.pi * label[:, None]
points = radius * torch.cat([angle.cos(), angle.sin()], dim=1) + 0.02 * torch.randn(1024, 2)
data = TensorDataset(points, label)
train, architecture = (DataLoader(half, batch_size=128, shuffle=True) for half in random_split(data, [0.5, 0.5]))

model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
search = ActivationSearch(model, 8, train_on=True)

for epoch in range(EPOCHS):
    for (x, y), (x_arch, y_arch) in zip(train, architecture):
        search.architecture_step(lambda: F.cross_entropy(model(x_arch), y_arch))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    search.end_epoch()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
print(search.genotype().text)
