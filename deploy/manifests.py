"""What can be seen in the text of rendered manifests, and no schema knows: names that have to meet, and what comments promise.

    kubectl kustomize deploy/kubernetes/fleet | python3 deploy/manifests.py

Ends with 1 at the first thing that is not as it should be.
"""

import re
import sys
import tomllib

import yaml

SIDECAR, GATEWAY, STORE = "tidegate", "gateway", "tidegate-store"
# What `serve` takes at most after SIGTERM: its drain and its last batch (docs/storage.md).
DRAIN_S, LAST_BATCH_S = 10, 10
# What a store needs at least to sync its log.
SYNC_S = 10
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "kb": 2**10, "mb": 2**20, "gb": 2**30}
# The settings of the store that docs/operations.md asks for.
STORE_SETTINGS = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}


def require(holds, why):
    if not holds:
        sys.exit(f"deploy: {why}")


def named(entries, name):
    found = [entry for entry in entries if entry["name"] == name]
    require(found, f"there is no {name!r}")
    return found[0]


def size(text):
    """Of memory, as Kubernetes or the store's configuration has it."""
    require(text[-2:] in UNITS and text[:-2].isdigit(), f"{text!r} is not a number with one of the units {' '.join(UNITS)}")
    return int(text[:-2]) * UNITS[text[-2:]]


def probes(container):
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        require(kind in container, f"{container['name']}: there is no {kind}")
    return {kind: container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}


def ports(containers):
    return {port["name"]: port["containerPort"] for container in containers for port in container.get("ports", [])}


