"""Every page and drawing in a browser, from narrow to broad windows, light and dark: nothing runs out of the window, no text is cut,
covered or too small, and everything can be told from what it lies on (WCAG 2: 4.5 to 1 for text, 3 to 1 for marks).
"""

import json
import pathlib

import pytest

NAMES = ["inspect-int8", "inspect-mixed", "inspect-exported", "inspect-long-names", "report", "frontier", "frontier-svg", "frontier-alone"]
NAMES += [f"docs/{path.name}" for path in sorted((pathlib.Path(__file__).resolve().parents[2] / "docs").glob("*.svg"))]
WIDTHS = [500, 720, 1024, 1280]

# Texts that are seen: each line with its element, its box and the size of its letters on the screen.
TEXTS = """
const shown = [];
const walk = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode, element = node.parentElement;
  if (!node.data.trim() || element.closest('style, title, head') || !element.checkVisibility()) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const matrix = element.ownerSVGElement && element.getScreenCTM();
  const letters = parseFloat(getComputedStyle(element).fontSize) * (matrix ? Math.hypot(matrix.a, matrix.b) : 1);
  for (const box of range.getClientRects()) if (box.width > 0.5) shown.push({text: node.data.trim(), element, box, letters});
}
"""

LAYOUT = (
    TEXTS
    + """
const wrong = [];
const name = one => JSON.stringify(one.text.slice(0, 40));
if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
const within = (box, frame) =>
  box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 2 && box.bottom <= frame.bottom + 2;
for (const one of shown) {
  if (one.box.left < -0.5 || one.box.right > innerWidth + 0.5) wrong.push(`${name(one)} runs out of the window`);
  if (one.letters < 10.5) wrong.push(`${name(one)} has letters of ${one.letters.toFixed(1)} px`);
  let block = false;
  for (let frame = one.element; frame && frame !== document.documentElement; frame = frame.parentElement) {
    const style = getComputedStyle(frame);
    const clips = frame.tagName === 'svg' ? !frame.ownerSVGElement && style.overflow !== 'visible' : style.overflow !== 'visible';
    // The nearest block holds its lines, and whatever clips holds everything within it.
    const first = !block && !one.element.ownerSVGElement && /block|cell|list-item|flex|grid/.test(style.display);
    block = block || first;
    if ((clips || (first && style.position !== 'absolute')) && !within(one.box, frame.getBoundingClientRect()))
      wrong.push(`${name(one)} is cut or runs out of its ${frame.tagName}.${frame.getAttribute('class')}`);
  }
}
// Lines of text touch; letters that do lie upon each other share more than the room between lines.
for (let i = 0; i < shown.length; i++)
  for (let j = i + 1; j < shown.length; j++) {
    const [a, b] = [shown[i].box, shown[j].box];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 0.3 * Math.min(a.height, b.height)) wrong.push(`${name(shown[i])} and ${name(shown[j])} overlap`);
  }
JSON.stringify(wrong);
"""
)

