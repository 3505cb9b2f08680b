"""Does with podman what a kubelet would do with rendered manifests: the store's container, where there is one, and the sidecar with
their commands, probes, users, volumes and Secrets, and SIGTERM. Prints what it does; ends with 1 at the first thing that does not
work as written.

    kubectl kustomize deploy/kubernetes/fleet | python3 deploy/try_pod.py

The image of the sidecar has to be there, and for the store one of that name (deploy/check). Needs root, for podman and nsenter.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from manifests import DRAIN_S, STORE, UNITS, Manifests, named, ports, probes, require, size

# Has what a password in an address must be encoded for.
PASSWORD = "p@ss/w%rd:?#[ü]"
# Until what a sidecar says of its store has to be true: it looks every second.
SOON_S = 10


def run(*command, check=True):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    failed = check and done.returncode != 0
    require(not failed, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done


def podman(*arguments, check=True):
    return run("podman", *arguments, check=check)


class Volumes:
    """Of a pod, below `folder`. They outlive its containers."""

    def __init__(self, pod, folder):
        self.pod, self.paths, self.hosts = pod, {}, Path(folder, "hosts")
        services = [service["metadata"]["name"] for service in pod.manifests.of_kind("Service")]
        self.hosts.write_text(f"127.0.0.1 localhost {' '.join(services)}\n")
        for volume in pod.spec["volumes"]:
            self.make(folder, volume)
        for claim in pod.claims:
            self.make(folder, {"name": claim})
            # As on a new ext4: a data directory has nothing foreign in it, but for this.
            (self.paths[claim] / "lost+found").mkdir(0o700)

    def make(self, folder, volume):
        path = self.paths[volume["name"]] = Path(folder, volume["name"])
        path.mkdir()
        if "configMap" in volume:
            for name, text in named(self.pod.manifests.config_maps(), volume["configMap"]["name"])["data"].items():
                path.joinpath(name).write_text(text)
        # What fsGroup means: the group is the pod's, and new files get it.
        for entry in [path, *path.iterdir()]:
            os.chown(entry, 0, self.pod.group)
            entry.chmod(0o2775 if entry.is_dir() else 0o644)


class Container:
    """A container of a pod as the manifests have it. `secrets`: what the Secrets of its variables have, by name and key."""

    def __init__(self, pod, name, volumes, secrets, network="none"):
        self.pod, self.spec, self.volumes, self.secrets = pod, pod.container(name), volumes, secrets
        self.network, self.id = network, None

    def value(self, variable):
        if "value" in variable:
            return variable["value"]
        reference = variable["valueFrom"]["secretKeyRef"]
        return self.secrets[reference["name"]][reference["key"]]

    def options(self):
        """Of `podman run`."""
        security = self.spec["securityContext"]
        # There is a loopback and no other network, so no port of this machine is taken, and nobody out there is asked.
        options = [f"--network={self.network}", "--read-only", "--read-only-tmpfs=false", "--pull=never"]
        options += ["--cap-drop=all", "--security-opt=no-new-privileges", f"--group-add={self.pod.group}"]
        options += [f"--user={security['runAsUser']}:{security['runAsGroup']}"]
        options += [f"--env={variable['name']}={self.value(variable)}" for variable in self.spec["env"]]
        for mount in self.spec["volumeMounts"]:
            access = "ro" if mount.get("readOnly") else "rw"
            options.append(f"--volume={self.volumes.paths[mount['name']]}:{mount['mountPath']}:{access}")
        if self.pod.manifests.store:
            # The cluster's DNS. Who shares the store's network finds it there.
            options.append(f"--volume={self.volumes.hosts}:/etc/hosts:ro")
        if "command" in self.spec:
            options.append("--entrypoint=" + self.spec["command"][0])
        return options

    def arguments(self):
        return [self.spec["image"], *self.spec.get("command", [])[1:], *self.spec.get("args", [])]

    def start(self):
        """Until its startup probe succeeds as Kubernetes would want it to."""
        self.id = podman("run", "--detach", *self.options(), *self.arguments()).stdout.strip().splitlines()[-1]
        began = time.monotonic()
        probe = self.spec["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            answer = self.probe(probe)
            if answer.returncode == 0:
                took = time.monotonic() - began
                print(f"{self.spec['name']}: started; the startup probe succeeded after {took:.1f} s: {answer.stdout.strip()}")
                return
            if self.inspect("State.Running") != "true":
                break
            time.sleep(probe["periodSeconds"])
        sys.exit(f"deploy: the startup probe of {self.spec['name']} never succeeded: {answer.stdout}\n{self.log()}")

    def inspect(self, what):
        return podman("inspect", f"--format={{{{.{what}}}}}", self.id).stdout.strip()

    def execute(self, *command, env=(), timeout_s=10):
        options = [f"--env={variable}" for variable in env]
        return run("timeout", str(timeout_s), "podman", "exec", *options, self.id, *command, check=False)

    def probe(self, probe, env=()):
        """As a kubelet: what takes longer than the probe's timeout has failed."""
        return self.execute(*probe["exec"]["command"], env=env, timeout_s=probe["timeoutSeconds"])

    def probe_all(self):
        for kind, probe in probes(self.spec).items():
            answer = self.probe(probe)
            require(answer.returncode == 0, f"{self.spec['name']}: {kind}: {answer.stdout}")
            print(f"{self.spec['name']}: {kind}: {answer.stdout.strip()}")

    def log(self):
        return podman("logs", self.id, check=False).stdout

    def signal(self, name):
        podman("kill", f"--signal={name}", self.id)

    def stop(self, within_s):
        """SIGTERM, as when the pod ends. Returns the log."""
        began = time.monotonic()
        self.signal("TERM")
        code = run("timeout", str(within_s), "podman", "wait", self.id, check=False).stdout.strip()
        took, log = time.monotonic() - began, self.log()
        require(code == "0", f"exit code {code or 'none'} within {within_s} s of SIGTERM\n{log}")
        print(f"{self.spec['name']}: SIGTERM: exit code 0 after {took:.1f} s")
        self.remove()
        return log

    def remove(self):
        if self.id:
            podman("rm", "--force", "--time=0", self.id, check=False)
        self.id = None


