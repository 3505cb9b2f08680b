"""Does with podman what a kubelet would do with the sidecar of the rendered manifests: its command, its probes, its user, its
volumes, and SIGTERM. Prints what it does; ends with 1 at the first thing that does not work as written.

    kubectl kustomize deploy/kubernetes | python3 deploy/try_pod.py [--lint]

--lint: only what can be seen in the text, and no schema knows. Needs root otherwise, for podman and nsenter.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SIDECAR = "tidegate"
# What `serve` takes at most after SIGTERM: its drain and its last batch (docs/storage.md).
DRAIN_S, LAST_BATCH_S = 10, 10
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def require(holds, why):
    if not holds:
        sys.exit(f"deploy: {why}")


def named(entries, name):
    found = [entry for entry in entries if entry["name"] == name]
    require(found, f"there is no {name!r}")
    return found[0]


def probes(container):
    return {kind: container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}


def ports(containers):
    return {port["name"]: port["containerPort"] for container in containers for port in container.get("ports", [])}


class Pod:
    def __init__(self, documents):
        self.documents = documents
        sets = [document for document in documents if document["kind"] == "StatefulSet"]
        require(len(sets) == 1, "there is not one StatefulSet")
        self.set = sets[0]
        self.spec = self.set["spec"]["template"]["spec"]
        self.sidecar = named(self.spec["initContainers"], SIDECAR)
        self.gateway = named(self.spec["containers"], "gateway")
        self.claims = {claim["metadata"]["name"] for claim in self.set["spec"].get("volumeClaimTemplates", [])}
        self.group = self.spec["securityContext"]["fsGroup"]

    def of_kind(self, kind):
        return [document for document in self.documents if document["kind"] == kind]

    def lint(self):
        """The names that have to meet, and the promises of the manifests' comments."""
        containers = self.spec["initContainers"] + self.spec["containers"]
        volumes = {volume["name"] for volume in self.spec["volumes"]} | self.claims
        for container in containers:
            name, security = container["name"], {**self.spec["securityContext"], **container["securityContext"]}
            for mount in container["volumeMounts"]:
                require(mount["name"] in volumes, f"{name}: there is no volume {mount['name']!r}")
            hardened = {
                "runAsNonRoot": security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0,
                "allowPrivilegeEscalation": security.get("allowPrivilegeEscalation") is False,
                "readOnlyRootFilesystem": security.get("readOnlyRootFilesystem") is True,
                "capabilities": security.get("capabilities") == {"drop": ["ALL"]},
                "seccompProfile": security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            }
            for setting, is_set in hardened.items():
                require(is_set, f"{name}: {setting} is not what it should be")
        require(self.sidecar.get("restartPolicy") == "Always", "the sidecar is none: restartPolicy is not Always")
        for kind, probe in probes(self.sidecar).items():
            require("exec" in probe, f"{kind} does not go over the socket")
            require(min(probe["periodSeconds"], probe["timeoutSeconds"]) >= 1, f"{kind}: Kubernetes wants 1 s or more")
        grace = self.spec["terminationGracePeriodSeconds"]
        require(grace > DRAIN_S + LAST_BATCH_S, f"{grace} s are too short for tidegate to end in order")
        labels = self.set["spec"]["template"]["metadata"]["labels"]
        services = self.of_kind("Service")
        named([service["metadata"] for service in services], self.set["spec"]["serviceName"])
        for selector in [self.set["spec"]["selector"]["matchLabels"]] + [s["spec"]["selector"] for s in services]:
            require(selector.items() <= labels.items(), f"{selector} selects other pods")
        for service in services:
            for port in service["spec"]["ports"]:
                require(port["targetPort"] in ports(containers), f"no container has the port {port['targetPort']!r}")
        targets = {value["value"] for c in containers for value in c["env"] if value["name"] == "TIDEGATE_TARGET"}
        require(len(targets) == 1, f"gateway and sidecar name different targets: {targets}")


