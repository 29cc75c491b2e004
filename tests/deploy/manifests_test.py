"""deploy/ hangs together: every YAML and JSON file parses, names, labels, selectors, ports and volumes
agree, every container keeps the security baseline, and every flag exists in the real program.

Run by ctest with the interop environment's Python: manifests_test.py SOURCE_DIR BIN_DIR
"""

import json
import pathlib
import re
import subprocess
import sys

import yaml

SOURCE, BIN = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
BASE = SOURCE / "deploy/kustomize/base"
WORKLOADS = ("Deployment", "StatefulSet", "Job")
failures = []


def expect(condition, message):
    if not condition:
        failures.append(message)


def load_all():
    files = sorted(p for p in (SOURCE / "deploy").rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
    expect(len(files) >= 10, f"only {len(files)} files under deploy/")
    documents = {}
    for path in files:
        text = path.read_text()
        documents[path] = [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))
        expect(all(d is not None for d in documents[path]), f"{path}: an empty document")
    return documents


def labels_match(selector, labels):
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        if rule["operator"] == "In" and labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def check_workload(w, services):
    name, spec, pod = w["metadata"]["name"], w["spec"], w["spec"]["template"]["spec"]
    labels = w["spec"]["template"]["metadata"]["labels"]
    expect(labels_match(spec["selector"], labels), f"{name}: selector does not match its own pods")
    if w["kind"] == "StatefulSet":
        expect(spec["serviceName"] in services, f"{name}: no service {spec['serviceName']}")
        expect(services.get(spec["serviceName"], {}).get("clusterIP") == "None", f"{name}: service is not headless")
    security = pod.get("securityContext", {})
    expect(security.get("runAsNonRoot") is True, f"{name}: runAsNonRoot")
    expect(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{name}: seccompProfile")
    expect(pod.get("automountServiceAccountToken") is False, f"{name}: automountServiceAccountToken")
    expect(pod.get("terminationGracePeriodSeconds", 0) > 0, f"{name}: terminationGracePeriodSeconds")
    volumes = {v["name"] for v in pod.get("volumes", [])}
    volumes |= {c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])}
    for container in pod["containers"]:
        where = f"{name}/{container['name']}"
        context = container.get("securityContext", {})
        expect(context.get("allowPrivilegeEscalation") is False, f"{where}: allowPrivilegeEscalation")
        expect(context.get("readOnlyRootFilesystem") is True, f"{where}: readOnlyRootFilesystem")
        expect(context.get("capabilities", {}).get("drop") == ["ALL"], f"{where}: capabilities")
        expect({"requests", "limits"} <= set(container.get("resources", {})), f"{where}: resources")
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            expect(container[probe]["httpGet"]["port"] in ports, f"{where}: {probe} names an unknown port")
        for mount in container["volumeMounts"]:
            expect(mount["name"] in volumes, f"{where}: volume {mount['name']} is not defined")
            # The coordinator too: it refuses a job whose output_dir it cannot write.
            expect(mount["name"] != "shared" or not mount.get("readOnly"), f"{where}: shared is read-only")
        declared = {e["name"] for e in container.get("env", [])}
        for variable in re.findall(r"\$\((\w+)\)", " ".join(container["args"])):
            expect(variable in declared, f"{where}: $({variable}) is not declared")
        check_flags(where, container, ports)


def check_flags(where, container, ports):
    program = BIN / container["command"][0]
    if not program.exists():  # a build without LibTorch has no worker
        expect(program.name == "d2g-worker", f"{where}: {program} was not built")
        return
    if any(m["name"] == "shared" for m in container["volumeMounts"]):
        for flag in ("--model-root=", "--output-root="):
            expect(any(a.startswith(flag + "/shared/") for a in container["args"]), f"{where}: no {flag}")
    text = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60).stdout
    known = set(re.findall(r"--[a-z][a-z-]*", text))
    for argument in container["args"]:
        flag = argument.split("=")[0]
        expect(flag in known, f"{where}: {program.name} has no flag {flag}")
        listens = re.match(r"--(listen|admin-address)=.*:(\d+)$", argument)
        if listens:
            port = {"listen": "grpc", "admin-address": "admin"}[listens.group(1)]
            expect(ports.get(port) == int(listens.group(2)), f"{where}: {argument} is not port '{port}'")


