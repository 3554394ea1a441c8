#!/usr/bin/env python3
"""Builds the image of packaging/Containerfile, runs it, and checks the manifests in packaging/kubernetes.

buildah builds the image without a daemon. runc runs it with the user, the arguments, the mounts and the rights that the
Containerfile or a manifest gives it. Docker builds it too, and acts on its HEALTHCHECK. The manifests are validated offline: kubernetes-validate has the schemas of
Kubernetes, and cloudcoil those of the Prometheus Operator. Each field is also misspelt once, which must be refused.

One line for each case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run.
"""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

from support.cases import INSTALL_SECONDS_MAX, ROOT, Harness, Missing, Skip, Wrong, install, parse, parser, registry
from support.cases import end_of_log, expect, expect_match, has_dynamic_linker, run_cases, wait_for

PACKAGING = ROOT / "packaging"
WORKLOADS = ["daemonset.yaml", "sidecar.yaml"]
CASES_SECONDS_MAX = 300
PATIENCE = 20

PACKAGES = {"buildah": "buildah", "runc": "runc", "dockerd": "docker.io"}
VALIDATORS = ["kubernetes-validate==1.37.0", "cloudcoil-models-prometheus-operator==0.80.1.0"]
# A Python with these validators; and a runtime that can make containers here.
VALIDATION, RUNTIME = "validators of PyPI", "runc that works"

# The port that the kubelet has on a node.
KUBELET_PORT = 10248
KIBI = {"Ki": 1, "Mi": 1024, "Gi": 1024 * 1024}

case, CASES = registry()


def run_ok(harness, what, *command, seconds=PATIENCE):
    result = harness.run([str(word) for word in command], seconds=seconds)
    if result.code != 0:
        raise Wrong(f"{what}: exit code {result.code}: {result.out.strip()} {result.err.strip()}")
    return result.out


class Image:
    """What `packaging/Containerfile` makes of the static program."""

    def __init__(self, harness):
        self.harness = harness
        context = harness.dir / "context"
        context.mkdir()
        shutil.copy(harness.args.daemon, context / "healthz")
        containerfile = PACKAGING / "Containerfile"
        self.buildah("build", "--isolation", "chroot", "--format", "docker", "-f", containerfile, "-t", "healthz", context)
        image = json.loads(self.buildah("inspect", "--type", "image", "healthz"))
        self.config = image["Docker"]["config"]
        self.container = self.buildah("from", "healthz").strip()
        self.root = Path(self.buildah("mount", self.container).strip())

    def buildah(self, *words):
        images = self.harness.dir / "images"
        state = ["--root", images, "--runroot", self.harness.dir / "images-run", "--storage-driver", "vfs"]
        return run_ok(self.harness, f"buildah {words[0]}", "buildah", *state, *words)


def image(harness):
    return harness.once("image", Image)


class Container:
    """A running container of the image."""

    def __init__(self, harness, name, args=(), mounts=(), is_read_only=True):
        self.harness, self.name = harness, f"{harness.dir.name}-{name}"
        self.runc = ["runc", "--root", str(harness.dir / "runc")]
        config = image(harness).config
        uid, gid = config["User"].split(":")
        bundle = harness.dir / f"bundle-{name}"
        bundle.mkdir()
        standard = [("/proc", "proc"), ("/dev", "tmpfs")]
        (bundle / "config.json").write_text(json.dumps({
            "ociVersion": "1.0.2",
            "process": {
                "args": config["Entrypoint"] + list(args), "env": config["Env"], "cwd": "/",
                "user": {"uid": int(uid), "gid": int(gid)},
                "capabilities": {}, "noNewPrivileges": True,
            },
            "root": {"path": str(image(harness).root), "readonly": is_read_only},
            "mounts": [{"destination": at, "type": kind, "source": kind} for at, kind in standard] + list(mounts),
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }))
        self.process = harness.start(name, [*self.runc, "run", "--bundle", str(bundle), self.name])

    def exec(self, *command):
        """Exit code and output of a command in the container; it has the container's user."""
        result = self.harness.run([*self.runc, "exec", self.name, *command], seconds=PATIENCE)
        return result.code, result.out + result.err

    def probe(self, port, path):
        return self.exec("/healthz", "probe", "-v", f"http://127.0.0.1:{port}{path}")

    def wait_for(self, *command):
        wait_for(f"exit code 0 of {command}", PATIENCE, lambda: self.exec(*command)[0] == 0)

    def processes(self):
        listed = run_ok(self.harness, "runc ps", *self.runc, "ps", "-f", "json", self.name)
        return [int(pid) for pid in json.loads(listed)]

    def first_pid(self):
        """The number of the container's first process."""
        return json.loads(run_ok(self.harness, "runc state", *self.runc, "state", self.name))["pid"]

    def stop(self):
        run_ok(self.harness, "runc kill", *self.runc, "kill", self.name, "TERM")
        expect("exit code", self.process.wait(PATIENCE), 0)
        expect_match("its log", end_of_log(self.process, 3000), r"stopped: \d+ requests answered")


