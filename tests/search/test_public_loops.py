"""Training loops as libraries write them, each through a search of three epochs in which α moves and the weights learn."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2 import CutMix

from grafs_timm.search import bilevel
from grafs_timm.search.bilevel import ActivationSearch
from grafs_timm.search.sites import Board

EPOCHS = 3
BATCHES = 2
SHORT = {"warm_start": 0, "shrink_start": 1}
Loop = Callable[[nn.Module], ActivationSearch]


def images(seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(4 * BATCHES, 3, 32, 32, generator=generator), torch.arange(4 * BATCHES) % 3)


def batches(seed: int = 0) -> DataLoader:
    return DataLoader(images(seed), batch_size=4)


def endless() -> Iterator[list[Tensor]]:
    return chain.from_iterable(repeat(batches(1)))


def plain(model: nn.Module) -> ActivationSearch:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    search = ActivationSearch(model, EPOCHS, **SHORT)
    for _ in range(EPOCHS):
        for (x, y), (x_arch, y_arch) in zip(batches(), batches(1), strict=True):
            search.architecture_step(lambda x=x_arch, y=y_arch: F.cross_entropy(model(x), y))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        search.end_epoch()
    return search


def closures(model: nn.Module) -> ActivationSearch:
    """Optimisers that evaluate the loss by themselves, several times a step."""
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=2)
    search = ActivationSearch(model, EPOCHS, **SHORT)
    for _ in range(EPOCHS):
        for (x, y), (x_arch, y_arch) in zip(batches(), batches(1), strict=True):
            search.architecture_step(lambda x=x_arch, y=y_arch: F.cross_entropy(model(x), y))

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
        search.end_epoch()
    return search


def timm_train(model: nn.Module) -> ActivationSearch:
    """train.py: mixup, an average of the weights, accumulated and clipped gradients, automatic mixed precision."""
    model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.9)
    schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=EPOCHS)
    mixup, criterion = Mixup(0.8, 1.0, num_classes=3), SoftTargetCrossEntropy()
    search = ActivationSearch(model, EPOCHS, **SHORT)
    average = ModelEmaV3(model, decay=0.9)
    autocast = torch.autocast("cpu", torch.bfloat16)
    for epoch in range(EPOCHS):
        model.train()
        optimizer.zero_grad()
        for step, ((x, y), (x_arch, y_arch)) in enumerate(zip(batches(), batches(1), strict=True)):
            with autocast:
                search.architecture_step(lambda x=x_arch, y=y_arch: F.cross_entropy(model(x), y))
            x, target = mixup(x.contiguous(memory_format=torch.channels_last), y)
            with autocast:
                loss = criterion(model(x), target) / BATCHES
            loss.backward()
            if step + 1 == BATCHES:
                dispatch_clip_grad(model.parameters(), 0.02, mode="agc")
                optimizer.step()
                optimizer.zero_grad()
                average.update(model)
        validated(average.module)
        schedule.step(epoch + 1)
        search.end_epoch()
    return search


def timm_scaler(model: nn.Module) -> ActivationSearch:
    """train.py's other branch: its NativeScaler takes the step, gradients for the next order included."""
    scaler = NativeScaler(device="cpu")
    optimizer = create_optimizer_v2(model, "lookahead_momentum", lr=1e-2)
    search = ActivationSearch(model, EPOCHS, **SHORT)
    for _ in range(EPOCHS):
        for (x, y), (x_arch, y_arch) in zip(batches(), batches(1), strict=True):
            search.architecture_step(lambda x=x_arch, y=y_arch: F.cross_entropy(model(x), y))
            scaler(F.cross_entropy(model(x), y), optimizer, clip_grad=1.0, parameters=model.parameters(), need_update=True)
            optimizer.zero_grad()
        search.end_epoch()
    return search