def check_base(documents):
    kustomization = documents[BASE / "kustomization.yaml"][0]
    listed = set(kustomization["resources"])
    there = {p.name for p in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    expect(listed == there, f"kustomization.yaml lists {sorted(listed)}, the folder holds {sorted(there)}")
    objects = [d for name in sorted(there) for d in documents[BASE / name]]
    for o in objects:
        expect({"apiVersion", "kind", "metadata"} <= set(o) and o["metadata"].get("name"), f"no name or kind: {o}")
    keys = [(o["kind"], o["metadata"]["name"]) for o in objects]
    expect(len(keys) == len(set(keys)), "two objects of one kind share a name")
    of = lambda *kinds: [o for o in objects if o["kind"] in kinds]
    services = {s["metadata"]["name"]: s["spec"] for s in of("Service")}
    pods = [w["spec"]["template"] for w in of(*WORKLOADS)]
    claims = {c["metadata"]["name"] for c in of("PersistentVolumeClaim")}
    for workload in of(*WORKLOADS):
        check_workload(workload, services)
        for volume in workload["spec"]["template"]["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            expect(claim is None or claim in claims, f"no claim {claim}")
    for name, spec in services.items():
        matching = [p for p in pods if labels_match({"matchLabels": spec["selector"]}, p["metadata"]["labels"])]
        expect(len(matching) == 1, f"service {name} selects {len(matching)} workloads")
        names = {p["name"] for pod in matching for c in pod["spec"]["containers"] for p in c["ports"]}
        for port in spec["ports"]:
            expect(port["targetPort"] in names, f"service {name}: no port {port['targetPort']}")
    for budget in of("PodDisruptionBudget"):
        expect(any(labels_match(budget["spec"]["selector"], p["metadata"]["labels"]) for p in pods),
               f"budget {budget['metadata']['name']} selects nothing")
    check_policies(of("NetworkPolicy"), pods)
    shards = next(w for w in of("StatefulSet") if w["metadata"]["name"] == "d2g-store")["spec"]["replicas"]
    text = (BASE / "coordinator.yaml").read_text()
    expect(f"--shards={shards}" in text, "the coordinator's --shards is not the store's number of replicas")


def check_policies(policies, pods):
    client = {"metadata": {"labels": {"d2g.io/client": "true"}}}
    selects = lambda selector: any(labels_match(selector, p["metadata"]["labels"]) for p in pods + [client])
    listening = {c["containerPort"] for p in pods for k in p["spec"]["containers"] for c in k["ports"]} | {53}
    for policy in policies:
        name, spec = policy["metadata"]["name"], policy["spec"]
        expect(selects(spec["podSelector"]), f"policy {name} selects nothing")
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            for peer in rule.get("from", []) + rule.get("to", []):
                expect("podSelector" not in peer or selects(peer["podSelector"]), f"policy {name}: a peer is nobody")
            for port in rule.get("ports", []):
                expect(port["port"] in listening, f"policy {name}: nobody listens on {port['port']}")


def check_dashboards(documents):
    boards = {p: d[0] for p, d in documents.items() if p.parent.name == "dashboards"}
    expect(boards, "no dashboard")
    for path, board in boards.items():
        variables = {v["name"] for v in board["templating"]["list"]}
        expect({"datasource", "job", "instance"} <= variables, f"{path.name}: variables {variables}")
        expect(board.get("uid") and board.get("id") is None, f"{path.name}: needs a uid and no id")
        expect(board.get("editable") is False and board["schemaVersion"] >= 36, f"{path.name}: schema")
        for panel in board["panels"]:
            if panel["type"] == "row":
                continue
            for field in ("title", "description", "targets"):
                expect(panel.get(field), f"{path.name}: panel {panel.get('title')} lacks {field}")
            expect(panel["fieldConfig"]["defaults"].get("unit"), f"{path.name}: {panel['title']}: no unit")
            for target in panel["targets"]:
                query = target["expr"]
                expect('instance=~"$instance"' in query and 'job=~"$job"' in query, f"{path.name}: {query}")
                for name in re.findall(r"d2g_\w+_total\b", query):
                    expect(re.search(rf"(rate|increase)\({name}", query), f"{path.name}: {name} without rate")
                for window in re.findall(r"\[([^\]]+)\]", query):
                    expect(window == "$__rate_interval", f"{path.name}: fixed window [{window}]")


def main():
    documents = load_all()
    check_base(documents)
    check_dashboards(documents)
    for line in failures:
        print(f"FAIL {line}")
    print(f"{sum(len(d) for d in documents.values())} documents in {len(documents)} files, {len(failures)} findings")
    sys.exit(1 if failures else 0)


main()
