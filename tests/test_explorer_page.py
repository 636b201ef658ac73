"""The explorer in a real browser: its rows are the records', nothing goes wrong, and nothing leaves the page."""

import itertools
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_explorer import SIZE, develop, records, render, scene
from torch import Tensor

from mmattn.capture import compose
from mmattn.layers.records import ChannelPairwise, Gate, Pyramid, Record, Regions
from mmattn.visualization.explorer.factors import TOLERANCE
from mmattn.visualization.explorer.features import FeatureMap
from mmattn.visualization.views import SHARE

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install '.[test]' brings it")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync hide-scrollbars"
)
REACH = (64 / 50, 96 / 70)  # the input was padded
GATE, PLANES, MASK = torch.rand(1, 20, 1, 1), torch.rand(1, 2, 4, 6), (torch.rand(1, 1, 3, 5) > 0.5).float()
EVEN = torch.ones(1, 1, 3, 5)
MATRIX = ChannelPairwise(torch.randn(1, 24, 24) * 3, SIZE)


@pytest.fixture(scope="module")
def maps() -> dict[str, list[Record]]:
    torch.manual_seed(0)
    more = {
        "gate": [Gate("spatial", PLANES)],
        "mask": [Gate("mask", MASK)],
        "even": [Gate("mask", EVEN)],
        "channels": [MATRIX],
    }
    return records() | more | {"channel": [Gate("channel", GATE)]}


