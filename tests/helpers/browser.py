"""Open a page from disk in headless Chromium, run a script in it, and hear what its console says."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium on this machine to open the page in; on Debian: apt-get install chromium"
# GRAFS_TIMM_REQUIRED=chromium, as in CI: the tests fail where it is missing, so that nobody takes skipped ones for passed.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "chromium" not in os.environ.get("GRAFS_TIMM_REQUIRED", "").split(","), reason=MISSING
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--virtual-time-budget=4000", "--enable-logging=stderr",
)  # fmt: skip
POLICY = re.compile(r"script-src '[^']+'")


def in_browser(page: str, folder: Path, script: str, *flags: str) -> Any:
    """Open ``page`` and run ``script``, the body of an async function; returns what that returns.

    The page's policy forbids scripts of others, so this one is allowed for the test. Anything that the console says, such as an
    error or a request that the policy forbids, fails.
    """
    driver = f"""<script>
addEventListener("error", event => window.failure = event.message);
(async () => {{
  let result;
  try {{ result = await (async () => {{ {script} }})(); }} catch (error) {{ result = "failed: " + error; }}
  const box = document.createElement("pre"); box.id = "driven"; box.textContent = JSON.stringify([result, window.failure]);
  document.body.append(box);
}})();
</script>"""
    file = folder / "index.html"
    file.write_text(POLICY.sub("script-src 'unsafe-inline'", page).replace("</body>", driver + "</body>"), encoding="utf-8")
    assert CHROMIUM, MISSING
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    (text,) = re.findall(r'<pre id="driven">(.*?)</pre>', done.stdout, re.DOTALL)
    result, failure = json.loads(html.unescape(text))
    assert failure is None
    assert "CONSOLE" not in done.stderr, done.stderr
    return result


def as_it_is(file: Path, folder: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a file unchanged, with its own policy; returns the document that its script made, and what the console said."""
    assert CHROMIUM, MISSING
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
