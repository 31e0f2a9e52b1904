"""The manifests of infra/kubernetes: what the API takes, what may do what, who may call whom, names and secrets."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cluster import (
    CLUSTER,
    ROOT,
    VERSIONS,
    Tree,
    applied,
    called,
    documents,
    everything_that_runs,
    files,
    pods,
    strings,
    template,
    validate,
)

from flows.deployment.deploy import GPU_IMAGE, IMAGES

# What the API takes


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_knows_every_field_of_every_manifest(version: str) -> None:
    for one in [*applied(), *documents(CLUSTER / "secrets.example.yaml")]:
        validate(one, version)


def test_an_unknown_field_would_be_found() -> None:
    (spoilt,) = called("PersistentVolumeClaim").values()
    with pytest.raises(kubernetes_validate.ValidationError):
        validate({**spoilt, "spec": {**spoilt["spec"], "acessModes": []}}, "1.37")


def test_every_manifest_is_applied_and_no_name_is_given_twice() -> None:
    there = {
        path for path in CLUSTER.rglob("*.yaml") if path.name not in ("kustomization.yaml", "secrets.example.yaml")
    }
    assert there == set(files())
    names = [(one["kind"], one["metadata"]["name"]) for one in applied()]
    assert len(names) == len(set(names))


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_puts_one_image_and_one_namespace_everywhere(tmp_path: Path) -> None:
    shutil.copytree(CLUSTER, tmp_path / "there")
    settings = tmp_path / "there" / "settings.yaml"
    settings.write_text(settings.read_text().replace("montessori-orchestrator:local", "registry/orchestrator:7"))
    command = ["kubectl", "kustomize", str(tmp_path / "there")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = list(yaml.safe_load_all(made))
    assert len(found) == len(applied())
    (namespace,) = {one["metadata"].get("namespace") for one in found if one["kind"] != "Namespace"}
    assert namespace == "montessori"
    images = [
        one["image"]
        for doc in found
        for one in doc.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    ]
    assert sorted(images) == ["montessori-postgres:local", "montessori-redis:local", *["registry/orchestrator:7"] * 5]
    for one in found:
        validate(one, VERSIONS[0])


# What may do what


def test_nothing_runs_as_root_or_with_rights_that_it_does_not_need() -> None:
    for name, pod in everything_that_runs().items():
        spec = pod["spec"]
        assert spec["securityContext"] | {"fsGroupChangePolicy": ""} == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "",
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
        assert spec["automountServiceAccountToken"] is (name == "worker"), name
        assert spec["enableServiceLinks"] is False, name
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", [])), name
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= {"emptyDir", "persistentVolumeClaim"}, name


def test_every_container_has_requests_and_limits() -> None:
    for name, pod in everything_that_runs().items():
        for container in pod["spec"]["containers"]:
            given = container["resources"]
            assert {"cpu", "memory"} <= given["requests"].keys() & given["limits"].keys(), name
        for volume in pod["spec"].get("volumes", []):
            assert "persistentVolumeClaim" in volume or volume["emptyDir"]["sizeLimit"], name


def test_what_stays_up_has_probes() -> None:
    for name in pods().keys() - {"deploy"}:
        (container,) = pods()[name]["spec"]["containers"]
        assert "livenessProbe" in container, name
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if called_at := container.get(probe, {}).get("httpGet"):
                assert called_at["port"] in {port["name"] for port in container["ports"]}, name


def test_nothing_is_exposed() -> None:
    assert {one["spec"]["type"] for one in called("Service").values()} == {"ClusterIP"}
    assert {one["kind"] for one in applied()}.isdisjoint({"Ingress", "Gateway", "HTTPRoute"})
    everything = json.dumps(applied()) + json.dumps(template("kubernetes"))
    assert not re.search("LoadBalancer|NodePort|nodePort|externalIPs|hostPort|hostPath", everything)


def test_the_worker_may_make_jobs_in_its_namespace_and_nothing_else() -> None:
    assert {one["kind"] for one in applied()}.isdisjoint({"ClusterRole", "ClusterRoleBinding"})
    may = {
        f"{verb} {resource}"
        for rule in called("Role")["worker"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    looks = {f"{verb} {what}" for verb in ("get", "list", "watch") for what in ("jobs", "pods")}
    assert may == looks | {"create jobs", "delete jobs", "get pods/log"}


def admitted(pod: Tree, service: str) -> bool:
    """Whether the network policies let `pod` call `service`."""
    selector = called("Service")[service]["spec"]["selector"]
    concerning = [
        one["spec"]
        for one in called("NetworkPolicy").values()
        if "Ingress" in one["spec"]["policyTypes"] and selected(one["spec"]["podSelector"], selector)
    ]
    assert concerning, "what no policy concerns may be called by all"
    ports = {port["targetPort"] for port in called("Service")[service]["spec"]["ports"]}
    numbers = {
        port["containerPort"] for port in pods()[service]["spec"]["containers"][0]["ports"] if port["name"] in ports
    }
    return any(
        {port["port"] for port in rule["ports"]} == numbers
        and any(selected(peer["podSelector"], pod["metadata"]["labels"]) for peer in rule["from"])
        for policy in concerning
        for rule in policy.get("ingress", [])
    )


def selected(selector: Tree, labels: dict[str, str]) -> bool:
    for one in selector.get("matchExpressions", []):
        if one["key"] not in labels or (one["operator"] == "In" and labels[one["key"]] not in one["values"]):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_the_server_is_called_by_its_clients_and_the_data_by_the_server_only() -> None:
    who = everything_that_runs()
    callers = {service: {name for name, pod in who.items() if admitted(pod, service)} for service in called("Service")}
    assert callers == {
        "server": {"services", "worker", "deploy", "run", "stage"},
        "postgres": {"server", "services"},
        "redis": {"server", "services"},
        "reports": set(),
    }


def test_services_budgets_and_sets_select_the_pods_that_they_mean() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for one in applied():
        name, selector = one["metadata"]["name"], one.get("spec", {}).get("selector", {})
        if one["kind"] in ("Service", "Deployment", "StatefulSet", "PodDisruptionBudget"):
            chosen = {
                who
                for who, has in labels.items()
                if selected(selector if "matchLabels" in selector else {"matchLabels": selector}, has)
            }
            assert chosen == {name}, one["kind"]


# Names and secrets


def entries() -> dict[tuple[str, str], set[str]]:
    """The keys of the config maps and secrets."""
    found = {("configMap", name): set(one["data"]) for name, one in called("ConfigMap").items()}
    for one in documents(CLUSTER / "secrets.example.yaml"):
        found["secret", one["metadata"]["name"]] = set(one["stringData"])
    return found


def test_every_reference_is_to_something_that_is_there() -> None:
    claims, accounts = called("PersistentVolumeClaim"), called("ServiceAccount")
    for name, pod in everything_that_runs().items():
        spec = pod["spec"]
        assert spec.get("serviceAccountName", "worker") in accounts
        for container in spec["containers"]:
            for one in container.get("envFrom", []):
                ((kind, of),) = one.items()
                assert (kind.removesuffix("Ref"), of["name"]) in entries(), name
            for one in container.get("env", ()):
                for kind in ("secret", "configMap"):
                    if of := one.get("valueFrom", {}).get(f"{kind}KeyRef"):
                        assert of["key"] in entries()[kind, of["name"]], name
            volumes = {volume["name"] for volume in spec["volumes"]}
            if made := called("StatefulSet").get(name):
                volumes |= {one["metadata"]["name"] for one in made["spec"]["volumeClaimTemplates"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes, name
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims, name


def test_every_variable_that_a_manifest_expands_is_one_of_its_container() -> None:
    for name, pod in pods().items():
        (container,) = pod["spec"]["containers"]
        known = {one["name"] for one in container.get("env", [])}
        for one in container.get("envFrom", []):
            ((kind, of),) = one.items()
            known |= entries()[kind.removesuffix("Ref"), of["name"]]
        asked = {variable for text in strings(container) for variable in re.findall(r"\$\((\w+)\)", text)}
        assert asked <= known, name


def test_no_manifest_and_no_template_holds_a_secret() -> None:
    assert "Secret" not in {one["kind"] for one in applied()}
    for one in documents(CLUSTER / "secrets.example.yaml"):
        assert not any(one["stringData"].values())
    secret = re.compile("PASSWORD|AUTH_STRING|TOKEN|SECRET|_KEY")
    for name, pod in pods().items():
        for one in pod["spec"]["containers"][0].get("env", []):
            if "value" in one and not one["name"].startswith("PREFECT_INTEGRATIONS_"):
                assert not secret.search(one["name"]), name
    for settings in called("ConfigMap").values():
        assert not any(secret.search(name) for name in settings["data"])
    for kind in ("process", "docker", "kubernetes"):
        found = template(kind)
        env = found["job_configuration"]["env"]
        if env == "{{ env }}":
            env = found["variables"]["properties"]["env"].get("default", {})
        for name, value in env.items():
            assert not secret.search(name) or value == f"{{{{ ${name} }}}}", name
    addresses = " ".join(strings([applied(), [template(kind) for kind in ("process", "docker", "kubernetes")]]))
    assert not re.search(r"://[^\s/$]*:[^\s/$]+@", addresses)


def test_the_script_makes_the_secrets_that_the_example_names(tmp_path: Path) -> None:
    stub = tmp_path / "kubectl"
    stub.write_text(
        '#!/bin/sh\ncase "$*" in *"get secret"*) exit 1;; *create*) echo "$*" >>"$SAID"; cat >"$TO/$6";; esac\n'
    )
    stub.chmod(0o755)
    (tmp_path / "made").mkdir()
    keys = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}
    told = {"KUBECTL": str(stub), "TO": str(tmp_path / "made"), "SAID": str(tmp_path / "said")}
    subprocess.run([CLUSTER / "secrets.sh"], env=os.environ | keys | told, check=True, capture_output=True)
    made = {
        path.name: dict(line.split("=", 1) for line in path.read_text().splitlines())
        for path in (tmp_path / "made").iterdir()
    }
    assert {("secret", name): set(values) for name, values in made.items()} == {
        key: names for key, names in entries().items() if key[0] == "secret"
    }
    assert made["montessori"]["AWS_SECRET_ACCESS_KEY"] == "a-secret-key"
    password = made["data"]["POSTGRES_PASSWORD"]
    assert re.fullmatch("[0-9a-f]{40}", password) and password != made["data"]["REDIS_PASSWORD"]
    server = made["prefect-server"]
    assert server["PREFECT_API_DATABASE_CONNECTION_URL"].endswith(f"://prefect:{password}@postgres:5432/prefect")
    assert server["PREFECT_SERVER_DOCKET_URL"] == f"redis://:{made['data']['REDIS_PASSWORD']}@redis:6379/1"
    assert not any(
        value in (tmp_path / "said").read_text() for values in made.values() for value in values.values() if value
    )


def test_images_are_targets_of_the_dockerfile() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    images = [container["image"] for pod in pods().values() for container in pod["spec"]["containers"]]
    settings = called("ConfigMap")["settings"]["data"]
    images += [settings["ORCHESTRATOR_IMAGE"], settings["WORKER_IMAGE"], *IMAGES.values(), GPU_IMAGE]
    images += [template(kind)["variables"]["properties"]["image"]["default"] for kind in ("docker", "kubernetes")]
    for image in images:
        name, _, tag = image.partition(":")
        assert (name.removeprefix("montessori-") in targets, tag) == (True, "local"), image
