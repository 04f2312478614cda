"""What starts clusters: Ray's launcher on AWS and on Google Cloud, the image, and the Kubernetes job."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from taskpgm_ray.config import load_config
from taskpgm_ray.finetune.fleet import CLOSE_SECONDS

ROOT = Path(__file__).parents[1]
CLUSTERS = ROOT / "docs" / "clusters"
LAUNCHED = (ROOT / "cluster.yaml", CLUSTERS / "gcp.yaml")


@pytest.mark.parametrize("file", LAUNCHED, ids=["aws", "gcp"])
def test_the_cluster_launcher_file_fits_rays_schema(file):
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    cluster = yaml.safe_load(file.read_text())
    jsonschema.validate(cluster, schema)
    validate_config(prepare_config(cluster))
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"]["GPU"] == 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_wrokers": 1}, schema)


def test_the_workers_on_google_cloud_have_the_account_that_ray_makes():
    import ray.autoscaler

    # Not imported: that takes Google's client.
    source = (Path(ray.autoscaler.__file__).parent / "_private" / "gcp" / "config.py").read_text()
    named = ("RAY", "VERSION", "DEFAULT_SERVICE_ACCOUNT_ID", "DEFAULT_SERVICE_ACCOUNT_ROLES")
    known = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in named:
            exec(compile(ast.Module([node], []), "config.py", "exec"), known)
    cluster = yaml.safe_load((CLUSTERS / "gcp.yaml").read_text())
    (account,) = cluster["available_node_types"]["gpu_spot"]["node_config"]["serviceAccounts"]
    project = cluster["provider"]["project_id"]
    assert account["email"] == f"{known['DEFAULT_SERVICE_ACCOUNT_ID']}@{project}.iam.gserviceaccount.com"
    assert any(role.startswith("roles/storage.") for role in known["DEFAULT_SERVICE_ACCOUNT_ROLES"])


def test_the_drivers_are_recent_enough_for_the_locked_cuda():
    """To an older one PyTorch says that there is no GPU. 580 is the first for CUDA 13."""
    lock = (ROOT / "requirements" / "gpu.txt").read_text()
    first = {"12": 525, "13": 580}[re.search(r"^cuda-toolkit==(\d+)", lock, re.MULTILINE)[1]]
    cluster = yaml.safe_load((CLUSTERS / "gcp.yaml").read_text())
    (disk,) = cluster["available_node_types"]["gpu_spot"]["node_config"]["disks"]
    assert int(disk["initializeParams"]["sourceImage"].rpartition("-nvidia-")[2]) >= first
    for page in ("cluster.md", "gpu-workstation.md"):
        assert f"driver {first} or later" in (ROOT / "docs" / "how-to" / page).read_text()


def test_the_kubernetes_job_is_a_study_on_a_head_without_lanes():
    job = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    script, *arguments = job["spec"]["entrypoint"].removeprefix("python ").split()
    assert (ROOT / script).is_file()
    config, override = arguments[arguments.index("--config") + 1 :]
    assert load_config(ROOT / config, [override]).storage.startswith("s3://")
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-gpus"] == "0"
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    (image,) = {pod["containers"][0]["image"] for pod in pods}
    assert image.rpartition(":")[2] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "requirements" / "gpu.txt").read_text().split()
    lane = load_config(ROOT / config).finetune.lanes
    assert lane.gpus <= float(pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert lane.cpus <= float(pods[1]["containers"][0]["resources"]["limits"]["cpu"])


def test_a_job_that_is_stopped_has_time_to_save():
    """By the name that Ray's own supervisor of jobs reads; its default is three seconds."""
    import ray.dashboard.modules.job.job_supervisor as supervisor

    name = "RAY_JOB_STOP_WAIT_TIME_S"
    assert f'"{name}"' in Path(supervisor.__file__).read_text()
    for file in LAUNCHED:
        (start,) = [line for line in yaml.safe_load(file.read_text())["head_start_ray_commands"] if "--head" in line]
        assert int(re.search(rf"{name}=(\d+) ", start)[1]) > CLOSE_SECONDS
    head = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]["headGroupSpec"]
    (value,) = [one["value"] for one in head["template"]["spec"]["containers"][0]["env"] if one["name"] == name]
    assert int(value) > CLOSE_SECONDS


@pytest.mark.parametrize("file", LAUNCHED, ids=["aws", "gcp"])
def test_a_node_that_comes_later_has_the_same_packages(file):
    """Everything as locked, and what the launcher needs beside it moves nothing that is."""
    text = yaml.safe_load(file.read_text())
    installs = [line for line in text["setup_commands"] if "pip install" in line]
    lock = "~/taskpgm_ray/requirements/gpu.txt"
    assert f" --no-deps -r {lock} -e ~/taskpgm_ray" in installs[0]
    assert len(installs) == 2
    assert f" -c {lock} " in installs[1]
    assert "ray" not in installs[1].partition(lock)[2]


