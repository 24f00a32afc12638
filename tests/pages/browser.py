"""A headless Chromium, driven through its DevTools protocol over a pipe: no driver and no package beside the browser itself."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program():
    """The browser's path: THIMBLE_BROWSER, or the first of the usual names that is installed; None where there is none."""
    return os.environ.get("THIMBLE_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


def pipe():
    """A pipe whose ends are not the two numbers that the browser takes."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends


class Browser:
    """One window, whose width and colour scheme are set page by page."""

    def __init__(self, path):
        self.profile = tempfile.TemporaryDirectory(prefix="pages-")
        ours_read, theirs_write = pipe()
        theirs_read, ours_write = pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--no-first-run", f"--user-data-dir={self.profile.name}", "--remote-debugging-pipe", "about:blank"]
        # The protocol's pipes are file descriptors 3 and 4 of the browser.
        place = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", place, str(theirs_read), str(theirs_write), path, *flags],
            pass_fds=(theirs_read, theirs_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        self.read, self.write, self.rest, self.last = ours_read, ours_write, b"", 0
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def message(self):
        while b"\0" not in self.rest:
            more = os.read(self.read, 1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self.rest += more
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def ask(self, method, until=None, **params):
        """A command's answer; with `until`, only after that event as well."""
        self.last += 1
        asked = {"id": self.last, "method": method, "params": params}
        if hasattr(self, "session"):
            asked["sessionId"] = self.session
        os.write(self.write, json.dumps(asked).encode() + b"\0")
        answer, seen = None, until is None
        while answer is None or not seen:
            message = self.message()
            answer = message if message.get("id") == self.last else answer
            seen = seen or message.get("method") == until
            if answer is not None and "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page, width=1280, scheme="light", height=900):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", until="Page.loadEventFired", url=page.as_uri())

    def evaluate(self, script):
        said = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise RuntimeError(said["exceptionDetails"].get("exception", {}).get("description", said["exceptionDetails"]["text"]))
        return said["result"].get("value")

    def screenshot(self, path):
        """The whole page, however long."""
        taken = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self):
        with contextlib.suppress(OSError, RuntimeError):
            os.write(self.write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read)
        os.close(self.write)
        self.profile.cleanup()
