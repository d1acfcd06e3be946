"""launch/k8s_jobset.yaml: what Kubernetes and JobSet accept, and what a pod makes of it.

The API's types come from packages of requirements-launch.txt; the rest is checked without them.
"""

from __future__ import annotations

import re
import typing

import pytest
import yaml

from tests.launch.conftest import LAUNCH

JOBSET = yaml.safe_load((LAUNCH / "k8s_jobset.yaml").read_text())
(WORKERS,) = JOBSET["spec"]["replicatedJobs"]
JOB = WORKERS["template"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]


def pod_environment(index):
    """The container's environment in the pod of this index, resolved as the kubelet does."""
    metadata = {
        "metadata.annotations['jobset.sigs.k8s.io/coordinator']": "vqlab-workers-0-0.vqlab",
        "metadata.labels['batch.kubernetes.io/job-completion-index']": str(index),
    }
    env = {}
    for entry in CONTAINER["env"]:
        if "value" in entry:
            value = re.sub(r"\$\((\w+)\)", lambda match: env[match[1]], entry["value"])
        else:
            value = metadata[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        env[entry["name"]] = value
    return env


def test_every_pod_knows_its_place():
    env = pod_environment(index=1)
    assert env["JAX_COORDINATOR_ADDRESS"] == "vqlab-workers-0-0.vqlab:8476"
    assert env["JAX_PROCESS_ID"] == "1"
    assert int(env["JAX_NUM_PROCESSES"]) == JOB["parallelism"] == JOB["completions"]
    assert JOBSET["spec"]["coordinator"]["replicatedJob"] == WORKERS["name"]
    assert WORKERS["replicas"] == 1 and JOB["completionMode"] == "Indexed"


def job_failure_reason(exit_code, disrupted=False):
    """Why the Job fails after a pod's end: the first matching rule, or the backoff limit of 0."""
    for rule in JOB["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {}).get("values", [])
        disruption = [c["type"] for c in rule.get("onPodConditions", [])] == ["DisruptionTarget"]
        if exit_code in codes or (disruption and disrupted):
            return {"FailJob": "PodFailurePolicy"}[rule["action"]]
    return {0: "BackoffLimitExceeded"}[JOB["backoffLimit"]]


def jobset_action(reason):
    for rule in JOBSET["spec"]["failurePolicy"]["rules"]:
        if reason in rule.get("onJobFailureReasons", [reason]):
            return rule["action"]


@pytest.mark.parametrize("code", [75, 134, 137, 143])
def test_an_interruption_restarts_all_pods(code):
    assert jobset_action(job_failure_reason(code)) == "RestartJobSet"
    assert jobset_action(job_failure_reason(1, disrupted=True)) == "RestartJobSet"


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_fails_the_jobset(code):
    assert jobset_action(job_failure_reason(code)) == "FailJobSet"


def test_a_pod_has_time_to_save_and_is_not_replaced_alone():
    assert POD["terminationGracePeriodSeconds"] >= 120
    assert POD["restartPolicy"] == "Never"  # which a podFailurePolicy requires
    assert JOB["backoffLimit"] == 0


def test_the_job_is_valid_kubernetes():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "vqlab"}, "spec": JOB}
    kubernetes_validate.validate(job, "1.31", strict=True)


def unknown_fields(value, model, path="JobSet"):
    """Paths of the fields that a generated API type does not have."""
    if isinstance(value, list):
        return [bad for each in value for bad in unknown_fields(each, model, path)]
    if not isinstance(value, dict) or not hasattr(model, "model_fields"):
        return []
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    bad = [f"{path}.{name}" for name in value if name not in fields]
    for name in value.keys() & fields.keys():
        for inner in models_in(fields[name].annotation):
            bad += unknown_fields(value[name], inner, f"{path}.{name}")
    return bad


def models_in(annotation):
    """The API types inside of Optional[List[...]]; none in a dict, whose names are free."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    if typing.get_origin(annotation) is dict:
        return []
    return [m for each in getattr(annotation, "__args__", ()) for m in models_in(each)]


def test_the_jobset_is_valid():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    models.JobsetV1alpha2JobSet.from_dict(JOBSET)  # types and required fields
    assert unknown_fields(JOBSET, models.JobsetV1alpha2JobSet) == []
    wrong = JOBSET | {"spec": JOBSET["spec"] | {"failurePolicies": {}}}
    assert unknown_fields(wrong, models.JobsetV1alpha2JobSet) == ["JobSet.spec.failurePolicies"]
