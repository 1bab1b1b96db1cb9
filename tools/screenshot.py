"""Makes docs/app.png: `python -m tools.screenshot URL IMAGE PERSON OUTPUT` of a page that is running."""

from __future__ import annotations

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright


def shoot(url: str, image: str, person: str) -> bytes:
    """PNG of the page with an image's people detected and one of them selected."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 700})
        page.set_default_timeout(300_000)
        page.goto(url)
        page.set_input_files("#file", image)
        page.wait_for_selector("#people li")
        page.wait_for_selector("body:not(.busy)")
        page.get_by_role("button", name=f"{person} · detected").click()
        page.wait_for_timeout(1000)
        return page.screenshot(full_page=True)


def main() -> None:
    """Shoot, and write with 256 colours."""
    url, image, person, output = sys.argv[1:]
    image = Image.open(io.BytesIO(shoot(url, image, person))).convert("RGB")
    colors = image.quantize(256, kmeans=2)
    image.quantize(palette=colors, dither=Image.Dither.FLOYDSTEINBERG).save(output, optimize=True)


if __name__ == "__main__":
    main()