class Kubelet:
    """Runs containers of `pod` with podman, on volumes below `folder`."""

    def __init__(self, pod, folder):
        self.pod, self.volumes = pod, {}
        for volume in pod.spec["volumes"]:
            self.volumes[volume["name"]] = self.make_volume(folder, volume)
        for claim in pod.claims:
            self.volumes[claim] = self.make_volume(folder, {"name": claim})
            # As on a new ext4: a data directory has nothing foreign in it, but for this.
            (self.volumes[claim] / "lost+found").mkdir(0o700)

    def make_volume(self, folder, volume):
        path = Path(folder, volume["name"])
        path.mkdir()
        if "configMap" in volume:
            maps = [{"name": m["metadata"]["name"], **m} for m in self.pod.of_kind("ConfigMap")]
            for name, text in named(maps, volume["configMap"]["name"])["data"].items():
                path.joinpath(name).write_text(text)
        # What fsGroup means: the group is the pod's, and new files get it.
        for entry in [path, *path.iterdir()]:
            os.chown(entry, 0, self.pod.group)
            entry.chmod(0o2775 if entry.is_dir() else 0o644)
        return path

    def podman(self, *arguments, check=True):
        done = subprocess.run(["podman", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        failed = check and done.returncode != 0
        require(not failed, f"podman {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}")
        return done

    def options(self, container):
        """Of `podman run`, for a container as the manifests have it."""
        security = container["securityContext"]
        # There is a loopback and no other network, so no port of this machine is taken, and nobody out there is asked.
        options = ["--network=none", "--read-only", "--read-only-tmpfs=false", "--pull=never"]
        options += ["--cap-drop=all", "--security-opt=no-new-privileges", f"--group-add={self.pod.group}"]
        options += [f"--user={security['runAsUser']}:{security['runAsGroup']}"]
        options += [f"--env={variable['name']}={variable['value']}" for variable in container["env"]]
        for mount in container["volumeMounts"]:
            access = "ro" if mount.get("readOnly") else "rw"
            options.append(f"--volume={self.volumes[mount['name']]}:{mount['mountPath']}:{access}")
        return options

    def start(self):
        """The sidecar, until its startup probe succeeds as Kubernetes would want it to."""
        sidecar = self.pod.sidecar
        run = self.podman("run", "--detach", *self.options(sidecar), sidecar["image"], *sidecar["args"])
        self.id = run.stdout.strip().splitlines()[-1]
        began = time.monotonic()
        probe = sidecar["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            answer = self.probe(probe)
            if answer.returncode == 0:
                print(f"started; the startup probe succeeded after {time.monotonic() - began:.1f} s: {answer.stdout.strip()}")
                return
            if self.podman("inspect", "--format={{.State.Running}}", self.id).stdout.strip() != "true":
                break
            time.sleep(probe["periodSeconds"])
        sys.exit(f"deploy: the startup probe never succeeded: {answer.stdout}\n{self.log()}")

    def probe(self, probe):
        """As a kubelet: what takes longer than the probe's timeout has failed."""
        command = ["timeout", str(probe["timeoutSeconds"]), "podman", "exec", self.id, *probe["exec"]["command"]]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def probe_all(self):
        for kind, probe in probes(self.pod.sidecar).items():
            answer = self.probe(probe)
            require(answer.returncode == 0, f"{kind}: {answer.stdout}")
            print(f"{kind}: {answer.stdout.strip()}")

    def scrape(self):
        """As Prometheus, on the port that the Service names."""
        pid = self.podman("inspect", "--format={{.State.Pid}}", self.id).stdout.strip()
        # Not 127.0.0.1: who comes from outside does not find a listener on that address alone.
        url = f"http://127.0.0.2:{ports([self.pod.sidecar])['tidegate-http']}/metrics"
        fetch = f"import urllib.request as r; print(r.urlopen('{url}', timeout=5).read().decode())"
        command = ["nsenter", f"--target={pid}", "--net", sys.executable, "-c", fetch]
        page = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        require("\ntidegate_ready 1\n" in page, f"{url} is not the metrics of a server that is ready:\n{page}")
        print("metrics were scraped from the port tidegate-http")

    def ask(self):
        """One decision, by a container that has the gateway's user, mounts and variables; tidegate's image stands in for its own."""
        command = [self.pod.sidecar["image"], "check", "--account=acme", "--model=large", "--prompt=1k", "--keep"]
        answer = self.podman("run", "--rm", *self.options(self.pod.gateway), *command)
        require(answer.stdout.startswith("allow"), f"no ALLOW: {answer.stdout}")
        print("the gateway's stand-in asked over the socket:", answer.stdout.splitlines()[0])

    def log(self):
        return self.podman("logs", self.id, check=False).stdout

    def fits(self):
        """The bounds of the configuration against the memory limit: what is beyond it is killed, not refused."""
        limit = self.pod.sidecar["resources"]["limits"]["memory"]
        said = re.search(r"bounds can take ([0-9.]+) GiB", self.log())
        require(said, f"no word on memory:\n{self.log()}")
        require(float(said[1]) * UNITS["Gi"] < int(limit[:-2]) * UNITS[limit[-2:]], f"{said[0]}, the limit is {limit}")
        print(f"{said[0]}, the limit is {limit}")

    def stop(self):
        """SIGTERM, as when the pod ends. Returns the log."""
        began = time.monotonic()
        self.podman("kill", "--signal=TERM", self.id)
        code = self.podman("wait", self.id).stdout.strip()
        took, log = time.monotonic() - began, self.log()
        require(code == "0", f"exit code {code} after SIGTERM\n{log}")
        require(took < DRAIN_S, f"it took {took:.1f} s to end after SIGTERM\n{log}")
        print(f"SIGTERM: exit code 0 after {took:.1f} s")
        self.podman("rm", self.id)
        return log

    def clean(self):
        if getattr(self, "id", None):
            self.podman("rm", "--force", self.id, check=False)


def main():
    pod = Pod([document for document in yaml.safe_load_all(sys.stdin) if document])
    pod.lint()
    if "--lint" in sys.argv:
        return
    with tempfile.TemporaryDirectory() as folder:
        kubelet = Kubelet(pod, folder)
        try:
            kubelet.start()
            kubelet.probe_all()
            kubelet.scrape()
            kubelet.fits()
            kubelet.ask()
            kubelet.stop()
            # On the same volumes, as the next pod.
            kubelet.start()
            log = kubelet.stop()
            require("1 keys and 1 live reservations were there" in log, f"the volume did not keep its state:\n{log}")
            print("its state was there at the second start")
        finally:
            kubelet.clean()


main()