def torchvision_reference(model: nn.Module) -> ActivationSearch:
    """references/classification/train.py: GradScaler, exponential average, label smoothing, CutMix in the collation."""
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    cutmix = CutMix(num_classes=3)
    search = ActivationSearch(model, EPOCHS, **SHORT)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS - 1)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[1])
    for _ in range(EPOCHS):
        model.train()
        for x, y in batches():
            x_arch, y_arch = next(iter(batches(1)))
            search.architecture_step(lambda x=x_arch, y=y_arch: criterion(model(x), y), scaler)
            loss = criterion(model(x := cutmix(x, y)[0]), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            average.update_parameters(model)
        schedule.step()
        validated(average)
        search.end_epoch()
    return search


def accelerated(model: nn.Module) -> ActivationSearch:
    """Accelerate: prepared model, loader and optimiser, gradients accumulated over two batches."""
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    search = ActivationSearch(model, EPOCHS, **SHORT)
    model, optimizer, loader, others = accelerator.prepare(model, optimizer, batches(), batches(1))
    for _ in range(EPOCHS):
        for (x, y), (x_arch, y_arch) in zip(loader, others, strict=True):
            search.architecture_step(lambda x=x_arch, y=y_arch: F.cross_entropy(model(x), y))
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        search.end_epoch()
    return search


class Classifier(nn.Module):
    """A model as transformers' Trainer wants it: it takes the labels and gives the loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def hf_trainer(model: nn.Module, accumulate: int = 1) -> ActivationSearch:
    """HF Trainer: the search in a callback, evaluation after each epoch, weights averaged over accumulated batches."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    whole, others = Classifier(model), endless()
    search = ActivationSearch(whole, EPOCHS, **SHORT)

    class Callback(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            x, y = next(others)
            search.architecture_step(lambda: whole(x, y)["loss"])

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            search.end_epoch()

    settings = transformers.TrainingArguments(
        "unused", num_train_epochs=EPOCHS, per_device_train_batch_size=4, report_to="none", save_strategy="no",
        eval_strategy="epoch", disable_tqdm=True, use_cpu=True, learning_rate=1e-3, gradient_accumulation_steps=accumulate,
    )  # fmt: skip
    data = [{"pixel_values": x, "labels": y} for x, y in images(0)]
    transformers.Trainer(whole, settings, train_dataset=data, eval_dataset=data, callbacks=[Callback()]).train()
    return search


def hf_trainer_accumulating(model: nn.Module) -> ActivationSearch:
    return hf_trainer(model, accumulate=2)


def hf_trainer_overridden(model: nn.Module) -> ActivationSearch:
    """HF Trainer with a training_step of one's own, as distillers and contrastive learners write it."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    whole, others = Classifier(model), endless()
    search = ActivationSearch(whole, EPOCHS, **SHORT)

    class Trainer(transformers.Trainer):  # type: ignore[misc]
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            return F.cross_entropy(model.net.forward_head(model.net.forward_features(inputs["pixel_values"])), inputs["labels"])

        def training_step(self, model: nn.Module, *given: Any, **named: Any) -> Tensor:
            x, y = next(others)
            search.architecture_step(lambda: self.compute_loss(model, {"pixel_values": x, "labels": y}))
            loss: Tensor = super().training_step(model, *given, **named)
            if self.state.global_step % BATCHES == BATCHES - 1:
                search.end_epoch()
            return loss

    settings = transformers.TrainingArguments(
        "unused", num_train_epochs=EPOCHS, per_device_train_batch_size=4, report_to="none", save_strategy="no",
        disable_tqdm=True, use_cpu=True, learning_rate=1e-3,
    )  # fmt: skip
    Trainer(whole, settings, train_dataset=[{"pixel_values": x, "labels": y} for x, y in images(0)]).train()
    return search


def lightning_module(model: nn.Module, automatic: bool) -> ActivationSearch:
    lightning = pytest.importorskip("lightning")
    others = endless()

    class Task(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = model, automatic

        def on_fit_start(self) -> None:
            self.search = ActivationSearch(self.net, EPOCHS, **SHORT)

        def on_train_epoch_end(self) -> None:
            self.search.end_epoch()

        def training_step(self, batch: list[Tensor], number: int) -> Tensor:
            x, y = next(others)
            self.search.architecture_step(lambda: F.cross_entropy(self.net(x), y))
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch: list[Tensor], number: int) -> None:
            self.net(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    task = Task()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", accumulate_grad_batches=2 if automatic else 1, **quiet)
    trainer.fit(task, batches(), batches(1))
    return task.search


def lightning_automatic(model: nn.Module) -> ActivationSearch:
    return lightning_module(model, automatic=True)


def lightning_manual(model: nn.Module) -> ActivationSearch:
    return lightning_module(model, automatic=False)


class Learner:
    """A loop in fastai's manner: callbacks hear of events by name, and one may cancel the batch."""

    class CancelBatch(Exception):
        pass

    def __init__(self, model: nn.Module, callbacks: list[Any]) -> None:
        self.model, self.callbacks = model, callbacks
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.epoch = 0

    def __call__(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event, lambda _: None)(self)

    def fit(self, epochs: int) -> None:
        schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 1e-3, total_steps=BATCHES * epochs)
        for self.epoch in range(epochs):
            self.model.train()
            for self.x, self.y in batches():
                with contextlib.suppress(self.CancelBatch):
                    self("before_batch")
                    self.loss = F.cross_entropy(self.model(self.x), self.y)
                    self("after_loss")
                    self.loss.backward()
                    self("before_step")
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                schedule.step()
            validated(self.model)
            self("after_epoch")


class SearchCallback:
    def __init__(self, search: ActivationSearch) -> None:
        self.search, self.others = search, endless()

    def before_batch(self, learner: Learner) -> None:
        x, y = next(self.others)
        self.search.architecture_step(lambda: F.cross_entropy(learner.model(x), y))

    def after_epoch(self, learner: Learner) -> None:
        self.search.end_epoch()


class SkipsEverySecond:
    seen = 0

    def before_step(self, learner: Learner) -> None:
        self.seen += 1
        if self.seen % 2:  # gradients pile up until the next
            raise Learner.CancelBatch


def fastai_like(model: nn.Module) -> ActivationSearch:
    search = ActivationSearch(model, EPOCHS, **SHORT)
    Learner(model, [SearchCallback(search), SkipsEverySecond()]).fit(EPOCHS)
    return search


def fastai_fine_tuning(model: nn.Module) -> ActivationSearch:
    """A rate finder that puts the weights back, an epoch of the head alone, then of everything."""
    search = ActivationSearch(model, EPOCHS, **SHORT)
    kept = copy.deepcopy(model.state_dict())
    Learner(model, []).fit(1)
    model.load_state_dict(kept)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("fc")
    Learner(model, [SearchCallback(search)]).fit(1)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    model.requires_grad_(True)
    Learner(model, [SearchCallback(search)]).fit(EPOCHS - 1)
    return search


def two_views(model: nn.Module) -> ActivationSearch:
    """Contrastive learners: two passes before one backward, activations computed again in backward."""
    model.set_grad_checkpointing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    search = ActivationSearch(model, EPOCHS, **SHORT)

    def loss(x: Tensor) -> Tensor:
        return F.mse_loss(model(x), model(x.flip(3)))

    for _ in range(EPOCHS):
        for (x, _), (x_arch, _) in zip(batches(), batches(1), strict=True):
            search.architecture_step(lambda x=x_arch: loss(x))
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()
        search.end_epoch()
    return search


def stochastic_average(model: nn.Module) -> ActivationSearch:
    """torch's SWA: the average's BatchNorm is estimated again from passes over the data."""
    search = plain(model)
    average = AveragedModel(model)
    average.update_parameters(model)
    torch.optim.swa_utils.update_bn(batches(), average)
    return search


def validated(model: nn.Module) -> None:
    mode = model.training
    model.eval()
    with torch.inference_mode():
        assert all(model(x).isfinite().all() for x, _ in batches(2))
    model.train(mode)


LOOPS: list[Loop] = [
    plain, closures, timm_train, timm_scaler, torchvision_reference, accelerated, hf_trainer, hf_trainer_accumulating,
    hf_trainer_overridden, lightning_automatic, lightning_manual, fastai_like, fastai_fine_tuning, two_views,
    stochastic_average,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_search_of_three_epochs_in_this_loop_moves_every_alpha(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    started: list[dict[str, Tensor]] = []
    attach = bilevel.attach

    def watched(model: nn.Module, board: Board) -> None:
        attach(model, board)
        started.append(copy.deepcopy(board.cell.state_dict()))

    monkeypatch.setattr(bilevel, "attach", watched)
    weights = copy.deepcopy(dict(model.named_parameters()))
    search = loop(model)
    assert search.epoch == search.epochs == EPOCHS
    assert search.skipped == 0
    (begun,) = started
    moved = {name for name, now in search.cell.state_dict().items() if not torch.equal(now, begun[name])}
    assert {name for name in begun if name.startswith("alpha")} <= moved
    trained = dict(model.named_parameters())
    assert any(not torch.equal(old, trained[name]) for name, old in weights.items())
    found = search.genotype()
    assert search.finish() == found
    validated(model)
