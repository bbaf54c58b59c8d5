"""The page in a browser: what is seen fits and is told the numbers, with pointer, keyboard, without
JavaScript.
"""

import csv
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from chromium import FOUND, Chromium
from madeup import BETTER, NONE, STEPS, study, write, write_table
from scipy import stats

from clipbench.analysis.comparison import rankings
from clipbench.analysis.groups import read_groups
from clipbench.report.chart import PIXELS, rounded
from clipbench.report.page import Page

needs_chromium = pytest.mark.skipif(FOUND is None, reason="no Chromium here: the page was not looked at")
HOSTILE = "</script><script>window.hit = 1</script>"
OTHERS = ("norm", "quadratic_rand_norm", "linear_rand_auto", "coordinate_wise", HOSTILE)
WIDTHS = (360, 480, 768, 1024, 1600)

TEXTS = """
(() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest(".unseen, script, style, noscript, option, [hidden]")) continue;
    if (!parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const scroll = parent.closest(".scroll")?.getBoundingClientRect();
    const boxes = parent.closest("svg") ? [parent.getBoundingClientRect()] : range.getClientRects();
    for (const box of boxes) {
      const right = scroll ? Math.min(box.right, scroll.right) : box.right;
      const text = node.data.trim().slice(0, 40);
      if (box.width && right > box.left) found.push([text, box.left, box.top, right, box.bottom]);
    }
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser():
    chromium = Chromium()
    yield chromium
    chromium.close()


def written(folder, path):
    page = Page(folder)
    for group in read_groups(folder):
        for part in rankings(group):
            page.add(part)
    path.write_text(page.html(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A study, and a sweep of six methods over two learning rates where some runs diverged."""
    folder = tmp_path_factory.mktemp("browser")
    study(folder)
    for seed, value in enumerate(NONE):
        write(folder, "none", seed, value, task=HOSTILE, lr=0.0105)  # beside a tick of the others
        for lr in (0.01, 0.1):
            write(folder, "none", seed, value + lr, task=HOSTILE, lr=lr)
            for i, name in enumerate(OTHERS):
                lost = i == 3 and seed == 2 and lr == 0.1
                status = "diverged" if lost else "done"
                write(
                    folder, name, seed, BETTER[seed] - 0.01 * i + lr, status, task=HOSTILE, level=1.0, lr=lr
                )
    return written(folder, folder / "report.html")


@pytest.fixture
def shown(browser, page):
    browser.media()
    browser.size(1024)
    browser.open(page)
    browser.run("drawAll()")
    yield browser
    assert not browser.errors
    assert browser.requests == [page.resolve().as_uri()]