class Sidecar(Container):
    def scrape(self):
        """As Prometheus, on the port that the Service names."""
        # Not 127.0.0.1: who comes from outside does not find a listener on that address alone.
        url = f"http://127.0.0.2:{ports([self.spec])['tidegate-http']}/metrics"
        fetch = f"import urllib.request as r; print(r.urlopen('{url}', timeout=5).read().decode())"
        page = run("nsenter", f"--target={self.inspect('State.Pid')}", "--net", sys.executable, "-c", fetch, check=False).stdout
        require("\ntidegate_ready 1\n" in page, f"{url} is not the metrics of a server that is ready:\n{page}")
        return page

    def expect(self, *lines):
        """That these are on the metrics page soon."""
        deadline = time.monotonic() + SOON_S
        while missing := [line for line in lines if f"\n{line}\n" not in self.page()]:
            require(time.monotonic() < deadline, f"not on the metrics page: {missing}\n{self.last}\n{self.log()}")
            time.sleep(0.5)
        print(f"{self.spec['name']}: metrics: {', '.join(lines)}")

    def page(self):
        self.last = self.scrape()
        return self.last

    def close_ports(self):
        arguments = [argument for argument in self.spec["args"] if not argument.startswith("--http-listen")]
        self.spec = {**self.spec, "args": [*arguments, "--http-listen=off", "--admin-listen=off"]}

    def ask(self, gateway, expected="allow"):
        """One decision, by a container that has the gateway's user, mounts and variables; tidegate's image stands in for its own."""
        command = [self.spec["image"], "check", "--account=acme", "--model=large", "--prompt=1k", "--keep"]
        answer = podman("run", "--rm", *gateway.options(), *command, check=False)
        require(answer.stdout.startswith(expected), f"not {expected}: {answer.stdout}")
        print("the gateway's stand-in asked over the socket:", answer.stdout.splitlines()[0])

    def fits(self):
        """The bounds of the configuration against the memory limit: what is beyond it is killed, not refused."""
        limit = self.spec["resources"]["limits"]["memory"]
        said = re.search(r"bounds can take ([0-9.]+) GiB", self.log())
        require(said, f"no word on memory:\n{self.log()}")
        require(float(said[1]) * UNITS["Gi"] < size(limit), f"{said[0]}, the limit is {limit}")
        print(f"{said[0]}, the limit is {limit}")


class Store(Container):
    def cli(self, *command, env=()):
        return self.execute("valkey-cli", "-e", *command, env=env)

    def try_password(self):
        ready = probes(self.spec)["readinessProbe"]
        for wrong in ("", "guessed"):
            answer = self.probe(ready, env=[f"REDISCLI_AUTH={wrong}"])
            require(answer.returncode != 0 and "NOAUTH" in answer.stdout, f"the store serves {wrong!r}: {answer.stdout}")
        # Of the server and whatever else is there.
        for process in podman("top", self.id, "hpid").stdout.split()[1:]:
            arguments = Path("/proc", process, "cmdline").read_bytes()
            require(PASSWORD.encode() not in arguments, f"the arguments show the password: {arguments}")
        print("valkey: nobody is served without the password, and no arguments show it")

    def try_settings(self, expected):
        for name, value in expected.items():
            is_size = value[-2:] in UNITS and value[:-2].isdigit()
            answer = self.cli("config", "get", name)
            says = answer.stdout.removeprefix(f"{name}\n").strip("\n")
            require(answer.returncode == 0 and says == (str(size(value)) if is_size else value), f"{name}: {says!r}, not {value!r}")
        print(f"valkey: CONFIG GET says what its ConfigMap does: {', '.join(expected)}")

    def try_network(self):
        """Others come from outside."""
        answer = self.cli("-h", "127.0.0.2", "ping")
        require(answer.stdout == "PONG\n", f"it does not listen on all addresses: {answer.stdout}")


