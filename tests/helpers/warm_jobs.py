"""Jobs of seconds that are forked from a warm process."""

from grafs_timm.jobs.job import Job
from grafs_timm.jobs.launch import run_jobs
from grafs_timm.jobs.options import Launch

TINY = {
    "data.train_images": 64, "data.test_images": 50, "data.image_size": 16,
    "evaluate.batch_size": 32, "evaluate.epochs": 1, "evaluate.weights.warmup_epochs": 0,
}  # fmt: skip

LONG = TINY | {"evaluate.epochs": 3000}


def job(folder, activation="relu", recipe="resnet_digits", settings=TINY, **more):
    changes = [part for key, value in (settings | more).items() for part in ("--set", f"{key}={value}")]
    arguments = ("evaluate", recipe, "--activation", activation, "--device", "cpu", "--wandb", "disabled", "--quiet")
    return Job(folder.name, (*arguments, "--resume", "--out", str(folder), *changes), folder)


def run(*jobs, **options):
    on_outcome = options.pop("on_outcome", None)
    return run_jobs(jobs, Launch(quiet=True, **{"warm": True} | options), on_outcome)
