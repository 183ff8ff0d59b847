"""Lightning: a small convolutional network learns the direction of stripes."""

import lightning
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from grafs_timm import ActivationSearch

EPOCHS = 6

torch.manual_seed(0)
label = torch.randint(4, (512,))
across, down = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
angle = label.view(-1, 1, 1, 1) * torch.pi / 4
stripes = (1.5 * (angle.cos() * across + angle.sin() * down) + 6 * torch.rand(512, 1, 1, 1)).sin()
data = TensorDataset(stripes + 0.5 * torch.randn(512, 1, 8, 8), label)
train = CombinedLoader([DataLoader(half, batch_size=64, shuffle=True) for half in random_split(data, [0.5, 0.5])])


class Stripes(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(),
            nn.Linear(128, 4),
        )  # fmt: skip

    def on_fit_start(self):
        self.search = ActivationSearch(self.net, 4, train_on=True)

    def on_train_batch_start(self, batch, batch_idx):
        _, (x, y) = batch
        self.search.architecture_step(lambda: F.cross_entropy(self.net(x), y))

    def on_train_epoch_end(self):
        self.search.end_epoch()

    def training_step(self, batch, batch_idx):
        (x, y), _ = batch
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
print(model.search.genotype().text)
