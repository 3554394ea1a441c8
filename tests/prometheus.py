#!/usr/bin/env python3
"""Scrapes the daemon with a real Prometheus, and tests the alert rules and the dashboard of packaging/.

`promtool` checks the text of /metrics and runs the tests of the rules. Prometheus scrapes the daemon every second, with
the rules of packaging/, where each `for` is shortened. A file is removed and made again, so that one alert fires and
resolves. A Prometheus agent pushes to it. Each query of the dashboard must parse and return data.

The script uses prometheus and promtool from PATH. Versions 2.42 (Debian 12) and 3.5 work.

`--picture FILE` runs no cases. It runs the daemon for some minutes and draws the dashboard as SVG.

One line for each case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run.
"""

import http.client
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from support.cases import ROOT, Harness, Skip, Wrong, await_listener, free_port, install_missing, parse, parser
from support.cases import expect, expect_match, registry, run_script, wait_for

RULES = ROOT / "packaging/prometheus"
GRAFANA = ROOT / "packaging/grafana"
DOCUMENT = ROOT / "docs/metrics.md"
# For all cases together.
CASES_SECONDS_MAX = 300
# Seconds. On an idle machine these waits take a few scrapes.
PATIENCE = 30
# How long the daemon runs for the picture.
PICTURE_SECONDS = 480

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
}
# Grafana's own types. --install does not install npm.
TYPES = ["@grafana/schema@13.2.3", "typescript@5.9.3"]
CONTENT_TYPE = b"Content-Type: text/plain; version=0.0.4; charset=utf-8"
# The help texts of Kubernetes (component-base/metrics/prometheus/slis).
SLIS = {
    "kubernetes_healthcheck": "[STABLE] This metric records the result of a single healthcheck.",
    "kubernetes_healthchecks_total": "[STABLE] This metric records the results of all healthcheck.",
}

case, CASES = registry()