def status(pid, key):
    return re.search(rf"^{key}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)[1].split()


@case("the image has the static program and nothing else", "buildah")
def _(harness):
    config = image(harness).config
    expect("files", sorted(os.listdir(image(harness).root)), ["healthz"])
    expect("it has a dynamic linker", has_dynamic_linker(image(harness).root / "healthz"), False)
    expect_match("user", config["User"], r"^[1-9]\d+:[1-9]\d+$")
    expect("published ports", config.get("ExposedPorts"), None)
    expect("entry point", config["Entrypoint"], ["/healthz"])
    expect("health check", config["Healthcheck"]["Test"][:3], ["CMD", "/healthz", "probe"])


@case("the container answers its HEALTHCHECK, is not root, and stops", RUNTIME, "buildah")
def _(harness):
    healthcheck = image(harness).config["Healthcheck"]["Test"][1:]
    container = Container(harness, "default")
    container.wait_for(*healthcheck)
    first = container.first_pid()
    expect("its number in the container", status(first, "NSpid")[1:], ["1"])
    expect("its users", set(status(first, "Uid")), {"65532"})
    expect("its capabilities", status(first, "CapEff"), ["0000000000000000"])
    # A server that hangs is not healthy.
    os.kill(first, signal.SIGSTOP)
    expect("exit code of the check", container.exec(*healthcheck)[0], 1)
    os.kill(first, signal.SIGCONT)
    container.wait_for(*healthcheck)
    container.stop()


@case("the container answers from outside with the arguments of docs/install.md", RUNTIME, "buildah")
def _(harness):
    text = (ROOT / "docs/install.md").read_text()
    arguments = re.search(r"^ +podman run .* localhost/healthz (--listen .*)$", text, re.M)[1].split()
    container = Container(harness, "outside", arguments)
    container.wait_for(*image(harness).config["Healthcheck"]["Test"][1:])
    # 127.0.0.2 is no address of the default: only a server on all addresses answers there.
    expect("the answer", container.exec("/healthz", "probe", "-v", "http://127.0.0.2:10248/readyz"), (0, "ok\n"))
    container.stop()


class Docker:
    """A Docker daemon with its own images and containers."""

    def __init__(self, harness):
        self.harness, place = harness, harness.dir / "docker"
        place.mkdir()
        # The builder that Docker 20.10 has; the other one is a program of its own.
        self.env = {**harness.env, "DOCKER_HOST": f"unix://{place}/socket", "DOCKER_BUILDKIT": "0"}
        # It changes neither the network of this machine nor its firewall.
        self.process = harness.start("dockerd", [
            "dockerd", "--host", self.env["DOCKER_HOST"], "--pidfile", place / "pid", "--data-root", place / "data",
            "--exec-root", place / "exec", "--storage-driver", "vfs",
            "--bridge", "none", "--iptables=false", "--ip6tables=false",
        ])

    def is_up(self):
        if self.process.poll() is not None:
            raise Skip(f"dockerd does not run here: {end_of_log(self.process)}")
        return self("version").code == 0

    def __call__(self, *words):
        return self.harness.run(["docker", *map(str, words)], seconds=PATIENCE, env=self.env)

    def ok(self, *words):
        result = self(*words)
        expect(f"docker {words[0]}: exit code and errors", (result.code, result.err), (0, ""))
        return result.out.strip()

    def inspect(self, key):
        return json.loads(self.ok("inspect", "--format", f"{{{{json .State.{key}}}}}", "healthz"))

    def wait_for(self, state):
        wait_for(f"{state} in Docker", PATIENCE, lambda: self.inspect("Health")["Status"] == state)


@case("Docker finds the container healthy, unhealthy while it hangs, and stops it", "dockerd")
def _(harness):
    docker = Docker(harness)
    wait_for("the Docker daemon", PATIENCE, docker.is_up)
    context = harness.dir / "docker-context"
    context.mkdir()
    shutil.copy(harness.args.daemon, context / "healthz")
    # It writes to its standard error that its builder is an old one.
    built = docker("build", "--quiet", "--tag", "healthz", "--file", PACKAGING / "Containerfile", context)
    expect("exit code of docker build", built.code, 0)
    docker.ok(
        "run", "--detach", "--name", "healthz", "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--health-interval", "1s", "--health-retries", "1", "healthz",
    )
    try:
        docker.wait_for("healthy")
        expect("what the probe prints", docker.inspect("Health")["Log"][-1]["Output"], "")
        docker.ok("kill", "--signal", "STOP", "healthz")
        docker.wait_for("unhealthy")
        log = docker.inspect("Health")["Log"]
        expect("exit code of the probe", log[-1]["ExitCode"], 1)
        expect_match("what it prints", log[-1]["Output"], r"^127\.0\.0\.1:10248 accepted, but sent no answer within 1s$")
        docker.ok("kill", "--signal", "CONT", "healthz")
        docker.wait_for("healthy")
        docker.ok("stop", "healthz")
        expect("exit code", docker.inspect("ExitCode"), 0)
        expect_match("its log", docker("logs", "healthz").err, r"stopped: \d+ requests answered")
    finally:
        docker("rm", "--force", "healthz")


# ---------------------------------------------------------------------------------------------
# Kubernetes


def in_venv(harness, code, documents):
    """What a program says about these documents, in the Python that has the validators."""
    path = harness.dir / "documents.json"
    path.write_text(json.dumps(documents))
    return run_ok(harness, "validation", harness.venv_python, "-c", code, path, seconds=CASES_SECONDS_MAX)


def read_manifest(harness, name):
    code = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))"
    return json.loads(run_ok(harness, name, harness.venv_python, "-c", code, PACKAGING / "kubernetes" / name))


