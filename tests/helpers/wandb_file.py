"""What an offline W&B run says, read by W&B's own tool, `wandb leet inspect`. As a script: python tests/wandb_file.py RUN"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace


def files(run: Path) -> list[Path]:
    """The files of W&B in a run folder, the oldest first."""
    return sorted(run.glob("wandb/*run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns)


def read_offline(file: Path) -> SimpleNamespace:
    """``run`` (id, name, group, job type, project), ``config``, ``rows``, ``summary``, ``artifacts`` and ``exit``."""
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", str(file)]
    output = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=True, timeout=60, stdin=subprocess.DEVNULL
    ).stdout
    found = SimpleNamespace(run={}, config={}, rows=[], summary={}, artifacts=[], exit=None, types=[])
    for line in output.splitlines():
        record = json.loads(line)
        found.types.append(record["type"])
        value = record.get(record["type"])
        if record["type"] == "run":
            found.run, found.config = value, value["config"]["update"]
        elif record["type"] == "history":
            found.rows.append(value.get("item", value))
        elif record["type"] == "summary":
            found.summary |= value.get("update", {})
        elif record["type"] == "artifact":
            found.artifacts.append(value)
        elif record["type"] == "exit":
            found.exit = value
    return found


def media(found):
    """The kind of each medium, and the files' paths."""
    rows = {key: value for row in found.rows for key, value in row.items()}
    shown = [key.removesuffix("._type") for key in rows if key.endswith("._type")]
    return {key: rows[f"{key}._type"] for key in shown}, {key: rows[f"{key}.path"] for key in shown}


if __name__ == "__main__":
    for file in files(Path(sys.argv[1])):
        found = read_offline(file)
        print(f"{file}\nrun       {found.run['run_id']}  {found.run.get('display_name')}  group {found.run.get('run_group')}")
        print(f"job type  {found.run.get('job_type')}    exit {found.exit}    {len(found.config)} keys of config")
        for row in found.rows:
            print("row      ", json.dumps({key: value for key, value in row.items() if key == "_step" or key[0] != "_"})[:600])
        for artifact in found.artifacts:
            print("artifact ", artifact["type"], artifact["name"], [item["path"] for item in artifact["manifest"]["contents"]])
        print("summary  ", json.dumps({key: value for key, value in found.summary.items() if "." not in key})[:1500])