def request(port, path):
    """Head and body, as bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    return head, body


def fetch(port, path):
    """The text of a 200."""
    head, body = request(port, path)
    expect_match(f"the status of {path}", head.decode(), r"^HTTP/1\.1 200 OK\r")
    return body.decode()


class Node:
    """A daemon with checks, a thread that sends probes, and a thread that sends heartbeats."""

    count = 0

    def __init__(self, harness, *more):
        Node.count += 1
        self.dir = harness.dir / f"node-{Node.count}"
        self.dir.mkdir()
        self.file = self.dir / "backup"
        self.file.touch()
        self.port, self.metrics_port = free_port(), free_port()
        beats = self.dir / "beats.sock"
        often = "period=1s,timeout=900ms,failure-threshold=1"
        checks = [
            f"backup=file:{self.file},{often}",
            f"spool=file:{self.dir}/missing,{often},severity=warning",
            f"worker=heartbeat,limit=30s,until-ready=pass,socket={beats}",
            "root=disk:/,min=1%,period=1s",
            "memory=memory,min=1Mi,period=1s",
        ]
        words = [harness.args.daemon, "--listen", f"127.0.0.1:{self.port}", *more]
        self.process = harness.start(f"node-{Node.count}", words + [w for c in checks for w in ("--check", c)])
        await_listener(self.process, ("127.0.0.1", self.port), PATIENCE)
        self.is_over = threading.Event()
        # Daemon threads, so that a failed case cannot keep the script alive.
        for work in (self.probe, lambda: self.beat(beats)):
            threading.Thread(target=work, daemon=True).start()

    def probe(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        paths = ["/healthz", "/readyz", "/livez", "/healthz?verbose", "/healthz/backup"]
        while not self.is_over.wait(0.05):
            try:
                connection.request("GET", paths[int(time.monotonic() * 20) % len(paths)])
                connection.getresponse().read()
            except OSError:
                connection.close()

    def beat(self, path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            while not self.is_over.wait(4):
                try:
                    client.sendto(b"WATCHDOG=1", str(path))
                except OSError:
                    continue

    def await_families(self):
        """Waits until each check has run and a heartbeat was sent, so that each family has a sample."""
        try:
            wait_for("all families", PATIENCE, lambda: not differences(self.port))
        except Wrong:
            raise Wrong("; ".join(differences(self.port))) from None

    def end(self, harness):
        self.is_over.set()
        harness.stop(self.process)
        expect("the daemon's exit code", self.process.returncode, 0)


class Prometheus:
    """A running Prometheus with this configuration."""

    def __init__(self, harness, name, config, *flags, is_agent=False):
        self.port = free_port()
        place = harness.dir / name
        place.mkdir()
        path = place / "prometheus.yml"
        path.write_text(config)
        version = harness.run(["prometheus", "--version"])
        is_3 = re.search(r"version 3\.", version.out + version.err)
        storage = "--storage.agent.path" if is_agent else "--storage.tsdb.path"
        agent = [] if not is_agent else ["--agent"] if is_3 else ["--enable-feature=agent"]
        words = ["prometheus", f"--config.file={path}", f"{storage}={place}/data", *agent, *flags]
        self.process = harness.start(name, [*words, f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"])
        await_listener(self.process, ("127.0.0.1", self.port), PATIENCE)

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path, **query):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url()}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=5) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                # It is still starting.
                return None
            raise Wrong(f"{query or path}: {json.load(error).get('error')}") from None

    def query(self, expression):
        """The series of an instant vector."""
        answer = self.ask("query", query=expression)
        return answer["result"] if answer else []

    def await_up(self, job, count=1):
        """Waits until `count` targets of the job are up."""
        def targets():
            answer = self.ask("targets", state="active")
            found = [t for t in answer["activeTargets"] if t["labels"]["job"] == job] if answer else []
            bad = [t["lastError"] for t in found if t["health"] == "down"]
            if bad:
                raise Wrong(f"target of {job}: expected up, got {bad}")
            return len(found) == count and all(t["health"] == "up" for t in found)

        wait_for(f"{count} targets of {job}", PATIENCE, targets)

    def alerts(self, name):
        answer = self.ask("alerts")
        return [a for a in answer["alerts"] if a["labels"]["alertname"] == name] if answer else []


def short_rules(harness):
    """The rules of packaging/, with `for: 2s` in each."""
    text, count = re.subn(r"^( +for:) \w+$", r"\1 2s", (RULES / "healthz.rules.yml").read_text(), flags=re.M)
    expect("rules with a time", count > 3, True)
    path = harness.dir / "healthz.rules.yml"
    path.write_text(text)
    return path


def server(harness, targets, labels="labels: {}"):
    """A Prometheus with the rules of packaging/ that scrapes every second and accepts pushes of agents."""
    jobs = "".join(
        f"  - job_name: {job}\n    metrics_path: {path}\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{port}'], {labels}}}]\n"
        for job, path, port in targets
    )
    config = (
        "global: {scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s}\n"
        f"rule_files: ['{short_rules(harness)}']\nscrape_configs:\n{jobs}"
    )
    return Prometheus(harness, f"prometheus-{len(harness.running)}", config, "--web.enable-remote-write-receiver")


class Scraped:
    """A node and the Prometheus that scrapes it, for several cases."""

    def __init__(self, harness):
        self.node = Node(harness)
        jobs = [("healthz", "/metrics", self.node.port), ("slis", "/metrics/slis", self.node.port)]
        self.prometheus = server(harness, jobs)


# ---------------------------------------------------------------------------------------------
# The text


def families(text):
    """Name -> (type, names of labels, help) of each family in a text."""
    found, kind = {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, words = line[7:].partition(" ")
            found[name] = ["", set(), words]
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            found[name][0] = kind
        else:
            sample = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\]*",?)*)\})? [-+.0-9eInf]+', line)
            if not sample:
                raise Wrong(f"a sample, got {line!r}")
            family = sample[1] if sample[1] in found else re.sub("_(bucket|sum|count)$", "", sample[1])
            labels = re.findall(r'([a-z]+)="', sample[2] or "")
            if kind == "histogram":
                labels = [label for label in labels if label != "le"]
            # Raises a KeyError for a sample without a family.
            found[family][1].update(labels)
    return found


def documented():
    """The same from the table in docs/metrics.md, without help."""
    rows = re.findall(r"^\| `([a-z_]+)` \| (gauge|counter|histogram) \|([^|]*)\|", DOCUMENT.read_text(), re.M)
    return {name: [kind, set(re.findall(r"`([a-z]+)`", labels))] for name, kind, labels in rows}


def differences(port):
    """The families that differ from the document."""
    found, wanted = families(fetch(port, "/metrics")), documented()
    return [
        f"{name}: expected {wanted.get(name)}, got {found.get(name)}"
        for name in sorted({*found, *wanted})
        if found.get(name, [])[:2] != wanted.get(name)
    ]


@case("/metrics has the families of docs/metrics.md, /metrics/slis those of Kubernetes")
def _(harness):
    node = Node(harness)
    node.await_families()
    for path in ("/metrics", "/metrics/slis"):
        found = families(fetch(node.port, path))
        expect(f"help texts of {path}", {name: found[name][2] for name in SLIS}, SLIS)
    expect("families of /metrics/slis", list(found), list(SLIS))
    node.end(harness)


@case("the content type is exactly that of the text format 0.0.4")
def _(harness):
    node = Node(harness)
    for path in ("/metrics", "/metrics/slis"):
        head, body = request(node.port, path)
        lines = head.split(b"\r\n")
        expect(f"{path}: status", lines[0], b"HTTP/1.1 200 OK")
        types = [line for line in lines if line.lower().startswith(b"content-type")]
        expect(f"{path}: content type", types, [CONTENT_TYPE])
        expect(f"{path}: its length is sent", b"Content-Length: %d" % len(body) in lines, True)
        expect(f"{path}: the last byte", body[-1:], b"\n")
    node.end(harness)


@case("promtool accepts /metrics and /metrics/slis without a warning", "promtool")
def _(harness):
    node = Node(harness)
    for path in ("/metrics", "/metrics/slis"):
        text = harness.dir / "text"
        text.write_text(fetch(node.port, path))
        result = harness.run(f"promtool check metrics < {text}")
        expect(f"promtool check metrics of {path}", (result.code, result.out + result.err), (0, ""))
    node.end(harness)


@case("--no-metrics: both paths get 404")
def _(harness):
    node = Node(harness, "--no-metrics")
    for path in ("/metrics", "/metrics/slis"):
        expect(path, request(node.port, path)[0].split(b"\r\n")[0], b"HTTP/1.1 404 Not Found")
    node.end(harness)


@case("a listener with paths=/metrics serves nothing else")
def _(harness):
    port = free_port()
    node = Node(harness, "--listen", f"127.0.0.1:{port},paths=/metrics")
    for path in ("/metrics", "/metrics/slis"):
        fetch(port, path)
    for path in ("/healthz", "/livez", "/readyz", "/healthz/ping", "/", "/metricsx", "/metrics/x"):
        expect(path, request(port, path)[0].split(b"\r\n")[0], b"HTTP/1.1 404 Not Found")
    expect_match("the other listener", fetch(node.port, "/livez"), "^ok$")
    node.end(harness)


# ---------------------------------------------------------------------------------------------
# Prometheus


@case("promtool accepts the rules, their tests and the sample configurations", "promtool")
def _(harness):
    for words in (
        ["check", "rules", "healthz.rules.yml"],
        ["test", "rules", "healthz.rules.test.yml"],
        ["check", "config", "scrape.yml"],
        ["check", "config", "--agent", "agent.yml"],
    ):
        result = harness.run(["sh", "-c", 'cd "$0" && exec promtool "$@"', str(RULES), *words], seconds=PATIENCE)
        expect(f"promtool {' '.join(words)}: exit code, {result.out}{result.err}", result.code, 0)
        expect_match("its output", result.out, "SUCCESS")


@case("an alert fires when a file is removed, and resolves when the file is there again", "prometheus")
def _(harness):
    scraped = harness.once("scraped", Scraped)
    node, prometheus = scraped.node, scraped.prometheus
    prometheus.await_up("healthz")
    prometheus.await_up("slis")
    # This check fails from the start, with severity warning.
    wait_for("the warning", PATIENCE, lambda: is_firing(prometheus.alerts("HealthzCheckWarning"), "spool"))
    expect("alerts of errors", prometheus.alerts("HealthzCheckFailing"), [])
    node.file.unlink()
    wait_for("the alert", PATIENCE, lambda: is_firing(prometheus.alerts("HealthzCheckFailing"), "backup"))
    [alert] = prometheus.alerts("HealthzCheckFailing")
    expect("its summary", alert["annotations"]["summary"], f"Check backup fails on 127.0.0.1:{node.port}.")
    expect("its severity", alert["labels"]["severity"], "critical")
    node.file.touch()
    wait_for("the end of the alert", PATIENCE, lambda: not prometheus.alerts("HealthzCheckFailing"))
    others = [a["labels"] for a in prometheus.ask("alerts")["alerts"] if a["labels"].get("name") != "spool"]
    expect("other alerts", others, [])


def is_firing(alerts, check):
    return any(a["state"] == "firing" and a["labels"]["name"] == check for a in alerts)


@case("Prometheus has each family of docs/metrics.md", "prometheus")
def _(harness):
    prometheus = harness.once("scraped", Scraped).prometheus
    prometheus.await_up("healthz")
    for name, (kind, _) in documented().items():
        series = name + ("_count" if kind == "histogram" else "")
        wait_for(f"a series of {name}", PATIENCE, lambda s=series: prometheus.query(f'{s}{{job="healthz"}}'))


@case("each query of the dashboard returns data", "prometheus")
def _(harness):
    prometheus = harness.once("scraped", Scraped).prometheus
    prometheus.await_up("healthz")
    dashboard = json.loads((GRAFANA / "healthz.json").read_text())

    def expression(target):
        text = target["expr"]
        for variable, value in (("$__rate_interval", "4s"), ("$job", "healthz"), ("$instance", ".*")):
            text = text.replace(variable, value)
        expect(f"variables in {text}", "$" in text, False)
        return text

    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            wait_for(f"data of {panel['title']!r}", PATIENCE, lambda t=target: prometheus.query(expression(t)))
    # This check has failed since the start, so its state has never changed.
    [failing] = prometheus.query(expression(dashboard["panels"][0]["targets"][0]))
    expect("what fails now", (failing["metric"]["name"], failing["metric"]["severity"]), ("spool", "warning"))
    since = time.time() - float(failing["value"][1]) / 1000
    expect(f"since {since:.0f} s", 0 < since < CASES_SECONDS_MAX, True)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            found = prometheus.ask("series", **{"match[]": series.replace("$job", ".*")})
            expect(f"values of {variable['name']}", {s[label] for s in found} != set(), True)


@case("draw.py draws each panel", "prometheus")
def _(harness):
    prometheus = harness.once("scraped", Scraped).prometheus
    prometheus.await_up("healthz")
    path = harness.dir / "dashboard.svg"
    draw(harness, prometheus, path, 0.5, "4s")
    svg = path.read_text()
    for panel in json.loads((GRAFANA / "healthz.json").read_text())["panels"]:
        expect(f"{panel['title']!r} is drawn", f">{panel['title']}</text>" in svg, True)
    expect_match("the failing check", svg, ">spool</text>")


def draw(harness, prometheus, path, minutes, rate_interval):
    words = [str(GRAFANA / "draw.py"), "--prometheus", prometheus.url(), "--minutes", str(minutes)]
    result = harness.run([sys.executable, *words, "--rate-interval", rate_interval, str(path)])
    expect("draw.py", (result.code, result.out + result.err), (0, ""))


@case("an agent on the node pushes to Prometheus", "prometheus")
def _(harness):
    scraped = harness.once("scraped", Scraped)
    prometheus = scraped.prometheus
    prometheus.await_up("healthz")
    text = (RULES / "agent.yml").read_text()
    for sample, own in (
        ("localhost:10248", f"127.0.0.1:{scraped.node.port}"),
        ("https://prometheus.example", prometheus.url()),
        ("scrape_interval: 15s", "scrape_interval: 1s"),
    ):
        expect(f"{sample} in agent.yml", sample in text, True)
        text = text.replace(sample, own)
    agent = Prometheus(harness, "agent", text, is_agent=True)
    pushed = 'healthz_build_info{instance="node1.example", job="healthz"}'
    wait_for("series of the agent", PATIENCE, lambda: prometheus.query(pushed))

    def alerts_of_node():
        found = prometheus.alerts("HealthzCheckWarning")
        return [alert for alert in found if alert["labels"]["instance"] == "node1.example"]

    wait_for("an alert of the node", PATIENCE, lambda: is_firing(alerts_of_node(), "spool"))
    harness.stop(agent.process)


@case("node_exporter has the metrics that status wrote to a file", "prometheus-node-exporter")
def _(harness):
    node = Node(harness)
    node.await_families()
    place = harness.dir / "textfiles"
    place.mkdir()
    written = ["status", "--prometheus", "--output", str(place / "healthz.prom"), f"http://127.0.0.1:{node.port}"]
    result = harness.run([harness.args.daemon, *written])
    expect("healthz status", (result.code, result.out + result.err), (0, ""))
    port = free_port()
    exporter = harness.start("node-exporter", [
        "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults",
        "--collector.textfile", f"--collector.textfile.directory={place}",
    ])
    await_listener(exporter, ("127.0.0.1", port), PATIENCE)
    # http.client decodes the chunks.
    exposed = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    exposed.request("GET", "/metrics")
    text = exposed.getresponse().read().decode()
    expect_match("node_exporter read the file without an error", text, r"^node_textfile_scrape_error 0$")
    for name in documented():
        if not name.startswith("process_"):
            expect_match("the text of node_exporter", text, rf"^# TYPE {name} ")
    harness.stop(exporter)
    node.end(harness)


# ---------------------------------------------------------------------------------------------
# Grafana

TYPE_OF = {"table": "Table", "state-timeline": "StateTimeline", "timeseries": "TimeSeries"}
TYPES_HEAD = """import type { Dashboard, DataQuery, Panel } from '@grafana/schema';
// The values of an enum, as JSON has them.
type Json<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Json<U>[] : { [K in keyof T]: Json<T[K]> };
// What the Prometheus data source adds.
type Query = DataQuery & { expr: string; legendFormat: string; editorMode: 'code'; instant: boolean; range: boolean;
  format?: 'table' };
