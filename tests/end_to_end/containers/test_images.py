"""The images and the compose stack: built by make, started, killed, started again."""

import json
import os
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError
from stack import DOCKER, IMAGES, ROOT, TAG, TARGETS, done, inside

from flows.requests.run import plan
from montessori import __version__
from montessori.settings import files

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("docker")]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_neither_secrets_nor_root_nor_what_builds(images, target):
    names = " -o ".join(f"-name '{name}'" for name in (".env", ".git", ".netrc", "*.whl"))
    left = f"find / -xdev {names}; cat /run/secrets/* /etc/apt/sources.list.d/build.list 2>/dev/null; true"
    assert inside(target, "sh", "-c", left, options=("--user", "0")) == ""
    tools = "for tool in gcc cc g++ make ld pip pip3 uv git docker; do command -v $tool; done; true"
    assert inside(target, "sh", "-c", tools) == ""
    assert inside(target, "id", "-u") == "1000\n"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_was_made_from(images, target):
    config = json.loads(done(DOCKER, "image", "inspect", f"{IMAGES}-{target}:{TAG}"))[0]["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.revision"] not in ("", "unknown")
    assert config["Healthcheck"]["Test"][0] != "NONE"
    assert not [name for name in config["Env"] if "PASSWORD" in name or "SECRET" in name or "AUTH" in name]


def test_the_orchestrator_plans_a_run_without_torch(images):
    said = inside("orchestrator", "sh", "-c", "python -m flows.commands.cli run tiny --dry-run --store /scratch/s")
    assert "Nothing was started" in said
    missing = "import importlib.util as u; print([u.find_spec(name) for name in ('torch', 'transformers')])"
    assert inside("orchestrator", "python", "-c", missing) == "[None, None]\n"
    light = "from tasks import build_preferences, read_rows, split_points"
    inside("orchestrator", "python", "-c", f"{light}; import flows.montessori, prefect_docker")


@pytest.mark.parametrize("name", ["seeds", "scratch-student"])
def test_a_stage_runs_in_the_worker_on_a_read_only_system(images, name, tmp_path):
    settings = files.load(ROOT / "montessori/configs/tiny.yaml", ["student.scratch.steps=2"])
    request = next(r for r in plan(settings)[0].requests.values() if r.stage == name)
    (tmp_path / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
    tmp_path.chmod(0o777)
    command = "python -m tasks.runtime.worker /job/request.json --store /job/store"
    inside("worker-cpu", "sh", "-c", command, options=("--volume", f"{tmp_path}:/job"))
    manifest = json.loads((tmp_path / "store" / request.address / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["versions"]["commit"] != "unknown"


def test_the_stack_comes_up_healthy_behind_its_password(stack):
    assert stack.ask("health") is True
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.ask("work_pools/filter")
    deployed = stack.ask("deployments/filter", stack.secrets["MONTESSORI_PREFECT_AUTH"])
    assert {"montessori", "stage"} <= {deployment["name"] for deployment in deployed}
    for service in ("postgres", "redis", "s3", "server", "services", "worker", "reports"):
        stack.wait_healthy(service)


def test_every_container_is_locked_down_and_published_on_the_loopback_only(stack):
    for service, container in stack.containers().items():
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert container["Config"]["User"] == "montessori", service
        assert {rule["HostIp"] for rules in host["PortBindings"].values() for rule in rules} <= {"127.0.0.1"}, service


def test_only_the_server_and_its_services_know_the_database(stack):
    for service, container in stack.containers().items():
        told = "\n".join(container["Config"]["Env"])
        knows = [name for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD") if stack.secrets[name] in told]
        assert bool(knows) == (service in ("postgres", "redis", "server", "services")), service


def test_the_secrets_can_be_read_by_their_owner_only(stack):
    assert stack.file.stat().st_mode & 0o777 == 0o600
    assert all(stack.secrets.values())


def test_the_store_answers_its_credentials_and_refuses_others(stack):
    stack.client().put_object(Bucket="montessori", Key="answer", Body=b"42")
    assert stack.client().get_object(Bucket="montessori", Key="answer")["Body"].read() == b"42"
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stack.client("0" * 40).get_object(Bucket="montessori", Key="answer")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{stack.s3}/montessori/answer", timeout=20)


def test_what_the_store_and_the_database_answered_survives_a_kill(stack):
    body = os.urandom(20 << 20)
    stack.client().put_object(Bucket="montessori", Key="kept", Body=body)
    names = [stack.containers()[service]["Name"].strip("/") for service in ("s3", "postgres", "redis")]
    done(DOCKER, "kill", *names)
    done(DOCKER, "start", *names)
    for service in ("s3", "postgres", "redis", "server"):
        stack.wait_healthy(service)
    assert stack.client().get_object(Bucket="montessori", Key="kept")["Body"].read() == body
    assert stack.ask("deployments/filter", stack.secrets["MONTESSORI_PREFECT_AUTH"])
