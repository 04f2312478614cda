"""The report in a real browser: drawn, readable, and usable by keyboard, on a phone and on paper."""

import shutil

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def opened(browser, judged_data, tmp_path):
    """Open the report of some number of tasks; every error that the page throws fails the test."""
    from taskpgm_ray.report import render

    pages, errors = [], []

    def open_page(n, width=1280, scheme="light"):
        file = tmp_path / f"{n}.html"
        file.write_text(render(judged_data(n)), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.extend([request.url] if request.url.startswith("http") else []))
        page.goto(file.as_uri())
        page.wait_for_function("window.Plotly !== undefined")
        page.query_selector("#figure-mixture").scroll_into_view_if_needed()
        page.wait_for_selector("#figure-mixture .main-svg")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert errors == []


def read_all(page):
    """Scroll through the page and open what is folded, so that everything is drawn."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    for plot in page.query_selector_all(".plot"):
        if plot.is_visible():
            plot.scroll_into_view_if_needed()
            page.wait_for_function("(plot) => plot.querySelector('.main-svg') !== null", arg=plot)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_axe_finds_nothing(opened, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(8, width, scheme)
    read_all(page)
    # Every tab in turn: what is hidden is not checked.
    tabs = page.query_selector_all("[role=tab]")
    for tab in [None, *tabs]:
        if tab is not None:
            tab.click()
        found = Axe().run(page).response["violations"]
        told = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
        assert told == []


@pytest.mark.parametrize(("n", "width"), [(8, 390), (60, 390), (8, 768), (60, 1920)])
def test_nothing_is_wider_than_the_window(opened, n, width):
    page = opened(n, width)
    read_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_of_eight_tasks_is_small(judged_data):
    from taskpgm_ray.report import render

    assert len(render(judged_data(8)).encode()) < 3e6


def test_figures_are_drawn_when_they_are_seen(opened):
    page = opened(60)
    far = "#figure-coverage .main-svg"
    assert page.query_selector(far) is None
    page.query_selector("#figure-coverage").scroll_into_view_if_needed()
    page.wait_for_selector(far)


def test_a_hidden_figure_is_drawn_when_its_tab_is_opened_also_by_keyboard(opened):
    page = opened(8)
    first = page.query_selector("#affinity [role=tab]")
    first.focus()
    assert not page.is_visible("#figure-divergence")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#figure-divergence .main-svg", state="visible")
    assert not page.is_visible("#figure-affinity")
    # Once more in other colours, those of the tab that was left behind as well.
    page.emulate_media(color_scheme="dark")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#figure-affinity .main-svg", state="visible")
    page.wait_for_function(
        "getComputedStyle(document.querySelector('#figure-affinity .xtick text')).fill === 'rgb(230, 233, 239)'"
    )


def test_tables_sort_filter_and_download(opened, report_data):
    data = report_data(30)
    page = opened(30)
    rows = "#tasks tbody tr"
    shown = lambda: [row for row in page.query_selector_all(rows) if row.is_visible()]  # noqa: E731
    assert len(shown()) == 30
    page.fill("#tasks input[type=search]", "task_007")
    assert [row.query_selector("td").inner_text() for row in shown()] == [data.names[7]]
    with page.expect_download() as download:
        page.click("#tasks .tools button")
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("task,source,train,")
    assert len(lines) == 2
    cells = lines[1].split(",")
    assert cells[0] == data.names[7]
    assert float(cells[lines[0].split(",").index("loss before")]) == data.tasks[7].heldout_loss_before
    page.fill("#tasks input[type=search]", "")
    page.click("#tasks th:has-text('drop') button")
    first = shown()[0].query_selector("td").inner_text()
    assert first == max(data.tasks, key=lambda task: task.loss_drop).name


def test_a_download_keeps_errors_that_columns_do_not_sort_by(opened, report_data):
    data = report_data(8)
    page = opened(8)
    page.evaluate("document.querySelectorAll('[role=tabpanel]').forEach((panel) => panel.hidden = false)")
    with page.expect_download() as download:
        page.click("[aria-label^='Download as CSV: Mean JSD in nats of each pair']")
    head, *lines = [line.split(",") for line in download.value.path().read_text().splitlines()]
    found = {(line[0], name): cell for line in lines for name, cell in zip(head[1:], line[1:], strict=True)}
    one, other = data.names[2], data.names[5]
    assert found[one, other] == f"{data.divergence[2, 5]} ± {data.divergence_se[2, 5]}"
    assert found[one, one] == str(data.divergence[2, 2])


def test_paper_has_all_figures_and_no_buttons(opened):
    page = opened(8)
    page.emulate_media(media="print", color_scheme="dark")
    assert len(page.pdf()) > 100_000
    assert not page.is_visible(".tools")
    assert not page.is_visible("nav")
    page.wait_for_selector("#figure-coverage .main-svg")