type Of<O, F> = Omit<Panel<O, F>, 'type' | 'options' | 'targets'> & { options: O; targets: Query[] };
"""


@case("Grafana's types accept the dashboard")
def _(harness):
    if not (harness.which("npm") and harness.which("node")):
        raise Skip("npm is not installed")
    dashboard = json.loads((GRAFANA / "healthz.json").read_text())
    panels = dashboard.pop("panels")
    expect("the numbers of panels", len({panel["id"] for panel in panels}), len(panels))
    source = TYPES_HEAD + f"export const dashboard: Json<Omit<Dashboard, 'panels'>> = {json.dumps(dashboard)};\n"
    for kind, name in TYPE_OF.items():
        place = kind.replace("-", "")
        module = f"@grafana/schema/dist/esm/raw/composable/{place}/panelcfg/x/{name}PanelCfg_types.gen"
        source += f"import type * as {name} from '{module}';\n"
    for panel in panels:
        name = TYPE_OF[panel.pop("type")]
        panel_type = f"Json<Of<{name}.Options, {name}.FieldConfig>>"
        source += f"export const panel{panel['id']}: {panel_type} = {json.dumps(panel)};\n"
    place = harness.dir / "types"
    place.mkdir()
    (place / "package.json").write_text("{}")
    (place / "dashboard.ts").write_text(source)
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(place), *TYPES]
    # npm settings of the user, such as a registry.
    environment = dict(os.environ, PATH=harness.env["PATH"])
    result = harness.run(install, seconds=60, env=environment)
    if result.code != 0:
        raise Skip(f"npm cannot install Grafana's types: {result.err.strip()[-200:]}")
    tsc = [str(place / "node_modules/.bin/tsc"), "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext"]
    result = harness.run([*tsc, str(place / "dashboard.ts")], seconds=60)
    expect("tsc", (result.code, result.out[:2000]), (0, ""))


def picture(harness, path):
    """The dashboard after some minutes in which a check failed and a client sent wrong requests."""
    node = Node(harness)
    prometheus = server(harness, [("healthz", "/metrics", node.port)], labels="labels: {instance: node1}")
    began = time.monotonic()
    # Seconds after the start at which the file is removed or comes back.
    for at, is_there in ((120, False), (210, True), (PICTURE_SECONDS - 50, False), (PICTURE_SECONDS, False)):
        wrong = 0
        while time.monotonic() < began + at:
            wrong += 1
            if 150 < time.monotonic() - began < 300 and wrong % 3 == 0:
                request(node.port, "/admin")
            time.sleep(1)
        node.file.touch() if is_there else node.file.unlink(missing_ok=True)
    draw(harness, prometheus, Path(path).absolute(), PICTURE_SECONDS / 60 - 0.2, "15s")
    node.end(harness)


# ---------------------------------------------------------------------------------------------
# The script itself


def main():
    ap = parser(__doc__)
    ap.add_argument("--picture", metavar="FILE", help="draw the dashboard after eight minutes, instead of the cases")
    args = parse(ap)
    if not args.picture:
        return run_script(args, PACKAGES, CASES, CASES_SECONDS_MAX)
    install_missing(args, PACKAGES)
    harness = Harness(args, PICTURE_SECONDS + CASES_SECONDS_MAX)
    try:
        picture(harness, args.picture)
        return 0
    finally:
        harness.clean_up()


if __name__ == "__main__":
    sys.exit(main())
