"""Hugging Face's Trainer: a small GPT-2 on the bytes of Python's own help texts."""

from itertools import chain, repeat
from pydoc_data.topics import topics

import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from grafs_timm import ActivationSearch

CONTEXT, STEPS = 64, 12

torch.manual_seed(0)
text = "\n".join(topics.values()).encode()[: 256 * CONTEXT]
data = [{"input_ids": tokens, "labels": tokens} for tokens in torch.tensor(list(text)).view(-1, CONTEXT)]
train, architecture = data[::2], chain.from_iterable(repeat(DataLoader(data[1::2], batch_size=8, shuffle=True)))

config = GPT2Config(vocab_size=256, n_positions=CONTEXT, n_layer=2, n_head=2, n_embd=32, bos_token_id=None, eos_token_id=None)
model = GPT2LMHeadModel(config)
args = TrainingArguments(
    "runs/hf_trainer", max_steps=STEPS, per_device_train_batch_size=8, learning_rate=3e-3, warmup_steps=2, logging_steps=4,
    report_to="none", save_strategy="no", disable_tqdm=True,
)  # fmt: skip


class SearchCallback(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        batch = {name: tensor.to(args.device) for name, tensor in next(architecture).items()}
        search.architecture_step(lambda: model(**batch).loss)

    def on_step_end(self, args, state, control, **kwargs):
        search.end_epoch()


trainer = Trainer(model, args, train_dataset=train, callbacks=[SearchCallback()])
search = ActivationSearch(model, 8, train_on=True)

loss = trainer.train().training_loss
print(f"{STEPS} steps: loss {loss:.3f}")
print(search.genotype().text)
