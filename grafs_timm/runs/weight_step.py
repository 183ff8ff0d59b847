"""Take weight steps (autocast, loss scaling, clipping, timm's optimiser and schedule), and measure a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from ..config.schema import Weights
from ..errors import RunError
from ..utils import parallel

_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class WeightStep:
    """Weight steps of one training: autocast, loss scaling, clipping and schedule.

    A step with a non-finite loss or gradient is skipped and counted; the schedule advances all the same.

    Attributes:
        network: The model as a step must call it: inside DistributedDataParallel in a process group, which has to know of
            ``idle`` weights, those that some steps leave out.
        skipped: Steps skipped so far.

    Raises:
        RunError: ``max_skips`` steps in a row were skipped; the message has the reason.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Weights,
        epochs: int,
        steps_per_epoch: int,
        amp: str,
        max_skips: int = 20,
        idle: bool = False,
    ) -> None:
        self.model, self.settings, self.max_skips = model, settings, max_skips
        self.network = parallel.replicate(model, idle)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.dtype = _DTYPES[amp]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.optimizer = create_optimizer_v2(
            model, opt=settings.opt, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum,
            **({"betas": settings.betas} if settings.betas else {}),
        )  # fmt: skip
        self.scheduler = None
        if settings.sched != "none":
            self.scheduler, _ = create_scheduler_v2(
                self.optimizer, sched=settings.sched, num_epochs=epochs, decay_milestones=tuple(settings.decay_epochs),
                decay_rate=settings.decay_rate, warmup_epochs=settings.warmup_epochs, warmup_lr=settings.lr / 100,
                min_lr=settings.min_lr, step_on_epochs=False, updates_per_epoch=steps_per_epoch,
            )  # fmt: skip
        self.updates = self.skipped = self._in_a_row = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype else contextlib.nullcontext()

    def __call__(self, loss: Tensor | Sequence[Callable[[], Tensor]]) -> Tensor:
        """Backward and one optimiser step for ``loss`` (scalar); returns it detached, in a process group the ranks' mean.

        A sequence of functions, each of which runs ``network`` on a micro-batch of equal size and returns its loss, makes one
        step on the mean of their gradients.
        """
        losses: Sequence[Callable[[], Tensor]] = [lambda: loss] if isinstance(loss, Tensor) else loss
        self.optimizer.zero_grad(set_to_none=True)
        mean = torch.zeros((), device=self.device)
        for number, one in enumerate(losses, 1):
            with contextlib.nullcontext() if number == len(losses) else parallel.apart(self.network):
                value = one() / len(losses)
                self.scaler.scale(value).backward()
            mean += value.detach()
        parallel.mean_([mean])
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad or float("inf"))
        finite = bool(torch.isfinite(norm) & torch.isfinite(mean))  # both are the same on every rank
        if finite or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # skips by itself where unscale_ met a non-finite gradient
        self.scaler.update()
        self.updates += 1
        if self.scheduler is not None:
            self.scheduler.step_update(self.updates)
        self.skipped += not finite
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= self.max_skips:
            raise RunError(
                f"{self._in_a_row} weight steps in a row had a non-finite loss or gradient (last loss {mean.item()}); "
                "lower the learning rate or train in float32"
            )
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "updates": self.updates, "skipped": self.skipped, "in_a_row": self._in_a_row,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.updates, self.skipped, self._in_a_row = state["updates"], state["skipped"], state["in_a_row"]


def loss_of(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy in nats.

    Args:
        output: Logits [B,C] of images, or [B,T,C] of tokens.
        labels: int64 [B], soft labels [B,C], or tokens int64 [B,T].
        smoothing: Label smoothing, of hard labels.

    >>> import torch
    >>> f"{loss_of(torch.zeros(2, 4), torch.tensor([0, 3])):.4f}"  # log 4
    '1.3863'
    """
    if logits.ndim == 3:
        logits, labels = logits.flatten(0, 1), labels.flatten()
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], step: WeightStep | None = None) -> Tensor:
    """Measure a model over batches in eval mode; the mode is restored.

    Returns:
        float64 [3]: correct predictions, summed cross-entropy in nats, number of images or tokens.
    """
    was = model.training
    sums = torch.zeros(3, dtype=torch.float64, device="cpu")
    model.eval()
    try:
        for images, labels in batches:
            with step.autocast() if step else contextlib.nullcontext():
                logits = model(images)
            right, count = (logits.argmax(-1) == labels).sum(), labels.numel()
            loss = loss_of(logits.float(), labels).double() * count
            sums = sums.to(labels.device) + torch.stack([right.double(), loss, right.new_tensor(count).double()])
    finally:
        model.train(was)
    return sums


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], step: WeightStep | None = None) -> tuple[float, float]:
    """Return top-1 accuracy in per cent and mean cross-entropy in nats over ``batches``, in eval mode; the mode is restored."""
    right, loss, count = measure(model, batches, step).tolist()
    return 100 * right / count, loss / count
