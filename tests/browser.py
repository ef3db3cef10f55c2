"""A headless Chromium driven through its own debugging protocol, over a pipe: no driver, no package, no port."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. What the page throws or its policy forbids is kept in `complaints`."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.numbers, self.buffer = read, write, itertools.count(1), b''
        self.complaints: list[str] = []
        self.session: str | None = None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'DOM'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The protocol's answer to one command."""
        number = next(self.numbers)
        message = {'id': number, 'method': method, 'params': params} | ({'sessionId': self.session} if self.session else {})
        os.write(self.write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self.receive()
            if answer.get('id') == number:
                assert 'error' not in answer, answer
                return answer['result']
            if answer.get('method') == 'Runtime.exceptionThrown':
                self.complaints.append(answer['params']['exceptionDetails']['exception'].get('description', str(answer)))
            if answer.get('method') == 'Log.entryAdded' and answer['params']['entry']['source'] != 'network':
                self.complaints.append(answer['params']['entry']['text'])

    def receive(self, seconds: float = 120) -> dict[str, Any]:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.read, selectors.EVENT_READ)
            while b'\0' not in self.buffer:
                assert waiting.select(seconds), 'the browser does not answer'
                part = os.read(self.read, 1 << 20)
                assert part, 'the browser ended'
                self.buffer += part
        message, _, self.buffer = self.buffer.partition(b'\0')
        return json.loads(message)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        found = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def wait(self, script: str, seconds: float = 120) -> Any:
        """The first value of `script` that is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            shown = self.evaluate('document.body?.innerText')
            assert time.monotonic() < end, f'never true: {script}; complaints: {self.complaints}; the page shows: {shown}'
            time.sleep(0.1)
        return value

    def choose(self, selector: str, *files: pathlib.Path) -> None:
        """Chooses files in a file input, as a user does."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(file) for file in files])

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])


@contextlib.contextmanager
def open_page(folder: pathlib.Path, size: tuple[int, int] = (1000, 800), *flags: str) -> Iterator[Page]:
    """A tab of a fresh Chromium whose profile lies in `folder`; `flags` go to its command line."""
    to_browser, from_browser = os.pipe(), os.pipe()
    command = [CHROMIUM, '--headless=new', '--remote-debugging-pipe', f'--user-data-dir={folder}', f'--window-size={size[0]},{size[1]}']
    command += ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-extensions', *flags]
    # The browser reads commands from descriptor 3 and answers on 4.
    shell = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    process = subprocess.Popen(
        ['bash', '-c', shell, 'bash', *command],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Page(from_browser[0], to_browser[1])
    finally:
        os.close(to_browser[1])  # which ends it
        os.close(from_browser[0])
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
