#!/usr/bin/env python3
"""Draws the panels of healthz.json as one SVG, from the data of a running Prometheus, without Grafana.

The queries, titles, places, units and colours are those of the dashboard. It draws only what this dashboard uses:
tables, state timelines and lines. Grafana's own drawing looks different in detail.

    draw.py --prometheus http://localhost:9090 --minutes 60 dashboard.svg
"""

import argparse
import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from html import escape
from pathlib import Path

DASHBOARD = Path(__file__).with_name("healthz.json")
SECONDS_MAX = 10
# Grafana's grid has 24 columns.
COLUMN, ROW, GAP = 50, 34, 8
# Margins of the plot in a panel.
TOP, LEFT, RIGHT, BOTTOM = 30, 62, 12, 44
LINES = ["#3871dc", "#e02f44", "#1a7f4b", "#fa6400", "#8f3bb8", "#0a9396", "#a16207", "#c2185b"]
NAMED = {"red": "#e02f44", "green": "#56a64b", "orange": "#fa6400"}
TEXT, FAINT, FRAME = "#24292e", "#6b7280", "#d8d9da"


class Prometheus:
    """Queries of the HTTP API. A query that does not parse is a ValueError with the message of Prometheus."""

    def __init__(self, url, start, end, rate_interval):
        self.url, self.start, self.end = url.rstrip("/"), start, end
        self.step = max(1, round((end - start) / 240))
        self.variables = {"$__rate_interval": rate_interval, "$job": ".*", "$instance": ".*"}

    def expression(self, target):
        text = target["expr"]
        for name, value in self.variables.items():
            text = text.replace(name, value)
        return text

    def ask(self, path, **query):
        # Without a proxy, even if the environment has one.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with opener.open(url, timeout=SECONDS_MAX) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{query['query']}: {json.load(error).get('error')}") from None

    def now(self, target):
        """(labels, value) of each series at the end of the time."""
        result = self.ask("query", query=self.expression(target), time=self.end)
        return [(series["metric"], float(series["value"][1])) for series in result]

    def over_time(self, target):
        """(legend, [(time, value)]) of each series."""
        ask = {"query": self.expression(target), "start": self.start, "end": self.end, "step": self.step}
        return [
            (legend(target, series["metric"]), [(at, float(value)) for at, value in series["values"] if value != "NaN"])
            for series in self.ask("query_range", **ask)
        ]


def legend(target, labels):
    text = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{%s}}" % name, value)
    return text.strip()


def text(x, y, words, size=12, colour=TEXT, anchor="start", weight="normal"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def with_unit(value, unit):
    """The value and its unit in the format of Grafana, with few digits."""
    if unit == "bytes":
        power = min(3, int(math.log(value, 1024))) if value >= 1 else 0
        return f"{value / 1024**power:.4g} {['B', 'KiB', 'MiB', 'GiB'][power]}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
    if unit == "s" and value >= 60:
        return f"{value / 60:.3g} min"
    return f"{value:.3g}" + {"s": " s", "reqps": "/s"}.get(unit, "")


def ago(seconds):
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count} {name}{'s' if count != 1 else ''} ago"
    return "now"


