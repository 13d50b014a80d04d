"""A real Chromium without a window, which reaches no host but this machine."""

import base64
import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120.0
#: What the browser may be called.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
#: The release of axe-core that looks for barriers to people using the page.
AXE = "axe-core@4.14.1"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without logging a line for each."""

    def log_message(self, *args: Any):
        pass


class QuietServer(ThreadingHTTPServer):
    """Ignores browsers that leave before a file has arrived."""

    def handle_error(self, request: Any, client_address: Any):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files, until the block ends."""
    handler = functools.partial(QuietHandler, directory=folder)
    server = QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Browser:
    """Chromium, driven by selenium.

    Args:
        width, height: of the window, in pixels.
        language: that the browser prefers.
        is_dark: whether the system has dark colours.
        density: pixels of the screen for one of the window.
    """

    def __init__(
        self,
        width: int = 1280,
        height: int = 900,
        language: str = "en-US",
        is_dark: bool = False,
        density: float = 1,
    ):
        from selenium import webdriver

        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        driver = shutil.which("chromedriver")
        if program is None or driver is None:
            pytest.skip("Chromium is not installed: apt install chromium chromium-driver")
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for argument in (
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--hide-scrollbars", f"--lang={language}"),
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        ):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(driver)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(PATIENCE)
        size = {"width": width, "height": height, "deviceScaleFactor": density}
        size["mobile"] = width < 600
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object):
        self.driver.quit()

    def open(self, address: str):
        """Open a page of ours, and wait until it can search."""
        self.driver.get("about:blank")
        self.driver.get(address)
        self.wait("return document.documentElement.dataset.state === 'ready'")

    def run(self, script: str, *values: Any) -> Any:
        """The value that a script in the page returns; `values` is the list of its arguments."""
        return self.driver.execute_script(f"const values = [...arguments]; {script}", *values)

    def compute(self, script: str, *values: Any) -> Any:
        """The value of an asynchronous function's body; an error in it fails the test."""
        done = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1], values = [...arguments].slice(0, -1);"
            f"(async () => {{ {script} }})()"
            ".then((value) => done({ value }), (error) => done({ error: String(error) }));",
            *values,
        )
        assert "error" not in done, done["error"]
        return done.get("value")

    def wait(self, script: str, *values: Any) -> Any:
        """Wait until a script returns something true, which is returned."""
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.driver, PATIENCE, 0.02)
        return wait.until(lambda _: self.run(script, *values))

    def find(self, selector: str) -> Any:
        """The first element of a CSS selector."""
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements of a CSS selector."""
        return self.run(
            "return [...document.querySelectorAll(values[0])].map((it) => it.textContent)", selector
        )

    def click(self, selector: str):
        """Click the first element of a CSS selector."""
        self.find(selector).click()

    def search(self, text: str):
        """Type a query as a person does, and wait for its results."""
        field = self.find("#query")
        field.clear()
        field.send_keys(text)
        self.wait("return document.documentElement.dataset.query === values[0]", text)

    def drop(self, name: str, content: bytes, kind: str = "image/png"):
        """Drop a file onto the page."""
        self.run(
            """
            const bytes = Uint8Array.from(atob(values[1]), (character) => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], values[0], { type: values[2] }));
            for (const name of ["dragenter", "dragover", "drop"]) {
              const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
              document.body.dispatchEvent(new DragEvent(name, options));
            }
            """,
            name,
            to_base64(content),
            kind,
        )

    def find_barriers(self, axe: str) -> list[str]:
        """What axe-core finds serious or critical on the page as it is."""
        # The page's own policy lets no other script in.
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        found = self.compute("return (await axe.run()).violations")
        return [
            f"{it['id']}: {node['html'][:200]}"
            for it in found
            if it["impact"] in ("serious", "critical")
            for node in it["nodes"]
        ]

    def errors(self) -> list[str]:
        """The errors in the browser's console since the last call."""
        return [it["message"] for it in self.driver.get_log("browser") if it["level"] == "SEVERE"]


def to_base64(content: bytes) -> str:
    """Bytes as the page's `atob` reads them."""
    return base64.b64encode(content).decode()


def download_axe(folder: Path) -> str:
    """The source of axe-core, by npm; skips without npm or network."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, which downloads axe-core")
    command = ["npm", "pack", AXE, "--silent"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    if packed.returncode:
        pytest.skip(f"npm cannot download {AXE}: {packed.stderr.strip()[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder, "gztar", filter="data")
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")
