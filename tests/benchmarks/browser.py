"""A headless Chromium: opens a page from disk in one theme and width, and tells what it did."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

T = TypeVar("T")
PHONE, DESKTOP = 390, 1280
# Widths in CSS pixels; the height only says how much of the page is painted first.
HEIGHT = 844


@dataclass(frozen=True)
class Browser:
    """One running Chromium; `open` a page, then ask it with `run`."""

    driver: webdriver.Chrome

    def open(self, page: Path, *, width: int = DESKTOP, dark: bool = False) -> None:
        """Show the file `page`, `width` CSS pixels wide, and forget what was logged before."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width <= PHONE},
        )
        self.theme(dark=dark)
        self.logged("browser")
        self.logged("performance")
        self.driver.get(page.as_uri())

    def theme(self, *, dark: bool) -> None:
        """What the page is told that its reader prefers, from now on."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that JavaScript gives back."""
        return self.driver.execute_script(script, *arguments)

    def until(self, look: Callable[[], T], done: Callable[[T], bool]) -> T:
        """What `look` sees once that is `done`; it waits 10 seconds for it."""
        WebDriverWait(self.driver, 10).until(lambda _: done(look()))
        return look()

    def click(self, name: str) -> None:
        """On the element with this id."""
        self.driver.find_element(By.ID, name).click()

    def choose(self, name: str, number: int) -> None:
        """An option of a list."""
        Select(self.driver.find_element(By.ID, name)).select_by_index(number)

    def drag(self, selector: str, *, since: float, until: float) -> None:
        """The mouse, pressed, through the middle of an element: shares of its width."""
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        width = element.rect["width"]
        hand = ActionChains(self.driver)
        hand.move_to_element_with_offset(element, round((since - 0.5) * width), 0)
        hand.click_and_hold().move_by_offset(round((until - since) * width), 0).release().perform()

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """Lines of a log since it was asked for last."""
        lines: list[dict[str, Any]] = self.driver.get_log(kind)
        return lines

    def complaints(self) -> list[str]:
        """Errors and warnings of the page: scripts that failed, what its own policy refused."""
        return [line["message"] for line in self.logged("browser") if line["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Every address that was asked for, data and blobs made by the page itself apart."""
        events = [json.loads(line["message"])["message"] for line in self.logged("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def picture(self, to: Path) -> None:
        """A PNG of the whole page, however long it is."""
        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        to.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browse() -> Iterator[Browser]:
    """Debian's Chromium and its driver, without a window; no others are looked for or downloaded.

    Raises:
        FileNotFoundError: one of the two is not installed.
    """
    chromium, driver = (_program(name) for name in ("chromium", "chromedriver"))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # root may run it: the pages are our own. Software rendering: no machine of tests has a screen.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(running)
    finally:
        running.quit()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no program {name!r}: `make setup-system` installs it")
    return found
