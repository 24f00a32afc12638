"""What the drawings of scripts and benches share with thimble's own: the colors of host/src/render/colors.txt, light and dark, one
kind of text, and lines and marks that no color has to tell apart. Coordinates are pixels.
"""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINES = (ROOT / "host" / "src" / "render" / "colors.txt").read_text().splitlines()
COLORS = [line.split()[:3] for line in LINES if line.strip() and not line.startswith("//")]


def rules():
    """For each color NAME the classes f-NAME, which fills with it, and s-NAME, which draws lines with it."""
    light, dark = ("".join(f".f-{c[0]}{{fill:{c[at]}}}.s-{c[0]}{{stroke:{c[at]}}}" for c in COLORS) for at in (1, 2))
    return f"{light}\n@media(prefers-color-scheme:dark){{{dark}}}\ntext{{font:13px system-ui,sans-serif}}.b{{font-weight:600}}.e{{text-anchor:end}}.m{{text-anchor:middle}}"


def escaped(words):
    return str(words).replace("&", "&amp;").replace("<", "&lt;")


def text(x, y, words, kind="", tone="ink"):
    """`kind`: b for bold, e to end at x, m to lie around it."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="f-{tone} {kind}">{escaped(words)}</text>'.replace(' "', '"')


def line(x1, y1, x2, y2, tone="line", dashes=None):
    more = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="s-{tone}"{more}/>'


def curve(points, tone, ours, marks=None):
    """Ours is a solid line with dots, another's a dashed line with squares that a dot can be seen within. Marks lie at the points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = "" if ours else ' stroke-dasharray="6 4"'
    body = [f'<polyline points="{path}" fill="none" stroke-width="2"{dashes} class="s-{tone}"/>']
    return body + [dot(x, y, tone) if ours else square(x, y, tone) for x, y in (points if marks is None else marks)]


def sample(x, y, tone, ours):
    """What a legend shows of a curve."""
    return curve([(x, y), (x + 36, y)], tone, ours, [(x + 18, y)])


def dot(x, y, tone, radius=3.5):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="f-{tone}"/>'


def ring(x, y, tone, radius):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="none" stroke-width="1.6" class="s-{tone}"/>'


def square(x, y, tone, half=5.5):
    side = 2 * half
    return f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{side}" height="{side}" fill="none" stroke-width="1.6" class="s-{tone}"/>'


def bar(x, y, width, height, tone, hatched=False):
    place = f'x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height}"'
    body = f'<rect {place} class="f-{tone}"/>'
    return body + (f'<rect {place} fill="url(#hatch)"/>' if hatched else "")


HATCH = (
    '<pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2.5" height="7" class="f-back" fill-opacity=".55"/></pattern>'
)


def svg(width, height, title, body):
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}" role="img">'
        f"<title>{escaped(title)}</title><style>{rules()}</style>{HATCH}"
    )
    return "\n".join([head, f'<rect width="{width}" height="{height:.0f}" class="f-back"/>', text(16, 26, title, "b"), *body, "</svg>", ""])
