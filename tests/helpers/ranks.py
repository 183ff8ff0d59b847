"""Processes that compute together over gloo, for the tests: forked from one that has imported everything already.

Run as a script this file is that one. It reads lines of JSON, {"work": "command" | a function in rank_checks, "ranks": n,
"arguments": [...]}, forks the ranks and answers each with a line, {"codes": [...], "outputs": [...]}.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLAIN = {"GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


class Ranks:
    """Calls the command line, or a function of ``rank_checks``, on several ranks at once."""

    def __init__(self):
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=os.environ | PLAIN | {"PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip

    def __call__(self, work, *arguments, ranks=2):
        """(exit codes, what each rank printed), by rank."""
        order = {"work": work, "arguments": [str(a) for a in arguments], "ranks": ranks}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["codes"], answer["outputs"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _agent(port):
    """In a forked process: keeps the store through which ranks find each other, as torchrun's agent does, until killed."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    signal.pause()
    del store


def _rank(order, output):
    """In a forked process: the work, with everything printed going to ``output``; never returns."""
    code = 70
    try:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        if order["work"] == "command":
            from grafs_timm.cli.main import main

            main(order["arguments"])
        else:
            import rank_checks

            getattr(rank_checks, order["work"])(*order["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve():
    import rank_checks  # noqa: F401  with all that it needs, once for every rank

    import grafs_timm.cli.main  # noqa: F401
    import grafs_timm.runs.run_search  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        port = free_port()
        os.environ.update(
            WORLD_SIZE=str(order["ranks"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True"
        )
        agent = os.fork()
        if agent == 0:
            _agent(port)
        with contextlib.ExitStack() as files:
            outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in range(order["ranks"])]
            children = []
            for rank, output in enumerate(outputs):
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
                child = os.fork()
                if child == 0:
                    _rank(order, output)
                children.append(child)
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            os.kill(agent, signal.SIGKILL)
            os.waitpid(agent, 0)
            for output in outputs:
                output.seek(0)
            print(json.dumps({"codes": codes, "outputs": [output.read().decode() for output in outputs]}), flush=True)


if __name__ == "__main__":
    _serve()
