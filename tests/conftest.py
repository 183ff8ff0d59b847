import os
import signal

import pytest
import torch

os.environ["WANDB_MODE"] = "disabled"  # of the commands that tests run; those about W&B name their own
for name in [name for name in os.environ if name.startswith("WANDB_") and name not in ("WANDB_MODE", "WANDB_SILENT")]:
    del os.environ[name]  # no key: nothing here may reach a server

# a shell's background jobs ignore Ctrl-C, and what they start inherits that; some tests send it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def plain(monkeypatch):
    """Computes as a process on its own with one thread and without a compiler does: for comparisons bit by bit."""
    from grafs_timm.utils import compiled

    monkeypatch.setattr(compiled, "plain_only", True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ranks():
    """Several processes that compute together; see `ranks.Ranks`."""
    from ranks import Ranks

    started = Ranks()
    yield started
    started.close()
