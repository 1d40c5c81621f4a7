"""A headless Chromium that tests drive through its debugging pipe."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_PATIENCE_S = 60


class Page:
    """A page that is open in the browser."""

    def __init__(self, send, receive):
        self._send, self._receive, self._number, self._session = send, receive, 0, None
        self._unread = b""

    def ask(self, method, **parameters):
        """The answer to a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self._unread:
            self._unread += os.read(self._receive, 1 << 16)
        text, _, self._unread = self._unread.partition(b"\0")
        return json.loads(text)

    def attach(self, url, width, height):
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.ask("Page.navigate", url=url)

    def value(self, expression):
        """Value of an expression in the page; promises are awaited."""
        found = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            if self.value(f"Boolean({expression})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def click(self, x, y, *, to=None, shift=False):
        """Click at a place, or drag from it ``to`` another."""
        held = {"button": "left", "clickCount": 1, "modifiers": 8 if shift else 0}
        steps = [("mouseMoved", (x, y)), ("mousePressed", (x, y))]
        if to:
            middle = ((x + to[0]) / 2, (y + to[1]) / 2)
            steps += [("mouseMoved", middle), ("mouseMoved", to)]
        for kind, (left, top) in [*steps, ("mouseReleased", to or (x, y))]:
            self.ask("Input.dispatchMouseEvent", type=kind, x=left, y=top, **held)

    def press(self, key):
        """Press a key that types one character."""
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)


@contextmanager
def browser(url, profile, *, width=1280, height=800):
    """Open a page in a browser of its own."""
    command_read, command_write = os.pipe()
    event_read, event_write = os.pipe()

    def connect():
        os.dup2(command_read, 3)
        os.dup2(event_write, 4)

    flags = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-pipe", f"--user-data-dir={profile}", "--hide-scrollbars",
    )  # fmt: skip
    running = subprocess.Popen(
        [CHROMIUM, *flags], preexec_fn=connect, pass_fds=(3, 4),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(command_read)
    os.close(event_write)
    try:
        page = Page(command_write, event_read)
        page.attach(url, width, height)
        yield page
    finally:
        running.kill()
        running.wait()
        os.close(command_write)
        os.close(event_read)
