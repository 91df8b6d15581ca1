#!/usr/bin/env python3
"""Plots of docs/PERFORMANCE.md from what `fulmar bench --json` prints.

  plot.py window WINDOW.json > window.svg
  plot.py loss LOSS.json ... > loss.svg       one line for each file, named by its round trip
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 64, 32, 44, 48
COLOURS = ["a", "b", "c", "d"]
STYLE = """
  .page{fill:#fff} .ink{fill:#1f242c} .soft{stroke:#6b7280} .grid{stroke:#d9dde3}
  .a{stroke:#1f5fbf;fill:#1f5fbf} .b{stroke:#b45309;fill:#b45309} .c{stroke:#0f766e;fill:#0f766e} .d{stroke:#9d174d;fill:#9d174d}
  @media (prefers-color-scheme:dark){.page{fill:#14171c} .ink{fill:#e6e9ee} .soft{stroke:#9aa3b2} .grid{stroke:#343b47}
  .a{stroke:#79b0ff;fill:#79b0ff} .b{stroke:#ffb066;fill:#ffb066} .c{stroke:#5eead4;fill:#5eead4} .d{stroke:#ff8fc0;fill:#ff8fc0}}
  text{font:12px system-ui,sans-serif} .line{fill:none;stroke-width:2} .dash{fill:none;stroke-width:1.5;stroke-dasharray:5 4}
"""


def median(point):
    runs = sorted(point["runs"], key=lambda run: run["goodput_bits_per_sec"])
    return runs[len(runs) // 2]["goodput_bits_per_sec"]


class Plot:
    def __init__(self, title, x_label, y_label, xs, ys):
        (self.x0, self.x1), (self.y0, self.y1) = xs, ys
        self.keys = 0
        self.out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
            f"<title>{title}</title><style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text class="ink" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_label}</text>',
            f'<text class="ink" transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{y_label}</text>',
        ]

    def x(self, value):
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value):
        return round(HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM), 1)

    def grid(self, xs, ys):
        for value, label in xs:
            x = self.x(value)
            self.out.append(f'<path class="grid" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>')
            self.out.append(f'<text class="ink" x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
        for value, label in ys:
            y = self.y(value)
            self.out.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
            self.out.append(f'<text class="ink" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')

    def key(self, name, css):
        x = LEFT + 170 * self.keys
        self.keys += 1
        self.out.append(f'<path class="{css}" d="M{x} 24h28"/><text class="ink" x="{x + 36}" y="28">{name}</text>')

    def line(self, name, points, css, dots=False):
        self.key(name, css)
        path = "L".join(f"{self.x(x)} {self.y(y)}" for x, y in points)
        self.out.append(f'<path class="{css}" d="M{path}"/>')
        if dots:
            colour = css.split()[0]
            self.out += [f'<circle class="{colour}" cx="{self.x(x)}" cy="{self.y(y)}" r="3"/>' for x, y in points]

    def mark(self, name, value):
        self.key(name, "d dash")
        self.out.append(f'<path class="d dash" d="M{self.x(value)} {TOP}V{HEIGHT - BOTTOM}"/>')

    def write(self):
        print("\n".join(self.out + ["</svg>"]))


def window(sweep):
    """Goodput over the window, both in powers of two."""
    points = [(math.log2(p["number"]), median(p) / 1e6, p["expected_bits_per_sec"] / 1e6) for p in sweep["points"]]
    low = math.floor(math.log2(min(min(p[1:]) for p in points)))
    high = math.ceil(math.log2(max(max(p[1:]) for p in points)))
    link = sweep["link"]
    plot = Plot(
        f"Goodput over the window: {link['rate_bits_per_sec'] / 1e6:g} Mbit/s, {link['rtt_ms']:g} ms, {link['loss_pct']:g} % loss",
        "window", "goodput, Mbit/s", (points[0][0], points[-1][0]), (low, high),
    )
    plot.grid(
        [(x, p["value"]) for (x, _, _), p in zip(points, sweep["points"])],
        [(y, f"{2.0**y:g}") for y in range(low, high + 1)],
    )
    plot.line("measured", [(x, math.log2(y)) for x, y, _ in points], "a line", dots=True)
    plot.line("expected", [(x, math.log2(y)) for x, _, y in points], "soft dash")
    plot.mark("bandwidth-delay product", math.log2(sweep["bdp_bytes"]))
    plot.write()


def loss(sweeps):
    """Share of rate x (1 - loss) over the loss, a line for each round trip."""
    rate = sweeps[0]["link"]["rate_bits_per_sec"]
    most = max(p["number"] for sweep in sweeps for p in sweep["points"])
    plot = Plot(f"Share of the link over its loss, {rate / 1e6:g} Mbit/s", "loss each way, %", "share of rate x (1 - loss)", (0, most), (0.5, 1))
    plot.grid([(x, f"{x:g}") for x in range(0, int(most) + 1, 5)], [(y / 10, f"{y / 10:g}") for y in range(5, 11)])
    for sweep, colour in zip(sweeps, COLOURS):
        share = [(p["number"], median(p) / (rate * (1 - p["number"] / 100))) for p in sweep["points"]]
        plot.line(f"RTT {sweep['link']['rtt_ms']:g} ms", share, f"{colour} line", dots=True)
    plot.line("what headers leave", [(0, 0.958), (most, 0.958)], "soft dash")
    plot.write()


if __name__ == "__main__":
    files = []
    for name in sys.argv[2:]:
        with open(name, encoding="utf-8") as file:
            files.append(json.load(file))
    kind = sys.argv[1] if len(sys.argv) > 2 else ""
    if kind == "window":
        window(files[0])
    elif kind == "loss":
        loss(files)
    else:
        sys.exit(__doc__)
