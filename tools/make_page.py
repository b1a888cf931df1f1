"""Makes docs/page.png: the server's page with a model's answers, as a browser shows it.

python tools/make_page.py MODEL [TEXT ...]

Needs `bertonnx[cpu,serve]`, playwright and chromium.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "page.png"

TEXTS = (
    "A quiet film that grows on you, with a last scene worth the whole evening.",
    "Two hours of shouting, and nobody to care about.",
    "It is long and uneven, but I would watch it again.",
)


def main() -> int:
    """Serve the model, ask it, and take the picture."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    model, *texts = sys.argv[1:]
    command = [str(Path(sys.executable).with_name("bertonnx")), "serve", model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = None
        while found is None:
            found = re.search(r"listening on (\S+)", server.stderr.readline())
        try:
            _take(found[1], texts or TEXTS)
        finally:
            server.terminate()
            server.stderr.read()
    print(f"wrote {PICTURE}")
    return 0


def _take(address: str, texts: list[str] | tuple[str, ...]) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 760}, color_scheme="light")
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        page.fill("#texts", "\n".join(texts))
        page.click("#go")
        expect(page.locator("#said")).to_contain_text(re.compile("^[0-9]+ ms"))
        # The first answer pays for what the next ones find ready.
        page.click("#go")
        expect(page.locator("#said")).to_contain_text(re.compile("^[0-9]+ ms"))
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