def overlaps(boxes):
    """Pairs whose boxes share more than two pixels both ways: a box is a little higher than its letters."""
    boxes = sorted(boxes, key=lambda box: box[2])
    found = []
    for i, (text, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[i + 1 :]:
            if top2 >= bottom - 2:
                break
            across = min(right, right2) - max(left, left2)
            if across > 2 and min(bottom, bottom2) - max(top, top2) > 2:
                found.append((text, other))
    return found


@needs_chromium
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_texts_overlap_nowhere_and_none_leaves_the_page(shown, width, wide):
    """`wide`: every figure enlarged."""
    shown.size(width)
    shown.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    if wide:
        buttons = "[...document.querySelectorAll('.tools button')].filter((b) => b.innerText === 'enlarge')"
        shown.run(f"{buttons}.forEach((each) => each.click())")
    shown.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert shown.run("document.documentElement.scrollWidth") <= width
    boxes = shown.run(TEXTS)
    assert len(boxes) > 150
    for text, left, _, right, _ in boxes:
        assert left >= 0, text
        assert right <= width + 0.5, text
    assert overlaps(boxes) == []
    beyond = """[...document.querySelectorAll(".plot > svg text")].filter((text) => {
      const [own, all] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1;
    }).map((text) => text.textContent)"""
    assert shown.run(beyond) == []


def test_overlaps_are_found():
    assert overlaps([["a", 0, 0, 10, 10], ["b", 5, 5, 15, 15], ["c", 0, 20, 10, 30]]) == [("a", "b")]


@needs_chromium
def test_names_from_files_are_shown_and_do_nothing(shown):
    assert shown.run("window.hit") is None
    assert HOSTILE in shown.run(
        "document.querySelector('.legend:last-of-type, .legend').closest('main').innerText"
    )
    names = shown.run("[...document.querySelectorAll('.legend button')].map((button) => button.innerText)")
    assert names.count(HOSTILE) == 1
    assert shown.run("document.querySelectorAll('script:not([type])').length") == 1


@needs_chromium
def test_the_policy_lets_no_other_script_run(shown):
    shown.run("document.body.append(make('script', {textContent: 'window.hit = 2'}))")
    assert shown.run("window.hit") is None
    (error,) = shown.errors
    assert "Content Security Policy" in error
    shown.errors.clear()


def chart(what):
    """Of the study."""
    figures = "[...document.querySelectorAll('#at-toy-mini-SGD-quick figure.chart')]"
    return f"{figures}.find((each) => each.querySelector('figcaption').textContent.includes('{what}'))"


def place(browser, what, share, height=0.5):
    """Move the pointer to a share of the way across a chart's svg."""
    browser.run(f"{chart(what)}.scrollIntoView({{block: 'center'}})")
    box = browser.run(f"{chart(what)}.querySelector('.plot > svg').getBoundingClientRect().toJSON()")
    browser.move(box["left"] + share * box["width"], box["top"] + height * box["height"])
    return browser.run(f"{chart(what)}.querySelector('.tip:not([hidden])')?.innerText")


@needs_chromium
def test_the_pointer_reads_the_means_of_the_runs(shown):
    text = place(shown, "Validation accuracy", 0.97)
    title, *lines = text.splitlines()
    assert title == f"step {STEPS}"
    mean, half = np.mean(NONE), stats.t.ppf(0.975, 4) * stats.sem(NONE)
    first = next(line for line in lines if line.startswith("no clipping"))
    numbers = [float(number) for number in re.findall(r"\d\.\d+", first)]
    np.testing.assert_allclose(numbers, [mean, mean - half, mean + half], rtol=5e-4)
    select = "document.querySelector('#at-toy-mini-SGD-quick select')"
    shown.run(f"{select}.selectedIndex = 1")
    shown.run(f"{select}.dispatchEvent(new Event('change'))")
    assert place(shown, "Validation accuracy", 0.97).startswith(f"seconds of training {STEPS / 10:g}\n")


@needs_chromium
def test_the_paired_differences_are_those_of_the_seeds(shown):
    data = json.loads(shown.run(f"{chart('paired by')}.querySelector('script').textContent"))
    (row,) = data["rows"]
    gains = [-100 * (0.03 + 0.001 * seed) for seed in range(5)]
    assert [name for name, _ in row["pairs"]] == [f"seed {seed}" for seed in range(1, 6)]
    np.testing.assert_allclose([value for _, value in row["pairs"]], gains, rtol=1e-3)
    ends = stats.ttest_1samp(gains, 0).confidence_interval(0.95)  # of one method there is nothing to correct
    np.testing.assert_allclose([row["mean"], row["low"], row["high"]], [np.mean(gains), *ends], rtol=1e-3)
    shown.run(f"{chart('paired by')}.querySelector('.plot').focus()")
    shown.key("ArrowDown", 40)
    told = shown.run(f"{chart('paired by')}.querySelector('[aria-live]').textContent")
    assert told.startswith("norm −3.2 (−3.4 to −3.0), n=5; seed 1 −3; seed 2 −3.1")


@needs_chromium
def test_dots_stand_where_the_axis_says(shown):
    """The axis read from its ticks: pixel = a + b · value."""
    script = f"""(() => {{
      const svg = {chart("paired by")}.querySelector(".plot > svg");
      const place = (text) => [text.textContent, text.x.baseVal[0].value];
      const ticks = [...svg.querySelectorAll(":scope > text")].map(place);
      return [ticks, [...svg.querySelectorAll("circle")].map((dot) => dot.cx.baseVal.value)];
    }})()"""
    ticks, dots = shown.run(script)
    ticks = [(float(text.replace("−", "-")), x) for text, x in ticks if re.fullmatch(r"−?\d+(\.\d+)?", text)]
    assert len(ticks) >= 3
    slope, start = np.polyfit(*zip(*ticks, strict=True), 1)
    gains = [-100 * (0.03 + 0.001 * seed) for seed in range(5)]
    np.testing.assert_allclose(dots, start + slope * np.array(gains), atol=1.5)


@needs_chromium
def test_a_logarithmic_axis_is_one(shown):
    what = "Training loss"
    shown.run(
        f"[...{chart(what)}.querySelectorAll('.tools button')].find((b) => b.innerText === 'log').click()"
    )
    script = f"""[...{chart(what)}.querySelectorAll('.plot > svg > text[text-anchor=end]')]
      .map((text) => [text.textContent, text.y.baseVal[0].value])"""
    ticks = [(float(text), y) for text, y in shown.run(script) if re.fullmatch(r"[\d.]+", text)]
    assert len(ticks) >= 3
    values, places = np.array(ticks).T
    assert np.corrcoef(np.log(values), places)[0, 1] == pytest.approx(-1, abs=1e-9)


@needs_chromium
def test_the_legend_hides_a_method_everywhere(shown):
    count = "document.querySelectorAll('figure:not([hidden]) > .plot > svg [data-method=norm]').length"
    button = "[...document.querySelectorAll('.legend button')].filter((each) => each.innerText === 'norm')"
    before = shown.run(count)
    assert before > 10
    shown.run(f"{button}.forEach((each) => each.click())")
    assert shown.run(count) == 0
    assert shown.run(f"{button}.every((each) => each.getAttribute('aria-pressed') === 'false')")
    assert "norm" not in [
        line.split(" ")[0] for line in place(shown, "Validation accuracy", 0.9).splitlines()
    ]
    assert shown.run(f"{chart('norm: clipping level')}.hidden")  # it shows nothing else
    shown.run(f"{button}.forEach((each) => each.click())")
    assert shown.run(count) == before


SAVED = """new Promise((done) => {{
  const was = URL.createObjectURL;
  URL.createObjectURL = (blob) => {{
    blob.text().then(done);
    URL.createObjectURL = was;
    return was.call(URL, blob);
  }};
  [...{chart}.querySelectorAll('.tools button')].find((button) => button.innerText === '{name}').click();
}})"""


@needs_chromium
def test_what_is_saved_are_the_numbers_and_the_drawing(shown, tmp_path):
    shown.ask("Browser.setDownloadBehavior", behavior="deny")
    text = shown.run(SAVED.format(chart=chart("Validation accuracy"), name="CSV"))
    rows = list(csv.DictReader(io.StringIO(text)))
    last = [row for row in rows if row["step"] == str(STEPS) and row["method"] == "no clipping"]
    thin = {row["what"]: float(row["validation accuracy"]) for row in last if row["what"].startswith("seed")}
    assert thin == {f"seed {seed + 1}": value for seed, value in enumerate(NONE)}
    svg = ElementTree.fromstring(shown.run(SAVED.format(chart=chart("Validation accuracy"), name="SVG")))
    texts = ["".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"validation accuracy", "step", "norm", "no clipping"} <= set(texts)


@needs_chromium
def test_a_formula_from_a_file_is_text_in_the_csv(shown):
    assert shown.run("asCsv([['=1+1', '@a', 'b,\"c\"', -2.5, null]])") == '\'=1+1,\'@a,"b,""c""",-2.5,\n'


NAMED = ("button", "combobox", "application", "table", "region", "figure", "image", "columnheader")


@needs_chromium
def test_a_screen_reader_has_a_name_for_all_that_one_can_reach(shown):
    shown.ask("Accessibility.enable")
    nodes = shown.ask("Accessibility.getFullAXTree")["nodes"]
    shown.ask("Accessibility.disable")
    roles = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in NAMED:
            name = node.get("name", {}).get("value", "")
            roles.setdefault(role, []).append(name)
            assert name.strip() or role == "figure", node
    assert {"button", "combobox", "application", "table", "columnheader"} <= set(roles)
    for names in (roles["application"], roles["table"]):
        assert len(names) >= 2
    assert shown.run(
        "[...document.querySelectorAll('th')].every((head) => ['col', 'row'].includes(head.scope))"
    )
    assert shown.run(
        "[...document.querySelectorAll('table')].every((table) => table.caption.textContent.trim())"
    )
    words = "(plot) => document.getElementById(plot.getAttribute('aria-describedby')).textContent"
    described = shown.run(f"[...document.querySelectorAll('.plot')].map({words})")
    assert all(re.search(r"\d", text) for text in described)


@needs_chromium
def test_keys_reach_every_control_and_read_a_chart(shown):
    wanted = shown.run("document.querySelectorAll('a[href], button, select, summary, .plot, .scroll').length")
    script = "(window.seen ??= new Set()).add(document.activeElement).size"
    shown.run("document.body.focus()")
    for _ in range(wanted + 2):
        shown.key("Tab", 9)
        shown.run(script)
    reached = shown.run("[...window.seen].filter((each) => each !== document.body).length")
    assert reached == wanted
    shown.run(f"{chart('Validation accuracy')}.querySelector('.plot').focus()")
    told = f"{chart('Validation accuracy')}.querySelector('[aria-live]').textContent"
    shown.key("Home", 36)
    assert shown.run(told).startswith("step 4;")
    shown.key("ArrowRight", 39)
    assert shown.run(told).startswith("step 8;")
    shown.key("End", 35)
    assert shown.run(told).startswith(f"step {STEPS};")
    shown.key("Escape", 27)
    assert shown.run(f"{chart('Validation accuracy')}.querySelector('.tip').hidden")


CONTRAST = """
(() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (element.closest("script, style, noscript, .unseen") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.closest("svg") ? style.fill : style.color)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push([element.outerHTML.slice(0, 80), contrast]);
  }
  return found;
})()
"""


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_aa(shown, scheme):
    shown.media(scheme=scheme)
    assert (
        shown.run("getComputedStyle(document.body).backgroundColor")
        == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]
    )
    assert shown.run(CONTRAST) == []


