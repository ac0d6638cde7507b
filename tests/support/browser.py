"""Headless Chromium for tests of pages: system packages `chromium` and `chromium-driver`."""

import json
import shutil
from contextlib import contextmanager

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1280,900",
)
NETWORK = ("http:", "https:", "ws:", "wss:", "ftp:")


@contextmanager
def chromium(folder):
    """A browser with an empty profile in a folder; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs the system packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield made
    finally:
        made.quit()


def console_of(browser):
    """Messages of the console since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests_of(browser):
    """Addresses on a network that were asked for since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in asked if url.startswith(NETWORK)]


def resize(browser, width, height=900):
    """Gives the page another size; 0 gives it back its own."""
    command = (
        "Emulation.setDeviceMetricsOverride" if width else "Emulation.clearDeviceMetricsOverride"
    )
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd(command, size if width else {})


def emulate(browser, media="", **features):
    """Paper (`print`) or screen, and features such as prefers_color_scheme."""
    named = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": named})
