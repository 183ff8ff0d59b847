"""Options of a launch: where jobs run, and how often each is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Launch:
    """Options that say where jobs run, and how often each is tried.

    Args:
        launcher: "local", or "ray" for a Ray cluster, whose nodes must share the jobs' folders and the working directory with
            this machine.
        workers: Jobs at once on each device of this machine; None: 1.
        devices: What jobs run on here: "cpu", or "cuda:0" and so on. A CUDA job sees only its own, as cuda:0. A job of several
            processes takes as many GPUs; those left over are not used.
        address: Of the Ray cluster; None: the one that this machine is part of.
        gpus_per_job: Of a Ray job, a fraction too; None: one for each process, 0 where the cluster has none or ``devices`` is
            ("cpu",).
        cpus_per_job: Of a Ray job; None: one for each process.
        retries: How often a job resumes that a crash, a kill or the loss of its node ended. What a job itself reports as an
            error is not tried again.
        quiet: Show no progress bar.
        warm: Fork local jobs of one process each from a process that has imported everything and keeps the images that they
            decode (`cli.warm`): the same results, several seconds sooner each.

    >>> Launch(devices=("cuda:0", "cuda:1")).device
    'cuda'
    """

    launcher: Literal["local", "ray"] = "local"
    workers: int | None = None
    devices: tuple[str, ...] = ("cpu",)
    address: str | None = None
    gpus_per_job: float | None = None
    cpus_per_job: float | None = None
    retries: int = 1
    quiet: bool = False
    warm: bool = False

    @property
    def device(self) -> str:
        """Return the ``--device`` of a job."""
        return self.devices[0].partition(":")[0] if self.launcher == "local" else self.devices[0]


HERE = Launch()