# Maps whose keys are names of one's own.
FREE_NAMES = {"data", "labels", "matchLabels", "requests", "limits"}


def misspelt(document, value=None, path=()):
    """For each field of a document, where it is, and a copy in which its name lacks the last letter."""
    value = document if value is None else value
    entries = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in entries:
        if isinstance(value, dict) and (not path or path[-1] not in FREE_NAMES):
            # Without these two there is no schema to look for.
            if path or key not in ("apiVersion", "kind"):
                wrong = copy.deepcopy(document)
                place = wrong
                for step in path:
                    place = place[step]
                place[key[:-1]] = place.pop(key)
                yield "/".join(map(str, (*path, key))), wrong
        yield from misspelt(document, inner, (*path, key))


# One line for each document: "valid", or the error.
VALIDATE = """
import functools, json, sys
import kubernetes_validate
from kubernetes_validate import utils
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

# Without this it reads 2 MB of schemas for each document.
utils.schema_contents = functools.lru_cache(utils.schema_contents)
for document in json.load(open(sys.argv[1])):
    try:
        if document["kind"] == "PodMonitor":
            known = PodMonitor.model_validate(document).model_dump_json(by_alias=True, exclude_unset=True)
            # Unknown fields are no error, but they are lost.
            if json.loads(known) != document:
                raise ValueError(f"unknown fields; known are {known}")
        else:
            kubernetes_validate.validate(document, "1.37", strict=True)
        print("valid")
    except Exception as error:
        print(" ".join(str(error).split())[:300])
"""


@case("the manifests have no unknown field and no wrong value", VALIDATION)
def _(harness):
    count = 0
    for name in (*WORKLOADS, "podmonitor.yaml"):
        documents = read_manifest(harness, name)
        for document, verdict in zip(documents, in_venv(harness, VALIDATE, documents).splitlines(), strict=True):
            expect(f"{name}: {document['kind']}", verdict, "valid")
        wrong = [pair for document in documents for pair in misspelt(document)]
        verdicts = in_venv(harness, VALIDATE, [document for _, document in wrong]).splitlines()
        for (where, _), verdict in zip(wrong, verdicts, strict=True):
            expect(f"{name}: {where} misspelt: accepted", verdict == "valid", False)
        count += len(wrong)
    print(f"   {count} misspelt fields were refused")


