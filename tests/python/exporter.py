"""A serving engine's gauges, as Prometheus' own client library exposes them.

Prints the port that it serves on. Reads lines `NAME VALUE` and prints `set` once the gauge has the value.
"""

import sys

from prometheus_client import REGISTRY, Gauge, start_http_server

server, _ = start_http_server(0, addr="127.0.0.1")
print(server.server_port, flush=True)
gauges = {}
for line in sys.stdin:
    name, value = line.split()
    if name not in gauges:
        # A name with everything that has to be escaped in it.
        labels = {"model_name": 'a "quoted" } name, with \\ and\nmore', "engine": "0"}
        gauges[name] = Gauge(name, "Of an engine.", list(labels), registry=REGISTRY).labels(**labels)
    gauges[name].set(float(value))
    print("set", flush=True)