CONTRAST = (
    TEXTS
    + r"""
const wrong = [];
const parse = text => {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return {r, g, b, a};
};
const over = (top, under) => {
  const mix = key => top[key] * top.a + under[key] * (1 - top.a);
  return {r: mix('r'), g: mix('g'), b: mix('b'), a: 1};
};
const light = color => {
  const part = value => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(color.r) + 0.7152 * part(color.g) + 0.0722 * part(color.b);
};
const ratio = (a, b) => {
  const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
};
const canvas = matchMedia('(prefers-color-scheme: dark)').matches ? {r: 18, g: 18, b: 18, a: 1} : {r: 255, g: 255, b: 255, a: 1};
// What a point shows beneath the text on it: the color, and the same with each color of a pattern upon it.
const beneath = (x, y) => {
  let stack = [];
  for (const element of document.elementsFromPoint(x, y)) {
    const style = getComputedStyle(element);
    if (/^(text|title|tspan)$/.test(element.tagName)) continue;
    const shape = /^(rect|circle|path)$/.test(element.tagName);
    const paint = shape ? style.fill : style.backgroundColor;
    if (paint === 'none' || !/\d/.test(paint)) continue;
    const color = parse(paint);
    if (shape) color.a *= parseFloat(style.fillOpacity) * parseFloat(style.opacity);
    const pattern = shape ? [] : style.backgroundImage.match(/rgba?\([^)]*\)/g) || [];
    if (color.a > 0) stack.push({color, pattern: pattern.map(parse)});
    if (color.a === 1) break;
  }
  let all = [canvas];
  for (const {color, pattern} of stack.reverse()) {
    all = all.map(under => over(color, under));
    all = [all[0], ...pattern.filter(p => p.a > 0).map(p => over(p, all[0]))];
  }
  return all;
};
for (const one of shown) {
  const style = getComputedStyle(one.element);
  const color = parse(one.element.ownerSVGElement ? style.fill : style.color);
  const {left, top, width, height} = one.box;
  for (const under of beneath(left + width / 2, top + height / 2)) {
    const found = ratio(over(color, under), under);
    if (found < 4.5) wrong.push(`the text ${JSON.stringify(one.text.slice(0, 40))} has a contrast of ${found.toFixed(2)}`);
  }
}
const page = beneath(1, innerHeight - 1)[0];
const marks = '.tile, .bar, .key, .chip, .dot, .point, .median, .p95, .line, [class*="f-"], [class*="s-"]';
for (const mark of document.querySelectorAll(marks)) {
  if (!mark.checkVisibility() || /\b(f-back|f-panel|f-on|s-line|s-back)\b/.test(mark.getAttribute('class')) || mark.tagName === 'text') continue;
  const style = getComputedStyle(mark);
  const svg = mark instanceof SVGElement;
  const paints = (svg ? [style.fill, style.stroke] : [style.backgroundColor, style.borderTopColor]).filter(paint => /\d/.test(paint));
  const alpha = svg ? parseFloat(style.fillOpacity) * parseFloat(style.opacity) : 1;
  const best = Math.max(...paints.map(parse).map(color => ratio(over({...color, a: color.a * alpha}, page), page)));
  if (mark.tagName !== 'g' && best < 3) wrong.push(`the mark .${mark.getAttribute('class')} has a contrast of ${best.toFixed(2)}`);
}
JSON.stringify([...new Set(wrong)]);
"""
)


def look(browser, page, width, scheme, script):
    browser.open(page, width, scheme)
    # The whole page in the window: what lies outside of it has no elements at its points.
    browser.open(page, width, scheme, height=browser.evaluate("Math.max(900, document.documentElement.scrollHeight)"))
    return json.loads(browser.evaluate(f"(() => {{ {script.rstrip().rsplit(chr(10), 1)[0]}\nreturn {script.rstrip().rsplit(chr(10), 1)[1]} }})()"))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_covered_or_too_small(browser, pages, name):
    widths = WIDTHS if pages[name].suffix == ".html" else [1280]
    for width in widths:
        assert look(browser, pages[name], width, "light", LAYOUT) == [], f"{name} at {width} px"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_everything_can_be_told_from_what_it_lies_on(browser, pages, name, scheme):
    assert look(browser, pages[name], 1280, scheme, CONTRAST) == [], f"{name}, {scheme}"


@pytest.mark.parametrize("name", NAMES)
def test_dark_pages_are_dark(browser, pages, name):
    browser.open(pages[name], 1280, "dark")
    ground = browser.evaluate(
        "(() => { const page = document.body; const style = getComputedStyle(page || document.querySelector('rect'));"
        " return page ? style.backgroundColor : style.fill; })()"
    )
    assert sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 150, ground


def test_a_tile_shows_its_format_where_it_has_room(browser, pages):
    browser.open(pages["inspect-mixed"], 1280)
    bare = browser.evaluate(
        """[...document.querySelectorAll('.tile')].filter(tile => tile.clientWidth > 60 && tile.clientHeight > 30
            && ![...tile.querySelectorAll('span')].some(span => span.checkVisibility())).map(tile => tile.title)"""
    )
    assert bare == []
    labels = browser.evaluate("[...document.querySelectorAll('.tile span')].filter(s => s.checkVisibility()).map(s => s.textContent)")
    assert any(label.startswith("word: word embeddings · ") for label in labels), labels


def test_a_format_has_one_color_on_every_page(browser, pages):
    colors = {}
    for name in ("inspect-mixed", "report", "frontier"):
        browser.open(pages[name], 1280)
        script = """[...document.querySelectorAll('.tile, .bar, .key, .chip')].map(mark =>
            [mark.className.match(/\\b(f32|f16|i8|i4)\\b/)?.[1], getComputedStyle(mark).backgroundColor])"""
        for kind, color in browser.evaluate(script):
            colors.setdefault(kind, set()).add(color)
    assert set(colors) >= {"f32", "f16", "i8", "i4"}
    of_formats = [colors[kind] for kind in ("f32", "f16", "i8", "i4")]
    assert all(len(found) == 1 for found in of_formats) and len(set.union(*of_formats)) == 4
    others = set.union(*(found for kind, found in colors.items() if kind is None))
    assert not others & set.union(*of_formats), "a color of a format means something else"
