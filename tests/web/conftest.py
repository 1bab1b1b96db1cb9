"""A real Chromium for the page's tests."""

import os
import shutil
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from predictors import EllipsePredictor
from site_driver import Site

from roiseg.web.application import Application
from roiseg.web.models import Limits, Model
from roiseg.web.server import listen

_NAMES = (
    "chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
)  # fmt: skip


@contextmanager
def serving(*predictors, limits=None, host="127.0.0.1"):
    """A running server on a free port; yields it."""
    models = [Model(f"model {i}", each, each.model.summary) for i, each in enumerate(predictors)]
    server = listen(Application(models, limits or Limits(), host), host, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def serve():
    """`with serve(predictor, ...) as server:` runs the page's server in this process."""
    return serving


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium: `ROISEG_CHROMIUM`, one on the PATH, or the one `playwright install chromium` gets."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        named = os.environ.get("ROISEG_CHROMIUM")
        path = named or next(filter(None, map(shutil.which, _NAMES)), playwright.chromium.executable_path)
        if not Path(path).is_file():
            assert not named, f"ROISEG_CHROMIUM={named} is no file"
            pytest.skip("no Chromium: install one, or set ROISEG_CHROMIUM to its program")
        sandbox = [] if getattr(os, "geteuid", lambda: 1)() else ["--no-sandbox"]  # root has none
        running = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield running
        running.close()


@pytest.fixture
def visit(browser, serve):
    """`visit(predictor, ...)` opens the page of these models; its errors fail the test."""
    with ExitStack() as stack:
        sites = []

        def open_site(*predictors, limits=None, width=1200, **options):
            server = stack.enter_context(serve(*(predictors or [EllipsePredictor()]), limits=limits))
            page = browser.new_page(viewport={"width": width, "height": 800}, **options)
            stack.callback(page.close)
            sites.append(Site(page, server))
            return sites[-1]

        yield open_site
        for site in sites:
            refused = [said for said in site.complaints if "Failed to load resource" not in said]
            assert not refused
            own = f"http://127.0.0.1:{site.server.port}/"
            assert not [url for url in site.asked if not url.startswith((own, "data:", "blob:"))]
