"""The parts of deploy/lint that no ready tool does: `compose`, `dashboard FOLDER`."""

import json
import re
import sys
from pathlib import Path

COMPOSE = Path("deploy/compose")
DASHBOARD = COMPOSE / "grafana/dashboards/loadonce.json"


def problem(text):
    sys.exit(f"deploy/lint: {text}")


def compose():
    import compose_spec

    text = (COMPOSE / "compose.yaml").read_text()
    try:
        spec = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
        spec.validate()
    except ValueError as error:
        problem(f"compose.yaml is not what the Compose specification says: {error}")
    services = spec.to_dict()["services"]
    # Made by hand on the machine it runs on; everything else must be in the repository.
    by_hand = {"certs/broker", "certs/aggregator", "aggregator", "secrets/grafana_password"}
    for name, service in services.items():
        image = service.get("image", "")
        if not re.search(r":v?\d+\.\d+\.\d+$", image):
            problem(f"{name}: the image {image} has no full version")
        for key, wanted in [("read_only", True), ("cap_drop", ["ALL"])]:
            if service.get(key) != wanted:
                problem(f"{name}: {key} is {service.get(key)!r}, not {wanted!r}")
        if not service.get("mem_limit"):
            problem(f"{name}: no mem_limit")
        for volume in service.get("volumes", []):
            if volume["type"] != "bind":
                continue
            source = volume["source"].removeprefix("./")
            if source not in by_hand and not (COMPOSE / source).exists():
                problem(f"{name}: {source} is not there")
            if not volume.get("read_only"):
                problem(f"{name}: {source} can be written from inside")
    for secret in re.findall(r"file: \./(\S+)", text):
        if secret not in by_hand:
            problem(f"{secret} is not known")
    print(f"{len(services)} services, as the Compose specification says")


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def dashboard(folder):
    board = json.loads(DASHBOARD.read_text())
    source = (COMPOSE / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    uid = re.search(r"uid: (\S+)", source).group(1)
    ids = [panel["id"] for panel in board["panels"]]
    if len(set(ids)) != len(ids):
        problem("two panels have the same id")
    taken = set()
    for panel in board["panels"]:
        title, grid = panel["title"], panel["gridPos"]
        if grid["x"] + grid["w"] > 24:
            problem(f"panel {title} is wider than the board")
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        if taken & cells:
            problem(f"panel {title} lies over another")
        taken |= cells
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            problem(f"panel {title} does not say what it shows")
        for place in [panel, *panel["targets"]]:
            if place["datasource"] != {"type": "prometheus", "uid": uid}:
                problem(f"panel {title} asks another data source than the provisioned one")
    rules = [
        # What Grafana puts in: at least four scrapes.
        {"record": f"dashboard:expression_{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, (_, expr) in enumerate(expressions(board))
    ]
    file = {"groups": [{"name": "dashboard", "rules": rules}]}
    Path(folder, "dashboard-expressions.yml").write_text(json.dumps(file))
    # A literal, so that the compiler also refuses keys it does not know.
    text = f"import type {{ PlainDashboard }} from './types';\nexport const board: PlainDashboard = {json.dumps(board)};\n"
    Path(folder, "dashboard.ts").write_text(text)
    print(f"{len(ids)} panels, {len(rules)} expressions")


if __name__ == "__main__":
    {"compose": compose, "dashboard": dashboard}[sys.argv[1]](*sys.argv[2:])
