"""`thimble report`: the page in a real browser, the table and Markdown as text. The reports are this machine's own."""

import html.parser
import json
import subprocess

import pytest
from conftest import BIN, thimble


@pytest.fixture(scope="module")
def reports(model, tmp_path_factory):
    """Three benches of this machine as one history, and an emulated board's report without times."""
    directory = tmp_path_factory.mktemp("reports")
    history = directory / "history.jsonl"
    with history.open("w") as out:
        for day in (1, 2, 3):
            bench = [BIN / "thimble-device", "bench", model, "--seq", "16", "--runs", "20", "--json"]
            report = json.loads(subprocess.check_output(bench))
            entry = {"schema": 1, "time": f"2026-01-0{day}T00:00:00Z", "board": "desk <1>", "report": report}
            out.write(json.dumps(entry) + "\n")
    for key in ("mean", "sd", "min", "p50", "p90", "p95", "p99", "max"):
        report["latency_ms"][key] = None
    report["latency_ms"]["samples"] = []
    (directory / "virtual.json").write_text(json.dumps(report))
    return [history, directory / "virtual.json"]


def browser(page, *args):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1500"]
    return subprocess.run(["chromium", *flags, *args, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)


def test_the_page_in_a_browser(reports, tmp_path):
    page = tmp_path / "page.html"
    thimble("report", *reports, "--html", page)
    dom = browser(page, "--dump-dom").stdout
    assert 'id="trend"' in dom and "desk &lt;1&gt;" in dom

    class Count(html.parser.HTMLParser):
        seen = {}

        def handle_starttag(self, tag, attrs):
            self.seen[tag] = self.seen.get(tag, 0) + 1
            assert tag != "script" and not {"src", "href"} & {name for name, _ in attrs}, "nothing is fetched"

    count = Count()
    count.feed(dom)
    # Latency, memory, weights, two trends; one row a report and the head; every run is a dot.
    assert count.seen["svg"] == 5 and count.seen["tr"] == 5
    assert count.seen["circle"] >= 3 * 20
    shot = tmp_path / "page.png"
    browser(page, f"--screenshot={shot}")
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 20_000


def test_table_markdown_and_json_tell_the_same(reports):
    table, markdown = thimble("report", *reports).stdout, thimble("report", *reports, "--md").stdout
    entries = json.loads(thimble("report", *reports, "--json").stdout)["reports"]
    assert len(entries) == 4
    p50 = f"{entries[0]['report']['latency_ms']['p50']:.2f}"
    assert p50 in table and p50 in markdown
    assert entries[3]["report"]["latency_ms"]["p50"] is None and " - " in table


def test_a_file_that_is_no_report_is_named(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert "bad.json" in thimble("report", bad, code=2).stderr