class Workload:
    """A manifest with a ConfigMap and pods."""

    def __init__(self, harness, name):
        by_kind = {document["kind"]: document for document in read_manifest(harness, name)}
        self.checks = by_kind["ConfigMap"]["data"]["healthz.toml"]
        self.config_map = by_kind["ConfigMap"]["metadata"]["name"]
        self.object = next(document for kind, document in by_kind.items() if kind in ("DaemonSet", "Deployment"))
        self.template = self.object["spec"]["template"]
        self.pod = self.template["spec"]
        self.containers = self.pod.get("initContainers", []) + self.pod["containers"]
        self.healthz = next(container for container in self.containers if container["name"] == "healthz")

    def start(self, harness, name):
        """healthz as the kubelet starts it, but with empty file systems for all volumes but the ConfigMap."""
        config = harness.dir / f"config-{name}"
        config.mkdir()
        config.chmod(0o755)
        (config / "healthz.toml").write_text(self.checks)
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        mounts = []
        for mount in self.healthz["volumeMounts"]:
            is_config = volumes[mount["name"]].get("configMap", {}).get("name") == self.config_map
            access = ["ro"] if mount.get("readOnly") else ["rw", "mode=0777"]
            mounts.append({
                "destination": mount["mountPath"],
                "type": "bind" if is_config else "tmpfs",
                "source": str(config) if is_config else "tmpfs",
                "options": ["rbind", "ro"] if is_config else access,
            })
        is_read_only = self.healthz["securityContext"]["readOnlyRootFilesystem"]
        return Container(harness, name, self.healthz["args"], mounts, is_read_only)


@case("all containers in the manifests have this version and the rights of the level restricted", VALIDATION, "buildah")
def _(harness):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for name in WORKLOADS:
        workload = Workload(harness, name)
        user = int(image(harness).config["User"].split(":")[0])
        expected = {
            "runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "seccompProfile": {"type": "RuntimeDefault"},
        }
        expect(f"{name}: securityContext of the pod", workload.pod["securityContext"], expected)
        expected = {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }
        for container in workload.containers:
            expect(f"{name}: {container['name']}", container["securityContext"], expected)
        expect(f"{name}: image", workload.healthz["image"], f"registry.example/healthz:{version}")
        labels = workload.template["metadata"]["labels"]
        expect(f"{name}: selector", workload.object["spec"]["selector"]["matchLabels"], labels)


# Regression: the operator named the job NAMESPACE/NAME, so HealthzDown had no series and never fired.
@case("the PodMonitor gives its series the job of the alert HealthzDown", VALIDATION)
def _(harness):
    rules = (PACKAGING / "prometheus/healthz.rules.yml").read_text()
    expr = re.search(r"^ +- alert: HealthzDown\n +expr: (.*)$", rules, re.M)[1]
    labels = Workload(harness, "daemonset.yaml").template["metadata"]["labels"]
    monitor = read_manifest(harness, "podmonitor.yaml")[0]
    # The name of the job is the value of this label of the pod.
    job = labels.get(monitor["spec"].get("jobLabel"))
    expect("the expression of the alert", expr, f'up{{job="{job}"}} == 0')


@case("the DaemonSet answers the kubelet and Prometheus, and sees the kubelet", VALIDATION, RUNTIME, "buildah")
def _(harness):
    workload = Workload(harness, "daemonset.yaml")
    container = workload.start(harness, "daemonset")
    liveness = workload.healthz["livenessProbe"]["httpGet"]
    container.wait_for("/healthz", "probe", f"http://{liveness['host']}:{liveness['port']}{liveness['path']}")

    monitor = read_manifest(harness, "podmonitor.yaml")[0]
    expect("namespace", monitor["metadata"]["namespace"], workload.object["metadata"]["namespace"])
    expect("selector", monitor["spec"]["selector"]["matchLabels"], workload.template["metadata"]["labels"])
    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    ports = {port["name"]: port["containerPort"] for port in workload.healthz["ports"]}
    expect("the PodMonitor's port is one of the DaemonSet", endpoint["port"] in ports, True)
    port = ports[endpoint["port"]]
    code, text = container.probe(port, endpoint["path"])
    expect("exit code for the metrics", code, 0)
    expect_match("metrics", text, r'^kubernetes_healthcheck\{name="kubelet",type="readyz"\} 0$')
    expect("exit code for other paths there: another answer", container.probe(port, "/livez")[0], 4)

    # In the node's network, the kubelet has this port.
    expect("kubelet", container.probe(KUBELET_PORT, "/healthz")[0], 3)
    code, text = container.probe(port, "/readyz")
    expect("exit code without a kubelet", code, 1)
    expect_match("the answer", text, r"^\[-\]kubelet failed: reason withheld$")
    used = sum(int(status(pid, "VmHWM")[0]) for pid in container.processes())
    limit = re.fullmatch(r"(\d+)(\w+)", workload.healthz["resources"]["limits"]["memory"])
    print(f"   {used} KiB resident in all processes of the container, the limit is {limit[0]}")
    expect("half of the limit is enough", used < int(limit[1]) * KIBI[limit[2]] / 2, True)

    kubelet = ["/healthz", "--listen", f"127.0.0.1:{KUBELET_PORT}"]
    harness.start("kubelet", [*container.runc, "exec", container.name, *kubelet])
    container.wait_for("/healthz", "probe", f"http://127.0.0.1:{port}/readyz")
    container.stop()