def settings(text):
    """Of a Valkey: names and values, as `CONFIG GET` has them but for the units."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: "" if value == '""' else value for name, value in lines}


class Pod:
    """The pods of one StatefulSet."""

    def __init__(self, manifests, stateful_set):
        self.manifests, self.set = manifests, stateful_set
        self.name = stateful_set["metadata"]["name"]
        self.labels = stateful_set["spec"]["template"]["metadata"]["labels"]
        self.spec = stateful_set["spec"]["template"]["spec"]
        self.containers = self.spec.get("initContainers", []) + self.spec["containers"]
        self.claims = {claim["metadata"]["name"] for claim in stateful_set["spec"].get("volumeClaimTemplates", [])}
        self.group = self.spec["securityContext"]["fsGroup"]
        self.grace = self.spec["terminationGracePeriodSeconds"]
        self.replicas = stateful_set["spec"]["replicas"]

    def container(self, name):
        return named(self.containers, name)

    def is_selected(self, selector):
        return selector.items() <= self.labels.items()

    def file(self, volume, name):
        """The text of a file of a ConfigMap that is mounted."""
        config = named(self.spec["volumes"], volume)["configMap"]["name"]
        return named(self.manifests.config_maps(), config)["data"][name]

    def lint(self):
        volumes = {volume["name"] for volume in self.spec["volumes"]} | self.claims
        for container in self.containers:
            name, security = container["name"], {**self.spec["securityContext"], **container["securityContext"]}
            for mount in container["volumeMounts"]:
                require(mount["name"] in volumes, f"{name}: there is no volume {mount['name']!r}")
            hardened = {
                "runAsNonRoot": security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0,
                "allowPrivilegeEscalation": security.get("allowPrivilegeEscalation") is False,
                "readOnlyRootFilesystem": security.get("readOnlyRootFilesystem") is True,
                "capabilities": security.get("capabilities") == {"drop": ["ALL"]},
                "seccompProfile": security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
                "automountServiceAccountToken": self.spec.get("automountServiceAccountToken") is False,
                "enableServiceLinks": self.spec.get("enableServiceLinks") is False,
            }
            for setting, is_set in hardened.items():
                require(is_set, f"{name}: {setting} is not what it should be")
            resources = container["resources"]
            for kind in ("requests", "limits"):
                require("memory" in resources.get(kind, {}), f"{name}: {kind} of memory are missing")
            require(re.search(r":(replace-me|v?\d[^:/]*)$", container["image"]), f"{name}: {container['image']} names no version")
            for variable in container["env"]:
                is_secret = re.search("AUTH|PASSWORD|TIDEGATE_STORE$", variable["name"])
                is_from_secret = "secretKeyRef" in variable.get("valueFrom", {})
                require(is_from_secret or not is_secret, f"{name}: {variable['name']} is not from a Secret")
        named([service["metadata"] for service in self.manifests.of_kind("Service")], self.set["spec"]["serviceName"])
        require(self.is_selected(self.set["spec"]["selector"]["matchLabels"]), f"{self.name}: it selects other pods")

    def lint_probes(self, container):
        for kind, probe in probes(container).items():
            require("exec" in probe, f"{container['name']}: {kind} does not run a command in the container")
            require(min(probe["periodSeconds"], probe["timeoutSeconds"]) >= 1, f"{kind}: Kubernetes wants 1 s or more")


class Manifests:
    def __init__(self, text):
        self.documents = [document for document in yaml.safe_load_all(text) if document]
        self.pods = {s["metadata"]["name"]: Pod(self, s) for s in self.of_kind("StatefulSet")}
        require(GATEWAY in self.pods, f"there is no StatefulSet {GATEWAY!r}")
        self.gateway = self.pods[GATEWAY]
        self.sidecar = named(self.gateway.spec["initContainers"], SIDECAR)
        # Of a fleet alone.
        self.store = self.pods.get(STORE)

    def of_kind(self, kind):
        return [document for document in self.documents if document["kind"] == kind]

    def config_maps(self):
        return [{"name": config["metadata"]["name"], **config} for config in self.of_kind("ConfigMap")]

    def store_settings(self):
        return settings(self.store.file("tidegate-store-config", "valkey.conf"))

    def store_service(self):
        return next(service for service in self.of_kind("Service") if self.store.is_selected(service["spec"]["selector"]))

    def lint(self):
        for pod in self.pods.values():
            pod.lint()
        self.lint_gateway()
        self.lint_services()
        require(not self.of_kind("Secret"), "there is a Secret: to apply it would undo the one that was made")
        if self.store:
            self.lint_sharing()
            self.lint_store()
            self.lint_network()
        else:
            require(self.gateway.replicas == 1, f"without a store, {self.gateway.replicas} pods admit as many times as much")
            require(self.gateway.claims, "neither a store nor a volume keeps the state")
        for budget in self.of_kind("PodDisruptionBudget"):
            for pod in self.pods.values():
                is_stuck = pod.is_selected(budget["spec"]["selector"]["matchLabels"]) and pod.replicas == 1
                require(not is_stuck, f"{pod.name}: a disruption budget of one pod forbids every drain of its node, or none")

    def lint_gateway(self):
        pod, sidecar = self.gateway, self.sidecar
        pod.lint_probes(sidecar)
        require(sidecar.get("restartPolicy") == "Always", "the sidecar is none: restartPolicy is not Always")
        require(pod.grace > DRAIN_S + LAST_BATCH_S, f"{pod.grace} s are too short for tidegate to end in order")
        targets = {value["value"] for c in pod.containers for value in c["env"] if value["name"] == "TIDEGATE_TARGET"}
        require(len(targets) == 1, f"gateway and sidecar name different targets: {targets}")

    def lint_services(self):
        for service in self.of_kind("Service"):
            selected = [pod for pod in self.pods.values() if pod.is_selected(service["spec"]["selector"])]
            require(len(selected) == 1, f"Service {service['metadata']['name']!r} selects {len(selected)} kinds of pods")
            for port in service["spec"]["ports"]:
                has = ports(selected[0].containers)
                require(port["targetPort"] in has, f"no container has the port {port['targetPort']!r}")

    def lint_sharing(self):
        """What makes a fleet of the gateway's sidecars."""
        variables = [variable["name"] for variable in self.sidecar["env"]]
        require("TIDEGATE_STORE" in variables, "the sidecar knows no store: there is no TIDEGATE_STORE")
        for argument in self.sidecar["args"]:
            require(argument.split("=")[0] != "--store", f"{argument}: whoever lists processes can read its password")
        config = tomllib.loads(self.gateway.file("tidegate-config", "tidegate.toml"))
        keeps = config.get("data_dir", "off") != "off" or any("data-dir" in argument for argument in self.sidecar["args"])
        require(not keeps and not self.gateway.claims, "a data directory and a store exclude each other")
        store = config["store"]
        require("url" not in store, "tidegate.toml has the address of the store: its password belongs into the Secret")
        require(store["degrade"] in ("share", "closed", "open"), f"degrade is {store['degrade']!r}")
        expected, replicas = store["expected_sidecars"], self.gateway.replicas
        require(expected == replicas, f"expected_sidecars is {expected}, but there are {replicas} gateways")
        variables = [variable for pod in self.pods.values() for c in pod.containers for variable in c["env"]]
        references = [variable["valueFrom"]["secretKeyRef"] for variable in variables if "valueFrom" in variable]
        secrets = {reference["name"] for reference in references}
        require(len(secrets) == 1, f"the password of the store and its address are in different Secrets: {secrets}")
        require(not any(reference.get("optional") for reference in references), "a Secret is optional")

    def lint_store(self):
        pod, server = self.store, self.store.containers[0]
        pod.lint_probes(server)
        for kind, probe in probes(server).items():
            # valkey-cli ends with 0 after an error, unless told otherwise.
            command = probe["exec"]["command"]
            require(("-e" in command) == (kind != "livenessProbe"), f"{kind}: `-e` belongs to all but livenessProbe")
            for word in command:
                require(not re.match("-a|--pass|--askpass|-u", word), f"{kind}: {word} shows the password")
        words = " ".join(server.get("command", []) + server.get("args", []))
        require("--requirepass" not in words, "the password of the store is among its arguments")
        require(pod.replicas == 1, f"{pod.replicas} stores are {pod.replicas} fleets")
        require(pod.grace > SYNC_S, f"{pod.grace} s are too short for the store to end in order")
        has = self.store_settings()
        for name, value in STORE_SETTINGS.items():
            require(has.get(name) == value, f"the store's {name} is {has.get(name)!r}, not {value!r}")
        require("requirepass" not in has, "the ConfigMap of the store has its password")
        limit = server["resources"]["limits"]["memory"]
        require(2 * size(has["maxmemory"]) <= size(limit), f"maxmemory {has['maxmemory']} is more than half of the limit, {limit}")
        kept = [mount["mountPath"] for mount in server["volumeMounts"] if mount["name"] in pod.claims]
        require(has["dir"] in kept, f"the store writes to {has['dir']}, which no volume keeps")
        require(int(has["port"]) in ports([server]).values(), f"the store listens on {has['port']}, which is no port of the container")

    def lint_network(self):
        """The gateway's pods reach the store, nobody else, and the store reaches nobody."""
        policies = [policy["spec"] for policy in self.of_kind("NetworkPolicy")]
        policies = [policy for policy in policies if self.store.is_selected(policy["podSelector"]["matchLabels"])]
        require(len(policies) == 1, "there is not one NetworkPolicy of the store")
        policy = policies[0]
        require(set(policy["policyTypes"]) == {"Ingress", "Egress"} and not policy.get("egress"), "the store may connect to others")
        for rule in policy["ingress"]:
            # A rule without `from` lets everybody in, as does an empty selector or one of other namespaces.
            require(rule.get("from"), "everybody may connect to the store")
            for peer in rule["from"]:
                selector = peer.get("podSelector", {}).get("matchLabels", {})
                is_gateway = set(peer) == {"podSelector"} and selector and self.gateway.is_selected(selector)
                require(is_gateway, f"{peer} may connect to the store")
            for port in rule["ports"]:
                require(port["port"] in ports(self.store.containers), f"no container of the store has the port {port['port']!r}")
        require(policy["ingress"], "nobody may connect to the store")


if __name__ == "__main__":
    Manifests(sys.stdin).lint()
