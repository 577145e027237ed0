"""The page in a real browser, before a real station with a fake model."""

import os
import shutil
import subprocess
import tarfile
import threading
from contextlib import contextmanager

import httpx2
import pytest
import uvicorn
from tests.station_fakes import config_in, image_of, wait_until
from tests.station_models import ANOMALOUS, NORMAL, dangerous

from efficientad.station.http.app import create_app

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
VIEWS = ("live", "history", "review", "model", "drift", "audit", "system")
SIZES = {"desk": (1280, 800), "tablet": (820, 1180)}
HOSTILE = '<img src=x onerror="document.title=1">'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH"),
]


class Station:
    """A station behind an address."""

    def __init__(self, url):
        self.url = url
        self.client = httpx2.Client(base_url=f"{url}/api/v1", timeout=60)
        self._seed = 0

    def get(self, path, **query):
        return self.client.get(path, params=query).raise_for_status().json()

    def inspect(self, level, **query):
        self._seed += 1
        image = image_of(level, size=64, seed=self._seed)
        answer = self.client.post("/inspections", content=image, params=query)
        return answer.raise_for_status().json()


@contextmanager
def served(config):
    app = create_app(config, dangerous)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx2.get(f"{url}/health/ready").status_code == 200)
        with (station := Station(url)).client:
            yield station
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    with served(config_in(tmp_path_factory.mktemp("station"))) as station:
        for n in range(8):
            station.inspect(NORMAL if n % 2 else ANOMALOUS, part=f"P-{n}")
        yield station


@pytest.fixture(scope="module")
def browser():
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=root)
        yield browser
        browser.close()


