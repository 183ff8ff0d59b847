"""A plain PyTorch loop: a small network learns to tell two spirals apart."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 12

torch.manual_seed(0)
radius, label = torch.rand(1024, 1), torch.randint(2, (1024,))
angle = 6 * radius + math.pi * label[:, None]
points = radius * torch.cat([angle.cos(), angle.sin()], dim=1) + 0.02 * torch.randn(1024, 2)
data = TensorDataset(points, label)
train = DataLoader(data, batch_size=128, shuffle=True)

model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

for epoch in range(EPOCHS):
    for x, y in train:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
