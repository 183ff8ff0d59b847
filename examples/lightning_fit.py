"""Lightning: a small convolutional network learns the direction of stripes."""

import lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 6

torch.manual_seed(0)
label = torch.randint(4, (512,))
across, down = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
angle = label.view(-1, 1, 1, 1) * torch.pi / 4
stripes = (1.5 * (angle.cos() * across + angle.sin() * down) + 6 * torch.rand(512, 1, 1, 1)).sin()
data = TensorDataset(stripes + 0.5 * torch.randn(512, 1, 8, 8), label)
train = DataLoader(data, batch_size=64, shuffle=True)


class Stripes(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(),
            nn.Linear(128, 4),
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


model = Stripes()
trainer = lightning.Trainer(
    max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
)
trainer.fit(model, train)
loss = trainer.callback_metrics["loss"].item()
print(f"{EPOCHS} epochs: loss {loss:.3f}")