@contextmanager
def opened(browser, station, view="live", size="desk", **options):
    """Open a view, and fail for each error, warning or refusal of the browser."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, **options
    )
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def on_console(message):
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    page.on("console", on_console)
    page.goto(f"{station.url}/#/{view}")
    page.wait_for_selector("nav a[aria-current=page]")
    page.wait_for_load_state("load")
    page.wait_for_timeout(500)
    try:
        yield page
        assert complaints == []
    finally:
        context.close()


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("tablet", "dark")])
def test_every_view_opens_without_a_complaint_and_fits(browser, station, size, scheme):
    with opened(browser, station, size=size, color_scheme=scheme) as page:
        for view in VIEWS:
            page.goto(f"{station.url}/#/{view}")
            page.wait_for_timeout(400)
            assert page.locator("h1").count() == 1
            assert page.title().lower().startswith(view)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= SIZES[size][0], view


def test_a_new_part_appears_by_word_and_as_stored(browser, station):
    with opened(browser, station) as page:
        part = station.inspect(ANOMALOUS, part="P-new")
        page.wait_for_selector(".verdict:has-text('P-new')")
        assert page.inner_text(".verdict strong") == "Anomalous"
        assert "Last part stored" in page.inner_text(".stored")
        assert part["id"] in page.get_attribute(".viewer .photo", "src")

        station.inspect(NORMAL, part="P-next")
        page.wait_for_selector(".verdict:has-text('P-next')")
        assert page.inner_text(".verdict strong") == "Normal"


def test_a_part_that_is_held_stays(browser, station):
    with opened(browser, station) as page:
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("text=Follow the newest")
        held = page.inner_text(".verdict .of")
        station.inspect(NORMAL)
        page.wait_for_timeout(500)
        assert page.inner_text(".verdict .of") == held
        page.click("text=Follow the newest")
        page.wait_for_timeout(300)
        assert page.inner_text(".verdict .of") != held


def test_the_page_turns_red_when_nothing_is_stored(browser, station):
    with opened(browser, station) as page:
        station.inspect(NORMAL, part="P-late")
        page.wait_for_selector(".verdict:has-text('P-late')")
        page.wait_for_selector(".stored:not(.late)")
        page.clock.install()
        page.clock.fast_forward(120_000)
        page.wait_for_selector(".stored.late")
        assert "No part for" in page.inner_text(".stored")


def test_twenty_reviews_take_twenty_keys(browser, tmp_path):
    with served(config_in(tmp_path, review_share=0.0)) as station:
        parts = {station.inspect(ANOMALOUS)["id"] for _ in range(20)}
        keys = [*"12123", "m", "]", "o", *"1212", "z", *"1121", "3", *"1222121"]
        with opened(browser, station, "review") as page:
            for key in keys:
                page.keyboard.press(key)
            page.wait_for_selector("text=Nothing to review")
            wait_until(lambda: station.get("/review-queue")["total"] == 0)

        assert len(keys) <= 25
        reviews = [station.get(f"/inspections/{p}/reviews")["counts"] for p in parts]
        assert all(
            review["verdict"] in {"normal", "defect", "unsure"} for review in reviews
        )


def test_undo_brings_the_part_back(browser, station):
    station.inspect(ANOMALOUS)
    with opened(browser, station, "review") as page:
        first = page.inner_text(".verdict .of")
        total = station.get("/review-queue")["total"]
        page.keyboard.press("2")
        page.wait_for_timeout(400)
        assert page.inner_text(".verdict .of") != first
        assert station.get("/review-queue")["total"] == total - 1
        page.keyboard.press("z")
        page.wait_for_timeout(400)
        assert page.inner_text(".verdict .of") == first
        assert station.get("/review-queue")["total"] == total


def test_keys_are_off_in_fields_and_can_be_switched_off(browser, station):
    station.inspect(ANOMALOUS)
    total = station.get("/review-queue")["total"]
    with opened(browser, station, "review") as page:
        page.keyboard.press("n")
        page.keyboard.type("1 scratch of 2 mm")
        assert page.input_value("[data-note]") == "1 scratch of 2 mm"
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        page.uncheck("#help input")
        page.click("#help button")
        page.keyboard.press("1")
        page.wait_for_timeout(300)
    assert station.get("/review-queue")["total"] == total


def test_names_are_text(browser, station):
    station.inspect(NORMAL, part=HOSTILE)
    for view in ("live", "history"):
        with opened(browser, station, view) as page:
            page.wait_for_selector("text=onerror")
            assert page.title() != "1"
            assert page.locator("img[src=x]").count() == 0


def test_a_rule_is_drawn_and_written(browser, station):
    with opened(browser, station, "model") as page:
        draw = page.locator(".draw")
        draw.scroll_into_view_if_needed()
        box = draw.bounding_box()
        for x, y in ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9)):
            draw.click(position={"x": x * box["width"], "y": y * box["height"]})
        page.click("text=Close the shape")
        page.fill(".rule label:has-text('Reason') input", "only the plate")
        page.click("text=Write the rule")
        page.wait_for_selector("text=Rule 2 is written")
    rule = station.get("/rules")[0]
    assert rule["version"] == 2
    assert rule["reason"] == "only the plate"
    corners = [c for corner in rule["regions"][0]["points"] for c in corner]
    assert corners == pytest.approx([0.1, 0.1, 0.9, 0.1, 0.9, 0.9], abs=0.02)


def test_a_model_is_tried_on_the_page(browser, station):
    with opened(browser, station, "model") as page:
        page.click("summary")
        page.click("text=Try it on the last 200 parts")
        page.wait_for_selector("text=done: of", timeout=60_000)
    sha256 = station.get("/models")[0]["sha256"]
    assert [job["state"] for job in station.get(f"/models/{sha256}/trials")] == ["done"]


def test_the_chain_is_verified_on_the_page(browser, station):
    with opened(browser, station, "audit") as page:
        page.click("text=Verify the chain")
        page.wait_for_selector("text=The chain is whole")


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """Return the source of axe-core, from the package registry."""
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", "axe-core@4.14.1", "--ignore-scripts", "--silent"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("needs npm and the package registry")
    with tarfile.open(next(folder.glob("*.tgz"))) as files:
        source = files.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("tablet", "dark")])
def test_every_view_is_accessible(browser, station, axe, size, scheme):
    found = {}
    with opened(browser, station, size=size, color_scheme=scheme) as page:
        for view in VIEWS:
            page.goto(f"{station.url}/#/{view}")
            page.wait_for_timeout(500)
            page.evaluate(f"(() => {{ {axe} }})()")
            report = page.evaluate("axe.run(document)")
            found[view] = [
                (fault["id"], fault["nodes"][0]["html"][:120])
                for fault in report["violations"]
                if fault["impact"] in {"serious", "critical"}
            ]
    assert not {view: faults for view, faults in found.items() if faults}


def test_the_check_notices_what_is_not_accessible(browser, station, axe):
    with opened(browser, station) as page:
        page.evaluate(f"(() => {{ {axe} }})()")
        page.evaluate("document.querySelector('.photo').removeAttribute('alt')")
        report = page.evaluate("axe.run(document)")
    assert "image-alt" in {fault["id"] for fault in report["violations"]}
