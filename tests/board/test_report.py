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
    # One row a report and the head; every run is a dot; two trends, each with its curve.
    assert count.seen["tr"] == 5 and count.seen["polyline"] == 2
    assert count.seen["circle"] >= 3 * 20
    for part in ("latency", "memory", "weights"):
        assert f'<section id="{part}"><h2>' in dom
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


def test_hostile_and_corrupt_reports(reports, tmp_path):
    """Markup in every text of a report stays text; a broken line is named with its number."""
    history = reports[0].read_text().splitlines()
    entry = json.loads(history[0])
    evil = '"><img src=x onerror=alert(1)><script>alert(1)</script>\'&\u202e\x1b]0;x\x07'

    def poison(value):
        if isinstance(value, str):
            return evil
        if isinstance(value, list):
            return [poison(v) for v in value]
        if isinstance(value, dict):
            return {(evil + k if k.startswith("layer") or "." in k else k): poison(v) for k, v in value.items()}
        return value

    bad = tmp_path / "evil.jsonl"
    bad.write_text(json.dumps(poison(entry)) + "\n" + json.dumps(poison(entry)) + "\n")
    page = tmp_path / "evil.html"
    shown = thimble("report", bad, "--html", page)
    assert "\x1b" not in shown.stdout and "\x07" not in shown.stdout
    dom = browser(page, "--dump-dom").stdout
    assert "<img" not in dom and "<script" not in dom and "&lt;img" in dom
    markdown = thimble("report", bad, "--md").stdout
    assert "<img" not in markdown.replace("\\<", ""), "GitHub would drop it, others draw it"

    for line, part in [
        (history[1][:200], "EOF"),
        ("\x00\x01", "expected value"),
        ("[" * 5000, "recursion"),
        ('{"schema": 99, "board": "x", "report": {}}', "newer"),
        (json.dumps({**entry, "report": {**entry["report"], "latency_ms": 5}}), "latency_ms"),
        (json.dumps({**entry, "report": {**entry["report"], "memory": {"peak_rss": -1}}}), "-1"),
        (json.dumps({**entry, "report": {**entry["report"], "load_ms": 1e300}}), "load_ms"),
        (json.dumps({**entry, "report": {**entry["report"], "load_ms": float("nan")}}), "expected value"),
    ]:
        bad.write_text("\n".join([history[0], line, history[2]]))
        out = tmp_path / "never.html"
        told = thimble("report", bad, "--html", out, code=2).stderr
        assert "evil.jsonl line 2" in told and not out.exists() and len(told.strip().splitlines()) == 1, told
    bad.write_bytes(b"\xff\xfe{}\n")
    assert "evil.jsonl" in thimble("report", bad, code=2).stderr


def test_a_file_that_is_no_report_is_named(tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert "bad.json" in thimble("report", bad, code=2).stderr