@case("the sidecar takes heartbeats and answers the probes of both containers", VALIDATION, RUNTIME, "buildah")
def _(harness):
    workload = Workload(harness, "sidecar.yaml")
    container = workload.start(harness, "sidecar")
    container.wait_for(*workload.healthz["livenessProbe"]["exec"]["command"])
    worker = next(container for container in workload.containers if container["name"] == "worker")
    probes = [worker[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    expect("ports", {probe["port"] for probe in probes}, {port["containerPort"] for port in workload.healthz["ports"]})
    for probe in probes:
        expect(f"{probe['path']} before the first heartbeat", container.probe(probe["port"], probe["path"])[0], 1)
    environment = {variable["name"]: variable["value"] for variable in worker["env"]}
    expect("heartbeat", container.exec("/healthz", "beat", "worker", "--socket", environment["NOTIFY_SOCKET"]), (0, ""))
    expect_match("limit", workload.checks, rf'^limit = "{int(environment["WATCHDOG_USEC"]) // 1_000_000}s"$')
    for probe in probes:
        container.wait_for("/healthz", "probe", f"http://127.0.0.1:{probe['port']}{probe['path']}")
    container.stop()


# ---------------------------------------------------------------------------------------------


def install_all(harness):
    missing = [PACKAGES[tool] for tool in PACKAGES if not harness.which(tool)]
    if missing:
        install([*missing, "python3-venv"])
    if not has_validators(harness):
        for command in (
            [sys.executable, "-m", "venv", str(harness.venv_python.parent.parent)],
            [str(harness.venv_python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *VALIDATORS],
        ):
            subprocess.run(command, timeout=INSTALL_SECONDS_MAX, stdout=subprocess.DEVNULL, check=False)


def has_validators(harness):
    command = [str(harness.venv_python), "-c", "import kubernetes_validate, cloudcoil.models.prometheus_operator.v1"]
    return harness.venv_python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def has_runtime(harness):
    if os.geteuid() != 0 or not harness.which("runc"):
        return False
    container = Container(harness, "trial")
    try:
        container.wait_for("/healthz", "--version")
    except Wrong as wrong:
        print(f"   runc: {wrong}: {end_of_log(container.process)}")
        return False
    container.stop()
    return True


class Containers(Harness):
    def __init__(self, *args):
        super().__init__(*args)
        self.venv_python = Path(self.args.tools).absolute() / "bin/python"

    def require(self, needs):
        if VALIDATION in needs and not self.once(VALIDATION, lambda harness: [has_validators(harness)])[0]:
            raise Missing(f"no {VALIDATION}")
        super().require([need for need in needs if need in PACKAGES])
        # Not every machine lets a test make containers.
        if RUNTIME in needs and not self.once(RUNTIME, lambda harness: [has_runtime(harness)])[0]:
            raise Skip(f"no {RUNTIME}")


def main():
    # The program of `cargo static`.
    ap = parser(__doc__, ROOT / "target/x86_64-unknown-linux-musl/release/healthz")
    ap.add_argument("--tools", default=str(ROOT / "target/tools/kubernetes"), metavar="PATH", help="a venv with the validators")
    args = parse(ap)
    harness = Containers(args, CASES_SECONDS_MAX)
    try:
        if args.install:
            install_all(harness)
        harness.begin()
        return run_cases(harness, CASES)
    finally:
        harness.clean_up()


if __name__ == "__main__":
    sys.exit(main())