@pytest.fixture(scope="module")
def address(maps: dict[str, list[Record]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two images and two models; the second of each has fewer layers."""
    features = {("channel", 0): [FeatureMap(channel, torch.randn(5, 8)) for channel in (3, 17)]}
    few = {"pairwise": maps["heads"]}
    full = develop(scene(maps, REACH), "first <b>&.png", features)
    small = develop(scene(few), "first <b>&.png")
    path = tmp_path_factory.mktemp("page") / "page.html"
    text = render([{"full </script>": full, "small": small}] * 2, points=[(35, 25)])
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: apt-get install chromium chromium-driver brings one")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in [
        *ARGUMENTS.split(),
        "window-size=1300,1600",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ]:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened anew. At its end the console is empty and nothing was asked for but the page itself."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(address)
    ready(browser)
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", address))] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def ready(browser: Any) -> None:
    browser.execute_async_script("mmattn.ready.then(arguments[0])")


def drawn(page: Any) -> None:
    """Wait until what has changed is on the screen."""
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def choose(page: Any, layer: str, view: str | None = None, model: int = 0) -> None:
    places = page.execute_script("return mmattn.layers(arguments[0]).map(({ place }) => place)", model)
    page.execute_script(
        "const [model, layer, view] = arguments; mmattn.look([0.1, 0.1], { model, layer, view })",
        model,
        places.index(layer),
        view,
    )


def hover(page: Any, x: int, y: int, model: int = 0) -> None:
    """Move the mouse over a pixel (x, y) of the 70 x 50 image."""
    frame = page.find_elements(By.CSS_SELECTOR, ".panel")[model].find_element(By.CSS_SELECTOR, ".frame")
    place = frame.rect
    across, down = ((x + 0.5) / 70 - 0.5) * place["width"], ((y + 0.5) / 50 - 0.5) * place["height"]
    ActionChains(page, duration=0).move_to_element_with_offset(frame, round(across), round(down)).perform()


def row(page: Any, model: int = 0) -> tuple[np.ndarray, tuple[int, int] | None]:
    found = page.execute_script("return mmattn.row(arguments[0])", model)
    return np.array(found["values"]).reshape(found["size"]), (found["y"], found["x"]) if "y" in found else None


def assert_close(found: np.ndarray, expected: Tensor) -> None:
    assert found.shape == tuple(expected.shape)
    assert np.abs(found - expected.numpy()).max() < TOLERANCE * float(expected.abs().max())


def cell(x: int, y: int) -> tuple[int, int]:
    """Of the 7 x 10 grid over the padded image."""
    return int((y + 0.5) / 64 * SIZE[0]), int((x + 0.5) / 96 * SIZE[1])


def expected_views(steps: list[Record]) -> Iterator[tuple[str, Any]]:
    """The views of a layer, and what each shows at (y, x)."""
    first = steps[0]
    if len(steps) > 1:
        yield "together", lambda y, x: compose(steps, y, x)[0, 0]
        for hop, step in enumerate(steps, start=1):
            yield f"hop{hop}", lambda y, x, step=step: step.row(y, x)[0, 0]
    elif isinstance(first, Pyramid):
        yield "all", lambda y, x: first.row(y, x)[0, 0]
    elif isinstance(first, Regions):
        yield "row", lambda y, x: first.row(y, x)[0, 0]
        best = int(first.weights()[0, :, 0, 0].argmax())  # where the page looks when the view is chosen
        yield "attended", lambda y, x: first.weights()[0, best]
    elif first.row(0, 0).shape[1] > 1:
        yield "mean", lambda y, x: first.row(y, x)[0].mean(0)
        yield "head1", lambda y, x: first.row(y, x)[0, 1]
    else:
        yield "row", lambda y, x: first.row(y, x)[0, 0]


@pytest.mark.parametrize("name", list(records()))
def test_the_row_under_the_pointer_is_the_records(page: Any, maps: dict[str, list[Record]], name: str) -> None:
    for view, expected in expected_views(maps[name]):
        choose(page, name, view)
        for x, y in [(0, 0), (69, 49), (40, 12)]:
            hover(page, x, y)
            found, at = row(page)
            assert at == cell(x, y)
            assert_close(found, expected(*at))


def test_cells_of_one_scale_lie_where_they_average(page: Any, maps: dict[str, list[Record]]) -> None:
    (record,) = maps["pyramid"]
    choose(page, "pyramid", "all")
    hover(page, 20, 20)
    whole, at = row(page)
    choose(page, "pyramid", "s1")
    hover(page, 20, 20)
    coarse, _ = row(page)
    assert np.ptp(coarse) == pytest.approx(0, abs=1e-9)
    cells = (record.k[0, 0] @ record.q[0, 0, at[0] * SIZE[1] + at[1]]).softmax(0)
    assert coarse.sum() == pytest.approx(float(cells[0]), abs=1e-3)
    choose(page, "pyramid", "s3")
    hover(page, 20, 20)
    np.testing.assert_allclose(row(page)[0] + coarse, whole, atol=1e-6)


def test_regions_can_be_left_out(page: Any, maps: dict[str, list[Record]]) -> None:
    (record,) = maps["regions"]
    choose(page, "regions", "row")
    hover(page, 50, 10)
    _, (y, x) = row(page)
    weights = record.weights()[0, :, y, x]
    chips = {chip.text.split("\n")[0]: chip for chip in page.find_elements(By.CSS_SELECTOR, ".chip")}
    assert sorted(name.split("  ")[0] for name in chips) == ["region 0", "region 1", "region 2"]
    chips["region 1"].click()
    found, _ = row(page)
    assert_close(found, weights[0] * record.soft[0, 0] + weights[2] * record.soft[0, 2])
    choose(page, "regions", "attended")
    found, _ = row(page)
    assert_close(found, record.weights()[0, [0, 2]].sum(0))


def test_a_region_that_nobody_chose_is_forgotten(page: Any, maps: dict[str, list[Record]]) -> None:
    (record,) = maps["regions"]
    choose(page, "regions", "attended")
    choose(page, "regions", "row")
    found, (y, x) = row(page)
    assert_close(found, record.row(y, x)[0, 0])


def test_gates_masks_and_channels(page: Any) -> None:
    for name, view, expected in [
        ("gate", "mean", PLANES[0].mean(0)),
        ("gate", "plane1", PLANES[0, 1]),
        ("mask", "plane0", MASK[0, 0]),
        ("channel", None, GATE[0].reshape(1, -1)),
        ("channels", None, MATRIX.channels()[0]),
    ]:
        choose(page, name, view)
        assert_close(row(page)[0], expected)


def test_a_mask_that_lets_everything_pass_is_bright(page: Any) -> None:
    choose(page, "even")
    drawn(page)
    ticks = page.find_element(By.CSS_SELECTOR, ".panel .ticks").text
    assert ticks.split() == ["0", "0.5", "1"]
    pixel = "return document.querySelector('.map').getContext('2d').getImageData(2, 1, 1, 1).data[1]"
    assert page.execute_script(pixel) > 200


def test_bars_choose_the_channel_whose_map_is_shown(page: Any) -> None:
    choose(page, "channel")
    page.find_elements(By.CSS_SELECTOR, ".thumbs button")[1].click()
    drawn(page)
    assert page.execute_script("return document.querySelector('.bars').ariaValueText").startswith("channel 17: gate")
    bars = page.find_element(By.CSS_SELECTOR, ".bars")
    bars.send_keys(Keys.HOME)
    best = int(GATE.flatten().argmax())
    drawn(page)
    assert bars.get_attribute("aria-valuetext").startswith(f"channel {best}: gate")


def reading(page: Any, model: int = 0) -> dict[str, str]:
    drawn(page)
    panel = page.find_elements(By.CSS_SELECTOR, ".panel")[model]
    terms, texts = (panel.find_elements(By.CSS_SELECTOR, f".reading {tag}") for tag in ("dt", "dd"))
    return {term.text: text.text for term, text in zip(terms, texts, strict=True)}


def test_names_stay_text_and_weights_can_be_read(page: Any, maps: dict[str, list[Record]]) -> None:
    assert page.find_element(By.TAG_NAME, "h1").text == "first <b>&.png"
    assert page.find_elements(By.CSS_SELECTOR, ".panel h2")[0].text == "full </script>"
    choose(page, "heads", "mean", 0)
    hover(page, 5, 40)
    said = reading(page)
    assert said["pixel"] == "5, 40"
    assert said["predicted"] == "<script>alert(1)</script>"
    assert said["truth"] == "unlabelled"
    y, x = cell(5, 40)
    weight = float(maps["heads"][0].row(y, x)[0].mean(0)[y, x])
    share, percent = said["weight on itself"].split(f" {SHARE} · ")
    assert float(share) == pytest.approx(weight * 70, rel=0.02)
    assert float(percent.removesuffix(" %")) == pytest.approx(weight * 100, rel=0.02)


def test_models_share_the_query_and_a_pin_is_compared(page: Any, maps: dict[str, list[Record]]) -> None:
    choose(page, "heads", "mean", 0)
    hover(page, 60, 8)
    frame = page.find_element(By.CSS_SELECTOR, ".frame")
    ActionChains(page, duration=0).click().perform()
    hover(page, 12, 33)
    said = reading(page, 1)
    assert said["pixel"] == "12, 33"
    assert len(page.find_elements(By.CSS_SELECTOR, ".frame")) == 4
    pinned = page.execute_script("return mmattn.row(1, true)")
    at = int(8.5 / 50 * SIZE[0]), int(60.5 / 70 * SIZE[1])
    assert (pinned["y"], pinned["x"]) == at
    expected = maps["heads"][0].row(*at)[0].mean(0)
    assert_close(np.array(pinned["values"]).reshape(SIZE), expected)
    here = int(33.5 / 50 * SIZE[0]), int(12.5 / 70 * SIZE[1])
    assert float(said["weight from the pin"].split(" ")[0]) == pytest.approx(float(expected[here]) * 70, rel=0.05)
    frame.send_keys(Keys.ESCAPE)
    reading(page)
    assert len(page.find_elements(By.CSS_SELECTOR, ".frame")) == 2


def test_keys_move_the_query_cell_by_cell(page: Any) -> None:
    choose(page, "heads", "mean")
    hover(page, 20, 20)
    _, (y, x) = row(page)
    frame = page.find_element(By.CSS_SELECTOR, ".frame")
    frame.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert row(page)[1] == (y - 1, x + 2)
    frame.send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert row(page)[1] == (y - 1, 0)
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.PAGE_DOWN, Keys.PAGE_UP, Keys.PAGE_DOWN)
    second = page.find_elements(By.CSS_SELECTOR, "#images button")[1]
    WebDriverWait(page, 30).until(lambda _: second.get_attribute("aria-current") == "true")


def test_keys_of_a_slider_are_its_own(page: Any) -> None:
    slider = page.find_element(By.ID, "clip")
    before = float(slider.get_attribute("value"))
    slider.send_keys(Keys.PAGE_DOWN)
    drawn(page)
    assert float(slider.get_attribute("value")) < before
    assert page.find_elements(By.CSS_SELECTOR, "#images button")[0].get_attribute("aria-current") == "true"
    assert not page.find_element(By.ID, "classes").is_enabled()  # there are none beneath


def test_a_finger_moves_the_query(page: Any) -> None:
    choose(page, "heads", "mean")
    place = page.execute_script("return document.querySelector('.frame').getBoundingClientRect().toJSON()")
    for kind, at in (("touchStart", 0.25), ("touchMove", 0.75), ("touchEnd", None)):
        points = [] if at is None else [{"x": place["left"] + at * place["width"], "y": place["top"] + 5}]
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert row(page)[1] == (0, int(0.75 * 70 / 96 * SIZE[1]))
    assert len(page.find_elements(By.CSS_SELECTOR, ".frame")) == 2


def test_the_address_restores_the_view(page: Any, browser: Any) -> None:
    choose(page, "criss-cross", "hop2")
    hover(page, 33, 44)
    ActionChains(page, duration=0).click().perform()
    hover(page, 10, 7)
    page.execute_script(
        "const log = document.getElementById('log'); log.value = 3; log.dispatchEvent(new Event('input'))"
    )
    page.find_element(By.ID, "theme").click()
    WebDriverWait(page, 30).until(lambda _: "log=3" in page.current_url and "theme=" in page.current_url)
    link, seen, pinned = page.current_url, row(page), page.execute_script("return mmattn.row(0, true)")
    browser.get("about:blank")
    browser.get(link)
    ready(page)
    assert row(page)[1] == seen[1]
    np.testing.assert_array_equal(row(page)[0], seen[0])
    again = page.execute_script("return mmattn.row(0, true)")
    assert (again["y"], again["x"], again["values"]) == (pinned["y"], pinned["x"], pinned["values"])
    assert page.find_element(By.ID, "log").get_attribute("value") == "3"
    assert page.execute_script("return document.documentElement.dataset.theme") in ("light", "dark")


@pytest.mark.parametrize(
    "wrong",
    ["image=9&at=7,x&clip=1000&m0=99,nothing,zz,-4", "m0=0&m1=&at=&pin=1,1&log=NaN", "%%%", "m0=map&m1=0,mean,,-1"],
)
def test_an_address_of_nonsense_does_no_harm(page: Any, address: str, wrong: str) -> None:
    page.get("about:blank")
    page.get(f"{address}#{wrong}")
    ready(page)
    assert row(page)[0].sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (768, 1024), (1920, 1080)])
def test_nothing_sticks_out(page: Any, maps: dict[str, list[Record]], width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for name in maps:
            choose(page, name)
            out = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.execute_script(out) <= 0, name
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_colours_are_the_scales(page: Any) -> None:
    """The darkest and the brightest pixel of a map are where its values are least and most."""
    choose(page, "heads", "head0")
    hover(page, 30, 30)
    values, _ = row(page)
    reading(page)
    painted = page.execute_script(
        "const map = document.querySelector('.map');"
        "return Array.from(map.getContext('2d').getImageData(0, 0, map.width, map.height).data)"
    )
    red = np.array(painted).reshape(*SIZE, 4)
    light = red[..., :3].sum(-1)
    y, x = np.unravel_index(values.argmax(), SIZE)
    assert light[y, x] == light.max()
    order = [tuple(np.unravel_index(i, SIZE)) for i in values.ravel().argsort()]
    assert all(light[a] <= light[b] + 8 for a, b in itertools.pairwise(order))
