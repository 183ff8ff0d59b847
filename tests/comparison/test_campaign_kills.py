"""Campaigns that are killed at random moments: no line is lost, half written or doubled, and the results are the same."""

import itertools
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_test
import pytest
from made_ledger import OPTIONS, REAL, folder_in, planned, waiting
from tiny_runs import ROOT, contents

from grafs_timm.comparison import campaign_run
from grafs_timm.comparison.campaign import Campaign
from grafs_timm.comparison.ledger import Ledger
from grafs_timm.jobs.options import Launch

pytestmark = pytest.mark.slow
KILLS = 10
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")  # the hidden file of a write that was killed


def main(zoo, root):
    """In a process of its own: the campaign, to its end."""
    failed = campaign_run.run(
        planned(folder_in(zoo), **REAL), root, options=OPTIONS, say=lambda text: print(text, flush=True),
        launch=Launch(warm=True, workers=2, quiet=True),
    )  # fmt: skip
    sys.exit(bool(failed))


def begin(place):
    """That process, which computes as all others do."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers", ROOT / "tools")))
    with (place / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, __file__, place / "zoo", place / "runs"], stdout=output, stderr=output,
            env={**os.environ, **kill_test.PLAIN, "PYTHONPATH": path},
        )  # fmt: skip


def files(folder):
    """Those of a ledger, by name, without what a killed write left beside them."""
    found = contents(folder) if folder.exists() else {}
    return {name: content for name, content in found.items() if not UNFINISHED.fullmatch(name)}


def checked(folder, before):
    """The files of a ledger: all whole, none of ``before`` gone or changed, no key twice."""
    now = files(folder)
    assert before.items() <= now.items()
    lines = Ledger.read(folder).lines
    assert len({line.key for line in lines}) == len(lines) == sum(name.endswith(".jsonl") for name in now)
    assert now.keys() - {line.file_name for line in lines} <= {"recipe.yaml", "activations.json"}
    assert planned(folder, **REAL).ledger.lines == lines
    return now


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(the place of a campaign that ran to its end at once, how many seconds that took)."""
    place = tmp_path_factory.mktemp("undisturbed")
    since = time.monotonic()
    with begin(place) as process:
        assert process.wait() == 0, (place / "output.txt").read_text(encoding="utf-8")
    return place, time.monotonic() - since


def test_a_campaign_that_is_killed(undisturbed, tmp_path):
    draw, kills = random.Random(0), 0
    place, seconds = undisturbed
    results = {line.key: line.result for line in Ledger.read(folder_in(place / "zoo")).lines}
    for number in itertools.count():
        own, before, code = tmp_path / str(number), {}, None
        folder = folder_in(own / "zoo")
        own.mkdir()
        while code != 0:
            with begin(own) as process:
                try:
                    code = process.wait(draw.uniform(0, seconds) if kills < KILLS else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    code = process.wait()
            assert code in (0, -signal.SIGKILL), (own / "output.txt").read_text(encoding="utf-8")
            kills += code != 0
            before = checked(folder, before)
            print(f"kill {kills}: {len(before)} files, {(own / 'output.txt').read_text(encoding='utf-8').count('done  ')} done")
        assert waiting(Campaign.read(folder)) == []
        assert {line.key: line.result for line in Ledger.read(folder).lines} == results
        assert contents(folder).keys() == files(folder).keys()
        if kills == KILLS:
            break


def collect_on_and_on(zoo, root):
    for number in itertools.count():
        campaign_run.collect(planned(folder_in(zoo / str(number)), **REAL), root)


def test_a_collector_that_is_killed(undisturbed, tmp_path):
    """Each time it begins an empty ledger, so that it is writing nearly always."""
    draw, halves = random.Random(0), 0
    place, _ = undisturbed
    whole = contents(folder_in(place / "zoo"))
    for kill in range(3 * KILLS):
        zoo = tmp_path / str(kill)
        process = multiprocessing.get_context("fork").Process(target=collect_on_and_on, args=(zoo, place / "runs"))
        process.start()
        number = draw.randrange(3)  # of the ledger in which it is met
        while process.is_alive() and not (folder_in(zoo / str(number)) / "recipe.yaml").exists():
            time.sleep(0.0002)
        process.join(draw.uniform(0.0, 0.004))  # while that one is written
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        *earlier, last = [folder_in(zoo / str(number)) for number in range(len(list(zoo.glob("*"))) or 1)]
        assert [folder for folder in earlier if contents(folder) != whole] == []
        there = checked(last, {})
        halves += there != whole
        campaign_run.collect(planned(last, **REAL), place / "runs")
        assert there.items() <= contents(last).items()
        assert contents(last) == whole
    assert halves > KILLS


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