def try_one_pod(manifests, folder):
    volumes = Volumes(manifests.gateway, folder)
    sidecar = Sidecar(manifests.gateway, "tidegate", volumes, {})
    gateway = Container(manifests.gateway, "gateway", volumes, {})
    try:
        sidecar.start()
        sidecar.probe_all()
        sidecar.expect("tidegate_ready 1")
        sidecar.fits()
        sidecar.ask(gateway)
        sidecar.stop(DRAIN_S)
        # On the same volumes, as the next pod.
        sidecar.start()
        log = sidecar.stop(DRAIN_S)
        require("1 keys and 1 live reservations were there" in log, f"the volume did not keep its state:\n{log}")
        print("its state was there at the second start")
    finally:
        sidecar.remove()


def try_fleet(manifests, folder):
    # Nobody is there to turn the port of the Service into that of the container.
    service = manifests.store_service()
    port = ports(manifests.store.containers)[service["spec"]["ports"][0]["targetPort"]]
    address = f"redis://:{quote(PASSWORD, safe='')}@{service['metadata']['name']}:{port}"
    secrets = {STORE: {"password": PASSWORD, "address": address}}
    store_volumes = Volumes(manifests.store, folder)
    name = manifests.store.containers[0]["name"]
    store = Store(manifests.store, name, store_volumes, secrets)
    started = [store]
    try:
        refuse_no_password(manifests, name, store_volumes)
        store.start()
        store.probe_all()
        store.try_password()
        store.try_settings(manifests.store_settings())
        store.try_network()

        # Two pods, in the network of the store, where each port is there once: the second one serves its socket alone.
        pods = []
        for listens in (True, False):
            pod_folder = Path(folder, f"gateway-{len(pods)}")
            pod_folder.mkdir()
            volumes = Volumes(manifests.gateway, pod_folder)
            sidecar = Sidecar(manifests.gateway, "tidegate", volumes, secrets, f"container:{store.id}")
            if not listens:
                sidecar.close_ports()
            pods.append((sidecar, Container(manifests.gateway, "gateway", volumes, secrets)))
            started.append(sidecar)
            sidecar.start()
            sidecar.probe_all()
            sidecar.ask(pods[-1][1])
        (sidecar, gateway), (other, other_gateway) = pods
        sidecar.fits()
        sidecar.expect('tidegate_degraded{part="store"} 0', "tidegate_store_sidecars 2")

        # Stands still: the store's liveness probe sees it, the sidecar's probes do not mind, and decisions go on.
        store.signal("STOP")
        answer = store.probe(probes(store.spec)["livenessProbe"])
        require(answer.returncode != 0, f"the liveness probe does not see that the store stands still: {answer.stdout}")
        sidecar.expect('tidegate_degraded{part="store"} 1')
        sidecar.probe_all()
        sidecar.ask(gateway)
        store.signal("CONT")
        sidecar.expect('tidegate_degraded{part="store"} 0')

        # A write on one acts on the other, and outlives store and sidecars.
        block = sidecar.execute("/tidegate", "admin", "accounts", "block", "acme")
        require(block.returncode == 0, f"an account cannot be blocked: {block.stdout}")
        time.sleep(1)
        other.ask(other_gateway, "forbidden")
        for pod in pods:
            log = pod[0].stop(DRAIN_S)
            require('"message":"store: ' not in log, f"the store is not set up as it should be:\n{log}")
            for shown in (PASSWORD, quote(PASSWORD, safe="")):
                require(shown not in log, f"the log shows the password:\n{log}")
        store.stop(manifests.store.grace)
        store.start()
        sidecar.network = f"container:{store.id}"
        sidecar.start()
        sidecar.ask(gateway, "forbidden")
        print("the store's volume kept the policy")
        sidecar.stop(DRAIN_S)
        store.stop(manifests.store.grace)
    finally:
        for container in reversed(started):
            container.remove()


def refuse_no_password(manifests, name, volumes):
    """A Secret with an empty password must not make a store without one."""
    store = Store(manifests.store, name, volumes, {STORE: {"password": ""}})
    done = run("timeout", "10", "podman", "run", "--rm", *store.options(), *store.arguments(), check=False)
    require(done.returncode != 0 and "no password" in done.stdout, f"it starts without a password:\n{done.stdout}")
    print(f"{name}: with an empty password it does not start: {done.stdout.strip()}")


def main():
    manifests = Manifests(sys.stdin)
    manifests.lint()
    with tempfile.TemporaryDirectory() as folder:
        (try_fleet if manifests.store else try_one_pod)(manifests, folder)


main()