class Panel:
    """One panel and its place in the picture."""

    def __init__(self, panel, prometheus):
        self.panel, self.prometheus = panel, prometheus
        grid = panel["gridPos"]
        self.x, self.y = grid["x"] * COLUMN + GAP / 2, grid["y"] * ROW + GAP / 2
        self.width, self.height = grid["w"] * COLUMN - GAP, grid["h"] * ROW - GAP
        self.defaults = panel["fieldConfig"]["defaults"]

    def draw(self):
        parts = [
            f'<g transform="translate({self.x:g} {self.y:g})">',
            f'<rect width="{self.width:g}" height="{self.height:g}" rx="3" fill="#fff" stroke="{FRAME}"/>',
            text(10, 20, self.panel["title"], 13, weight="bold"),
        ]
        kind = {"table": self.table, "state-timeline": self.timeline, "timeseries": self.lines}[self.panel["type"]]
        return "\n".join([*parts, *kind(), "</g>"])

    def table(self):
        rows = self.prometheus.now(self.panel["targets"][0])
        if not rows:
            return [text(self.width / 2, self.height / 2, self.defaults["noValue"], 14, FAINT, "middle")]
        [organize] = self.panel["transformations"]
        order = organize["options"]["indexByName"]
        names = organize["options"]["renameByName"] | {"Value": "since"}
        columns = sorted(order, key=order.get)
        width = (self.width - 20) / len(columns)
        parts = [text(10 + width * n, 46, names.get(name, name), 11, FAINT) for n, name in enumerate(columns)]
        for number, (labels, value) in enumerate(sorted(rows, key=lambda row: row[1])):
            y = 68 + 22 * number
            parts.append(f'<line x1="10" x2="{self.width - 10:g}" y1="{y - 15}" y2="{y - 15}" stroke="{FRAME}"/>')
            for n, name in enumerate(columns):
                words = ago(self.prometheus.end - value / 1000) if name == "Value" else labels.get(name, "")
                colour = {"error": NAMED["red"], "warning": NAMED["orange"]}.get(words, TEXT)
                parts.append(text(10 + width * n, y, words, 12, colour))
        return parts

    def at(self, seconds, left=LEFT):
        share = (seconds - self.prometheus.start) / (self.prometheus.end - self.prometheus.start)
        return left + share * (self.width - left - RIGHT)

    def times(self, left=LEFT):
        """Labels of the time below the plot, at full minutes."""
        start, end = self.prometheus.start, self.prometheus.end
        step = next((s for s in (60, 120, 300, 600, 1800, 3600, 7200, 14400) if (end - start) / s <= 7), 28800)
        first = math.ceil(start / step) * step
        y = self.height - BOTTOM + 15
        return [
            text(self.at(at, left), y, time.strftime("%H:%M", time.gmtime(at)), 10, FAINT, "middle")
            for at in range(int(first), int(end) + 1, step)
        ]

    def legends(self, names):
        """`(colour, name)`, as many as there is space for."""
        parts, x = [], 12
        for colour, name in names:
            width = 22 + 6.7 * len(name)
            if x + width > self.width:
                parts.append(text(x, self.height - 10, "..", 11, FAINT))
                break
            parts.append(f'<rect x="{x:.1f}" y="{self.height - 16:g}" width="10" height="4" fill="{colour}"/>')
            parts.append(text(x + 14, self.height - 10, name, 11))
            x += width
        return parts

    def timeline(self):
        states = {float(value): state for value, state in self.defaults["mappings"][0]["options"].items()}
        colour = {value: NAMED[state["color"]] for value, state in states.items()}
        rows = sorted(self.prometheus.over_time(self.panel["targets"][0]))
        left = 14 + 6.7 * max((len(name) for name, _ in rows), default=0)
        height = (self.height - TOP - BOTTOM) / max(1, len(rows))
        parts = self.times(left)
        for number, (name, points) in enumerate(rows):
            y = TOP + number * height
            parts.append(text(left - 8, y + height / 2 + 4, name, 11, anchor="end"))
            for begin, end, value in spans(points, self.prometheus.step):
                x = self.at(begin, left)
                width = self.at(min(end, self.prometheus.end), left) - x
                parts.append(
                    f'<rect x="{x:.1f}" y="{y + height * 0.1:.1f}" width="{width:.1f}" height="{height * 0.8:.1f}" '
                    f'fill="{colour.get(value, FAINT)}"/>'
                )
        return parts + self.legends((colour[value], state["text"]) for value, state in states.items())

    def lines(self):
        unit, custom = self.defaults["unit"], self.defaults["custom"]
        series = [line for target in self.panel["targets"] for line in self.prometheus.over_time(target)]
        series = [(name, points) for name, points in series if points]
        is_log = custom.get("scaleDistribution", {}).get("type") == "log"
        if custom.get("stacking", {}).get("mode") == "normal":
            series = stacked(series)
        values = [value for _, points in series for _, value in points]
        if not values:
            return [text(self.width / 2, self.height / 2, "no data", 14, FAINT, "middle")]
        ticks = log_ticks(values) if is_log else linear_ticks(max(values), unit)
        scale = math.log10 if is_log else float
        low, high = scale(ticks[0]), scale(ticks[-1])
        bottom = self.height - BOTTOM

        def height_of(value):
            return bottom - (scale(max(value, ticks[0])) - low) / (high - low) * (bottom - TOP)

        parts = self.times()
        for tick in ticks:
            y = height_of(tick)
            parts.append(f'<line x1="{LEFT}" x2="{self.width - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eceded"/>')
            parts.append(text(LEFT - 6, y + 4, with_unit(tick, unit), 10, FAINT, "end"))
        colours = [LINES[number % len(LINES)] for number in range(len(series))]
        for colour, (_, points) in zip(colours, series):
            for part in connected(points, self.prometheus.step):
                path = " ".join(f"{self.at(at):.1f},{height_of(value):.1f}" for at, value in part)
                parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        return parts + self.legends(zip(colours, (name for name, _ in series)))


def spans(points, step):
    """(begin, end, value) of each time in which the value stays the same."""
    found = []
    for at, value in points:
        if found and found[-1][2] == value and at - found[-1][1] <= step / 2:
            found[-1][1] = at + step
        else:
            found.append([at, at + step, value])
    return found


def connected(points, step):
    """The points, cut where samples are missing."""
    parts = []
    for point in points:
        if parts and point[0] - parts[-1][-1][0] <= 1.5 * step:
            parts[-1].append(point)
        else:
            parts.append([point])
    return parts


def stacked(series):
    sums, result = {}, []
    for name, points in series:
        for at, value in points:
            sums[at] = sums.get(at, 0) + value
        result.append((name, [(at, sums[at]) for at, _ in points]))
    return result


def linear_ticks(high, unit):
    """From 0 to at least `high`, three to six of them, at round numbers."""
    if high <= 0:
        return [0, 1]
    base = 1024 ** int(math.log(high, 1024)) if unit == "bytes" and high >= 1 else 1
    high /= base
    step = 10 ** math.floor(math.log10(high))
    step *= next(part for part in (0.2, 0.25, 0.5, 1, 2, 2.5) if high <= 5 * step * part)
    return [base * step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(values):
    positive = [value for value in values if value > 0] or [1]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return [10**power for power in range(low, max(high, low + 1) + 1)]


def draw(prometheus, dashboard):
    panels = dashboard["panels"]
    width = 24 * COLUMN
    height = ROW * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    drawn = "\n".join(Panel(panel, prometheus).draw() for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="Inter, Helvetica, Arial, sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>\n{drawn}\n</svg>\n'
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    ap.add_argument("--minutes", type=float, default=60, metavar="N", help="the time that is drawn, until now")
    ap.add_argument("--rate-interval", default="1m", metavar="TIME", help="at least four scrapes; default 1m")
    ap.add_argument("file", metavar="FILE")
    args = ap.parse_args()
    end = time.time()
    prometheus = Prometheus(args.prometheus, end - args.minutes * 60, end, args.rate_interval)
    try:
        svg = draw(prometheus, json.loads(DASHBOARD.read_text()))
    except (OSError, ValueError) as error:
        print(f"draw.py: cannot query {args.prometheus}: {error}", file=sys.stderr)
        return 1
    Path(args.file).write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
