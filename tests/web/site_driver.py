"""A user before the page, in a real browser."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

GREY = np.full((300, 400, 3), 128, np.uint8)  # one colour: resampling on the screen does not change it
BOX = (100, 60, 220, 240)


def encoded(image=GREY, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


class Site:
    """A user before the page."""

    def __init__(self, page, server):
        self.page, self.server = page, server
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(20_000)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("filechooser", lambda chooser: None)  # asked for only when waited for, it may come too early
        page.goto(f"http://127.0.0.1:{server.port}/")
        self.settle()

    def settle(self):
        """Wait until nothing is asked of the server and all is drawn."""
        self.page.wait_for_selector("figure")
        self.page.wait_for_selector("body:not(.busy)")
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def open(self, content=None, name="grey.png"):
        file = {"name": name, "mimeType": "image/png", "buffer": encoded() if content is None else content}
        self.page.set_input_files("#file", file)
        self.settle()

    def hold(self, address):
        """Hold back the next request to an address; returns a function that has it answered."""
        held = []

        def answer():
            (route,) = held
            route.fulfill(response=route.fetch())
            self.settle()

        self.page.route(address, lambda route: held.append(route), times=1)
        return answer

    def at(self, x, y, pane=0):
        """Where a pixel of the image lies on the screen, once it is drawn."""
        self.page.wait_for_function(
            "pane => document.querySelectorAll('.stage canvas')[pane].dataset.width && "
            "document.querySelectorAll('.stage canvas')[pane].getBoundingClientRect().width",
            arg=pane,
        )
        return self.page.evaluate(
            """([pane, x, y]) => {
                const canvas = document.querySelectorAll(".stage canvas")[pane];
                const { left, top, width } = canvas.getBoundingClientRect();
                const scale = width / Number(canvas.dataset.width);
                return [left + x * scale, top + y * scale];
            }""",
            [pane, x, y],
        )

    def drag(self, box=BOX, pane=0):
        """Drag with the mouse from x1, y1 to x2, y2."""
        self.page.mouse.move(*self.at(*box[:2], pane))
        self.page.mouse.down()
        self.page.mouse.move(*self.at((box[0] + box[2]) / 2, box[3], pane))
        self.page.mouse.move(*self.at(*box[2:], pane))
        self.page.mouse.up()
        self.settle()

    def swipe(self, x1, y1, x2, y2):
        """Drag with a finger."""
        touch = self.page.context.new_cdp_session(self.page)
        for kind, points in (
            ("touchStart", [(x1, y1)]),
            ("touchMove", [((x1 + x2) / 2, y2)]),
            ("touchMove", [(x2, y2)]),
            ("touchEnd", []),
        ):
            places = [dict(zip("xy", self.at(*point), strict=True)) for point in points]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
        self.settle()

    def click(self, x, y, pane=0, key=None):
        if key:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.at(x, y, pane))
        if key:
            self.page.keyboard.up(key)
        self.settle()

    def color(self, x, y, pane=0):
        """RGB of the canvas at a pixel of the image."""
        return self.page.evaluate(
            """([pane, x, y]) => {
                const canvas = document.querySelectorAll(".stage canvas")[pane];
                const scale = canvas.width / Number(canvas.dataset.width);
                const place = [Math.round(x * scale), Math.round(y * scale), 1, 1];
                return [...canvas.getContext("2d").getImageData(...place).data].slice(0, 3);
            }""",
            [pane, x, y],
        )

    def people(self):
        return self.page.locator("#people .pick").all_inner_texts()

    def message(self):
        alert = self.page.get_by_role("alert")
        return alert.inner_text() if alert.is_visible() else ""

    def saved(self, selector, pane=0):
        """(name, bytes, what the server was asked) of a download."""
        route = "**/predictions" if "json" in selector else "**/masks"
        with self.page.expect_request(route) as request, self.page.expect_download() as download:
            self.page.locator(selector).nth(pane).click()
        self.settle()
        content = Path(download.value.path()).read_bytes()
        return download.value.suggested_filename, content, request.value.post_data_json
