# SPDX-License-Identifier: Apache-2.0
"""A real Chromium that trusts the box's own certificate authority, and what every page must not do: break its
content security policy, write an error to the console, or ask anything of another origin."""
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import web_box
from web_box import DEFAULT_MODEL, DESKTOP, chromium_path

WATCH = """
localStorage.setItem("answers", localStorage.getItem("answers") ?? "steady");
window.__violations = [];
addEventListener("securitypolicyviolation",
    (e) => __violations.push(`${e.violatedDirective} ${e.blockedURI}`));
window.__sockets = [];
window.WebSocket = class extends WebSocket {
    constructor(...args) { super(...args); __sockets.push(this); }
};
"""


def need(condition, reason):
    if not condition:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def browser_type():
    need(chromium_path(), "web: no chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="web: no playwright")
    with playwright.sync_playwright() as p:
        yield p.chromium


@pytest.fixture(scope="session")
def web_build():
    """The folder of the built page."""
    folder = web_box.build_dir() / "web"
    need((folder / "dist" / "index.html").exists(), "web: the page was not built (no node 20)")
    return folder


@pytest.fixture(scope="session")
def box(tmp_path_factory, web_build):
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    model = Path(os.environ.get("HEARTH_TEST_SMOLLM2") or cache / "hearth" / "models" / DEFAULT_MODEL)
    need(model.exists(), "web: the default model is not there")
    box = web_box.Box(tmp_path_factory.mktemp("box"), model)
    try:
        yield box.start()
    finally:
        box.stop()


@pytest.fixture(scope="session")
def browser(browser_type, box, tmp_path_factory):
    """Certificate errors are errors here: the profile's NSS database holds the box's CA and nothing else."""
    home = tmp_path_factory.mktemp("home")
    nss = home / ".pki" / "nssdb"
    nss.mkdir(parents=True)
    need(shutil.which("certutil"), "web: no certutil")
    for command in (["-N", "--empty-password"], ["-A", "-n", "hearth", "-t", "C,,", "-i", str(box.ca)]):
        subprocess.run(["certutil", "-d", f"sql:{nss}", *command], check=True, stdin=subprocess.DEVNULL)
    browser = browser_type.launch(executable_path=chromium_path(), env={**os.environ, "HOME": str(home)})
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, box):
    """Opens pages; at the end of the test each must have kept the rules. `allowed` takes console texts that
    the test provokes."""
    pages, problems, allowed = [], [], []

    def watch(page):
        page.on("console", lambda m: m.type == "error" and problems.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: problems.append(f"uncaught: {e}"))
        page.on("request", lambda r: foreign(r.url) and problems.append(f"request to {r.url}"))
        page.on("websocket", lambda w: foreign(w.url) and problems.append(f"socket to {w.url}"))

    def foreign(url):
        parts = urlsplit(url)
        return parts.scheme not in ("blob", "data") and parts.netloc != f"localhost:{box.port}"

    def open_page(url=None, **options):
        context = browser.new_context(**{**DESKTOP, "locale": "en-US", **options})
        context.add_init_script(WATCH)
        context.set_default_timeout(30000)
        page = context.new_page()
        watch(page)
        pages.append(page)
        page.goto(url or box.origin)
        return page

    open_page.allowed = allowed
    yield open_page
    for page in pages:
        problems.extend(page.evaluate("__violations"))
        page.context.close()
    assert [p for p in problems if not any(a in p for a in allowed)] == []


@pytest.fixture
def paired(open_page, box):
    """Opens a page that is paired for a person."""

    def paired(person="Ann", scopes=None, **options):
        page = open_page(box.pair(person, scopes), **options)
        page.get_by_role("button", name="Pair", exact=True).click()
        page.get_by_label("Message to Hearth").wait_for()
        return page

    return paired


@pytest.fixture(scope="session")
def screens():
    folder = web_box.build_dir() / "screens"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
