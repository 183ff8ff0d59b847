"""Run jobs as tasks of a Ray cluster whose nodes share the jobs' folders; the jobs of a lost node resume on another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DOCTOR, RunError
from ..utils.files import locked
from .job import Job, Outcome, Process, may_go_on
from .options import Launch

PATIENCE = 30.0  # seconds for a cluster to answer
_OUTLIVED = 60.0  # seconds that a lost node's process may be seen to hold its folder
_PASSED_ON = ("GRAFS_TIMM_", "PYTHONPATH", "OMP_NUM_THREADS")
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"


def on_ray(jobs: Sequence[Job], launch: Launch) -> Generator[Outcome, None, None]:
    """Yield the jobs' outcomes as they end. RunError, before any begins, where the cluster can't be reached or is too small."""
    ray = _connected(launch.address or os.environ.get("RAY_ADDRESS") or "auto")
    processes, gpus = jobs[0].processes, launch.gpus_per_job
    cpus = float(processes) if launch.cpus_per_job is None else launch.cpus_per_job
    if gpus is None:
        gpus = 0.0 if launch.devices == ("cpu",) or not ray.cluster_resources().get("GPU") else float(processes)
    try:
        _check_room(ray, cpus, gpus)
    except RunError:
        ray.shutdown()
        raise
    return _outcomes(ray, jobs, cpus, gpus, launch.retries)


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise RunError(f"--launcher ray needs Ray: pip install 'grafs-timm[ray]'; {DOCTOR} lists what is installed") from None
    if ray.is_initialized():
        return ray
    # Ray itself would try for minutes, and then end this process: another one finds out
    advice = "start one with `ray start --head`, give the address it prints with --address, or leave out --launcher ray"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _PROBE, address], capture_output=True, encoding="utf-8", errors="replace",
            timeout=PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RunError(f"no Ray cluster answers at {address!r} (waited {PATIENCE:.0f} s); {advice}") from None
    if tried.returncode:
        reason = (tried.stderr.strip() or "no reason given").splitlines()[-1][:300]
        raise RunError(f"no Ray cluster at {address!r}: {reason}; {advice}")
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    return ray


def _check_room(ray: Any, cpus: float, gpus: float) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise RunError(
            f"no node of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs for a job (it has: {there or 'no nodes'}); "
            "ask for less with --gpus-per-job, or give --device cpu"
        )


def _outcomes(ray: Any, jobs: Sequence[Job], cpus: float, gpus: float, retries: int) -> Generator[Outcome, None, None]:
    environment = {key: value for key, value in os.environ.items() if key.startswith(_PASSED_ON)}
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(_run)
    running = {task.options(name=job.name).remote(job, os.getcwd(), environment, retries): job for job in jobs}
    try:
        while running:
            ended, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for each in ended:
                job = running.pop(each)
                try:
                    yield Outcome(job, **ray.get(each))
                except ray.exceptions.RayError as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()
                    yield Outcome(job, "failed", "\n".join(reason[:5]), where="its node was lost")
    finally:
        for each in running:
            ray.cancel(each, force=True)  # the job's process ends with the task's
        ray.shutdown()


def _run(job: Job, directory: str, environment: dict[str, str], retries: int) -> dict[str, Any]:
    """Run the job as a process on a node; it ends when the task does. Returns the fields of its Outcome."""
    import ray

    node = f"{socket.gethostname()}, node {ray.get_runtime_context().get_node_id()[:8]}"
    try:
        os.chdir(directory)
    except OSError as error:
        message = f"error: {directory} is not there on {node} ({error.strerror}); the nodes must share its filesystem"
        return {"state": "failed", "message": message, "where": node}
    _wait_for(job.folder)
    begun = time.monotonic()
    for attempt in range(1, retries + 2):
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with open(job.output, "a", encoding="utf-8") as output:
            output.write(f"{time.strftime('%H:%M:%S')} begun on {node}, process {os.getpid()}\n")
        process = Process(job, node, environment, attempt, begun)
        while not process.ended:
            time.sleep(0.05)
        outcome = process.outcome()
        if not may_go_on(outcome):
            break
    return {"state": outcome.state, "message": outcome.message, "seconds": outcome.seconds, "where": outcome.where}


def _wait_for(folder: Path) -> None:
    """Wait until a lost node's process, which may outlive the news of its loss, releases the folder."""
    until = time.monotonic() + _OUTLIVED
    while time.monotonic() < until:
        try:
            with locked(folder):
                return
        except RunError:
            time.sleep(0.5)