@pytest.mark.parametrize("file", LAUNCHED, ids=["aws", "gcp"])
def test_uv_is_started_where_it_was_put(file):
    """An image may hold one elsewhere."""
    first, *others = yaml.safe_load(file.read_text())["setup_commands"]
    (where,) = {line.split()[0] for line in others if "uv " in line}
    assert first.startswith(f"test -x {where} || ")
    assert f"UV_INSTALL_DIR={where.removesuffix('/uv')} sh" in first.replace('"', "").replace("$HOME", "~")


@pytest.mark.parametrize("file", LAUNCHED, ids=["aws", "gcp"])
def test_a_node_with_a_later_patch_of_python_joins(file, monkeypatch):
    """uv takes the latest that it knows on that day; of itself Ray turns down whoever has another than its head."""
    from ray._private.utils import check_version_info, compute_version_info

    ray, python = compute_version_info()
    head = {"ray_version": ray, "python_version": f"{python.rpartition('.')[0]}.999"}
    with pytest.raises(RuntimeError, match="Version mismatch"):
        check_version_info(head, "node")
    cluster = yaml.safe_load(file.read_text())
    for kind in ("head", "worker"):
        (start,) = [line for line in cluster[f"{kind}_start_ray_commands"] if "ray start" in line]
        for name, value in re.findall(r"(RAY_\w+VERSION\w+)=(\w+) ", start):
            monkeypatch.setenv(name, value)
        check_version_info(head, "node")
        monkeypatch.undo()


def test_the_image_is_built_as_dockers_linter_would_have_it():
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, str(CLUSTERS / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def further_rights(text):
    """Role and policy of the command that a text tells people to run."""
    role, policy = re.findall(
        r"aws iam put-role-policy --role-name (\S+) .*?--policy-document '(.*?)'", text, re.DOTALL
    )[0]
    return role, policy


def test_the_head_on_aws_is_given_what_rays_own_role_lacks():
    """Ray's role has EC2 and S3 alone: it may start no machine that has a role, nor read where the latest image is."""
    from ray.autoscaler._private.aws import config

    asked = [further_rights(file.read_text()) for file in (ROOT / "cluster.yaml", ROOT / "docs/how-to/cluster.md")]
    assert {role for role, _ in asked} == {config.DEFAULT_RAY_IAM_ROLE}
    given, again = [json.loads(policy) for _, policy in asked]
    assert given == again
    assert {one["Action"] for one in given["Statement"]} == {"iam:PassRole", "ssm:GetParameters"}
    assert not re.search(r"PassRole|iam:\*|IAMFullAccess|SSM", Path(config.__file__).read_text())


def test_the_launcher_bootstraps_the_cluster_on_a_mock_of_aws(monkeypatch, tmp_path):
    """Keys, network, roles: as `ray up` makes them, and every machine with an image and a role that is there."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-west-2", "HOME": str(tmp_path)
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setattr("ray.autoscaler._private.aws.config.time.sleep", lambda seconds: None)
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
        validate_config(config)
        whole = bootstrap_aws(config)
        made = whole["available_node_types"]
        iam = boto3.client("iam")
        profiles = iam.list_instance_profiles()["InstanceProfiles"]
        worker = iam.get_instance_profile(
            InstanceProfileName=made["gpu_spot"]["node_config"]["IamInstanceProfile"]["Name"]
        )
        (role,) = worker["InstanceProfile"]["Roles"]
        name, policy = further_rights((ROOT / "cluster.yaml").read_text())
        iam.put_role_policy(RoleName=name, PolicyName="workers", PolicyDocument=policy)
        known = {one["Arn"] for one in profiles} | {one["InstanceProfileName"] for one in profiles}
    assert set(made) == {"head", "gpu_spot"}
    for kind in made.values():
        machine = kind["node_config"]
        assert machine["ImageId"].startswith("resolve:ssm:/aws/service/")
        assert machine["SubnetIds"]
        assert machine["SecurityGroupIds"]
        profile = machine.get("IamInstanceProfile") or whole["head_node"]["IamInstanceProfile"]
        assert set(profile.values()) <= known
    rights = {one["Action"]: one["Resource"] for one in json.loads(policy)["Statement"]}
    assert fnmatch(role["Arn"], rights["iam:PassRole"])
    parameter = machine["ImageId"].removeprefix("resolve:ssm:")
    assert fnmatch(f"arn:aws:ssm:us-west-2::parameter{parameter}", rights["ssm:GetParameters"])
    setup = "\n".join(config["setup_commands"])
    assert "boto3" in setup, "the autoscaler on the head starts machines with it"
    assert "--python 3.11" in setup