@needs_chromium
@pytest.mark.parametrize("scheme", ["dark"])
def test_lines_are_seen_on_a_dark_ground(shown, scheme):
    """3:1, as for what is no text."""
    shown.media(scheme=scheme)
    lines = "[...document.querySelectorAll('.legend line')].map((line) => getComputedStyle(line).stroke)"
    ground = luminance((22, 24, 27))
    for colour in shown.run(lines):
        assert (luminance(map(int, re.findall(r"\d+", colour))) + 0.05) / (ground + 0.05) >= 3


def luminance(rgb):
    parts = [c / 255 for c in rgb]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(parts, [0.2126, 0.7152, 0.0722])


@needs_chromium
def test_without_javascript_the_still_figures_stand_in(browser, page):
    browser.media()
    browser.size(1024)
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        root = browser.ask("DOM.getDocument", depth=-1)["root"]["nodeId"]
        images = browser.ask("DOM.querySelectorAll", nodeId=root, selector=".panels img")["nodeIds"]
        assert len(images) > 10
        for image in images[:3]:
            width, height = (
                browser.ask("DOM.getBoxModel", nodeId=image)["model"][side] for side in ("width", "height")
            )
            assert width > 200
            assert height > 100
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


@needs_chromium
def test_paper_has_every_chart(shown, page):
    shown.open(page)
    shown.ask("Page.printToPDF", landscape=True)
    drawn = "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector(':scope > svg path'))"
    assert shown.run(drawn)
    assert shown.run("[...document.querySelectorAll('details')].every((part) => part.open)")


