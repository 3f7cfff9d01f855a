"""The page of a comparison: everything in one file, every name escaped, and a browser that has nothing to complain of."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from compared import compared

from agents.figures import draw_all
from agents.page import page
from agents.results import FAILED
from agents.tables import read_tables, write_tables

NASTY = "<script>alert(1)</script>"


def rule(cell, env, length, seed):
    if cell == "gru" and seed == 2:
        return FAILED
    return (1.0, 30_000 + 1000 * seed) if cell == "lstm" else (0.5, None)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_tables(folder, compared("memoryless lstm gru", {"tmaze_passive": (10, 50)}, 3, rule), "lstm")
    tables = read_tables(folder)
    figures = [path.with_suffix(".svg") for path in draw_all(folder, tables, "lstm")]
    assert len(figures) >= 4
    film = folder / "film.mp4"
    film.write_bytes(b"film")
    return page("a & b", NASTY, ["torch 2"], [f"control on {NASTY}"], figures, tables["ranking"], tables["longest"],
                [f"run-1: {NASTY}"], {"best": film}, ["python compare_cells.py x 'a<b'"])  # fmt: skip


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.links, self.ids, self.words, self.attributes = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_data(self, data):
        self.words.append(data)


def test_one_file_and_nothing_that_runs(text):
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.seen and tags.seen.count("svg") >= 2 and tags.seen.count("video") == 1
    assert all(link.startswith(("#", "data:video/mp4;base64,", "data:image/png;base64,")) for link in tags.links)
    assert len(tags.ids) == len(set(tags.ids)), "the figures' ids must not meet"
    assert {link[1:] for link in tags.links if link.startswith("#")} <= set(tags.ids)
    assert not re.search(r"url\((?!#)", text)


def test_what_it_says(text):
    tags = Tags()
    tags.feed(text)
    words = " ".join(tags.words)
    assert words.count(NASTY) == 3 and "a & b" in words and "python compare_cells.py x 'a<b'" in words
    assert "1.00 [1.00, 1.00]" in words and all(cell in words for cell in ("memoryless", "lstm", "gru"))
    assert words.index(f"control on {NASTY}") < words.index("Longest length solved") < words.index("Failed runs")


def test_for_a_screen_reader_and_the_keyboard(text):
    tags = Tags()
    tags.feed(text)
    of = {tag: [a for t, a in tags.attributes if t == tag] for tag in ("svg", "video", "th", "div")}
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in of["svg"])
    assert [a["aria-label"] for a in of["video"]] == ["film: best"]
    assert {a["scope"] for a in of["th"]} == {"col", "row"}
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in of["div"] if a["class"] == "wide")
    heads = re.findall(r"<th scope=col>(.*?)</th>", text)
    assert "p (better)" in heads and "p (faster)" in heads and len(set(heads[:8])) == 8


#: title of the page: its width, the window's, and for each figure how large a unit of its drawing is, in pixels
MEASURE = """<script>document.title = [document.documentElement.scrollWidth, window.innerWidth,
...Array.from(document.querySelectorAll("svg"), svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)
].join(" ")</script>"""


@pytest.mark.slow
def test_in_a_browser(text, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    (tmp_path / "index.html").write_text(text)
    # the page itself has no script; this copy of it says how wide it came out
    (tmp_path / "measured.html").write_text(text.replace("</body>", MEASURE + "</body>"))
    for width in (1200, 500):  # headless Chromium makes no window narrower than 500
        how = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
               "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile", f"--window-size={width},2000"]  # fmt: skip
        shot = tmp_path / f"{width}.png"
        run = [*how, f"--screenshot={shot}", (tmp_path / "index.html").as_uri()]
        done = subprocess.run(run, capture_output=True, text=True, timeout=120)
        assert shot.stat().st_size > 10_000 and "CONSOLE" not in done.stderr
        run = [*how, "--dump-dom", (tmp_path / "measured.html").as_uri()]
        dom = subprocess.run(run, capture_output=True, text=True, timeout=120).stdout
        page_width, window, *drawings = map(float, re.search(r"<title>([-\d. ]+)</title>", dom)[1].split())
        assert page_width <= window == width, "the page itself must not scroll sideways"
        assert len(drawings) == text.count("<svg") and min(drawings) > 0.75, "letters too small to read"