@pytest.mark.parametrize("log", [False, True])
def test_rounding_moves_nothing_by_a_pixel(log):
    rng = np.random.default_rng(0)
    for offset in (0, 1, 1000):
        values = offset + rng.normal(size=500) if not log else np.exp(10 * rng.normal(size=500))
        extent = float(np.ptp(values))
        short = np.array(rounded([*values, np.nan, np.inf], extent), dtype=object)
        assert short[-2:].tolist() == [None, None]
        error = np.abs(short[:-2].astype(float) - values)
        assert error.max() <= 10 * extent / PIXELS
        assert (error / np.abs(values)).max() <= 5.01e-4
        assert len(json.dumps(short[:-2].tolist())) < 14 * len(values)


@needs_chromium
@pytest.mark.slow
def test_two_hundred_runs_open_within_a_second(browser, tmp_path):
    """Eight methods of 25 seeds, 2 000 steps each."""
    steps = 2000
    at = np.arange(1, steps + 1)
    rng = np.random.default_rng(0)
    for i in range(8):
        for seed in range(25):
            name = "none" if i == 0 else "norm"
            write(tmp_path, name, seed, NONE[seed % 5] + 0.01 * i, level=None if i == 0 else float(i), own=i)
    folder = tmp_path / "runs"
    for path in folder.iterdir():
        norm = np.exp(rng.normal(size=steps))
        rows = []
        for step, value in zip(at.tolist(), norm.tolist(), strict=True):
            rows.append(
                {
                    "step": step,
                    "seconds": step / 10,
                    "loss": value / step,
                    "grad_norm": value,
                    "clipped_norm": min(1.0, value),
                    "clip_factor": min(1.0, 1 / value),
                }
            )
        write_table(tmp_path, "steps", path.stem, rows)
    path = written(tmp_path, tmp_path / "report.html")
    browser.media()
    browser.size(1280)
    times = []
    for _ in range(3):
        browser.open(path)
        times.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert min(times) < 1000
    assert path.stat().st_size < 5e6
