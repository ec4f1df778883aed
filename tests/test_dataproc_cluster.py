"""The command that makes a cluster: flags that there are, sizes that fit, and nothing that a shell would run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from fleets import write_fleet

from bench.report import RESULTS
from lakehouse.cli import app
from lakehouse.errors import ConfigError
from lakehouse.fleet.dataproc import sizing
from lakehouse.fleet.dataproc.cluster import GRACE_SECONDS, as_shell, create_command, properties
from lakehouse.fleet.dataproc.sizing import driver_mib, driver_properties, executor_properties
from lakehouse.fleet.launchers import supervisor
from lakehouse.fleet.wanted import Dataproc, Size

SECTION = Dataproc(
    project="example-project", region="europe-north1", cluster="lake", service_account="lake@x.example.com"
)

FLAGS = set(
    """
--action-on-failed-primary-workers --async --autoscaling-policy --bucket --cluster-type --confidential-compute
--dataproc-metastore --delete-expiration-time --delete-max-age --delete-max-idle --enable-component-gateway
--enable-kerberos --gce-pd-kms-key --identity-config-file --image --image-version --initialization-action-timeout
--initialization-actions --kms-key --labels --master-accelerator --master-boot-disk-size --master-boot-disk-type
--master-local-ssd-interface --master-machine-type --master-min-cpu-platform --metadata --metric-overrides
--metric-sources --min-num-workers --min-secondary-worker-fraction --network --no-address --node-group
--num-master-local-ssds --num-masters --num-secondary-worker-local-ssds --num-secondary-workers
--num-worker-local-ssds --num-workers --optional-components --private-ipv6-google-access-type --properties
--public-ip-address --region --reservation --reservation-affinity --resource-manager-tags --scopes
--secondary-worker-type --service-account --shielded-integrity-monitoring --shielded-secure-boot --shielded-vtpm
--single-node --stop-expiration-time --stop-max-age --stop-max-idle --subnet --tags --temp-bucket --tier
--worker-accelerator --worker-boot-disk-size --worker-boot-disk-type --worker-local-ssd-interface
--worker-machine-type --worker-machine-types --worker-min-cpu-platform --zone --project
""".split()
)
"""Of `gcloud dataproc clusters create` of the Google Cloud SDK 528.0.0, and --project of all of gcloud."""
ALONE = {"--no-address"}
"""Flags without a value."""
PREFIXES = set(
    "capacity-scheduler core dataproc distcp hadoop-env hdfs hive mapred mapred-env pig spark spark-env yarn yarn-env "
    "zeppelin zookeeper".split()
)
"""Of properties: the files that they are written to."""


def flags(words: list[str]) -> dict[str, str]:
    """Each flag with its value; every flag but those of `ALONE` must have one."""
    found, rest = {}, list(words)
    while rest:
        flag = rest.pop(0)
        found[flag] = "" if flag in ALONE else rest.pop(0)
    return found


def drivers(*topics: int) -> list[int]:
    """What drivers with so many topics each take, in MiB."""
    return [driver_mib(driver_properties(each, {})) for each in topics]


def test_every_flag_and_property_is_documented() -> None:
    words = create_command(SECTION, drivers(3), subnet="nodes")
    assert words[:5] == ["gcloud", "dataproc", "clusters", "create", "lake"]
    found = flags(words[5:])
    assert set(found) <= FLAGS
    assert all(re.fullmatch(r"[a-z-]+:[a-z.-]+=[a-z0-9]+", each) for each in found["--properties"].split(","))
    assert {each.partition(":")[0] for each in found["--properties"].split(",")} <= PREFIXES
    assert (found["--image-version"], found["--optional-components"]) == ("3.0", "DELTA")
    assert (found["--scopes"], found["--service-account"]) == ("cloud-platform", "lake@x.example.com")


def test_an_application_has_as_long_to_end_as_on_this_machine() -> None:
    assert GRACE_SECONDS >= supervisor.GRACE_SECONDS
    assert properties(2)["yarn:yarn.nodemanager.sleep-delay-before-sigkill.ms"] == "150000"
    assert properties(2)["dataproc:dataproc.logging.stackdriver.job.yarn.container.enable"] == "true"


@pytest.mark.parametrize(
    ("applications", "master", "jobs"), [(1, "n2-standard-4", 5), (6, "n2-standard-4", 12), (30, "n2-standard-16", 60)]
)
def test_the_master_has_room_for_each_application_twice(applications: int, master: str, jobs: int) -> None:
    """As during a deployment: the old ones end when all of the new ones are well."""
    found = flags(create_command(SECTION, drivers(*[1] * applications))[5:])
    assert found["--master-machine-type"] == master
    assert f"max-concurrent-jobs={jobs}" in found["--properties"]


def test_more_applications_than_one_master_holds_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"300 applications; expected as many as one master .*`lakehouse fleet pack`"):
        create_command(SECTION, drivers(*[1] * 300))


def test_workers_hold_all_drivers_twice_and_each_driver_fits_one() -> None:
    few, many = (flags(create_command(SECTION, drivers(*topics))[5:]) for topics in ([10], [300] * 3))
    assert int(few["--num-workers"]) < int(many["--num-workers"])
    assert int(many["--num-workers"]) * 0.8 * 32 * 1024 >= 2 * sum(drivers(300, 300, 300))
    with pytest.raises(ConfigError, match="expected a machine for a driver of 12,288 MiB"):
        create_command(SECTION, drivers(1800), machine="n2-standard-2")
    assert (
        flags(create_command(SECTION, drivers(1800), machine="n2-standard-32", workers=9)[5:])["--num-workers"] == "9"
    )


def test_no_driver_is_cut_in_two_to_fill_workers() -> None:
    """Of drivers of 27 GiB a worker with 51 GiB holds one, and the rest of it only smaller ones."""
    large, small = [27 * 1024] * 20, [20 * 1024] * 20
    for drivers_mib in (large, large + small):
        words = create_command(SECTION, drivers_mib, machine="n2-standard-16")
        assert flags(words[5:])["--num-workers"] == "42"


@pytest.mark.parametrize("machine", ["n2-custom-8-32768", "large", "n2-highcpu-8", "$(id)"])
def test_nothing_is_computed_of_a_machine_whose_memory_nobody_knows(machine: str) -> None:
    with pytest.raises(ConfigError, match="--workers"):
        create_command(SECTION, drivers(1), machine=machine)
    assert flags(create_command(SECTION, drivers(1), machine=machine, workers=2)[5:])["--num-workers"] == "2"


def test_a_single_worker_is_refused_as_by_dataproc() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        create_command(SECTION, drivers(1), workers=1)


def test_a_machine_of_more_memory_takes_larger_drivers() -> None:
    with pytest.raises(ConfigError, match="expected a machine for a driver of"):
        create_command(SECTION, drivers(900), machine="n2-standard-2")
    assert create_command(SECTION, drivers(900), machine="n2-highmem-2")


def test_what_a_shell_would_run_is_quoted() -> None:
    """A line that is gone on with ends in a backslash, which `shlex` does not know."""
    words = ["gcloud", "--subnet", "a b; $(id) 'x'", "--labels", "a=b,c=d"]
    assert shlex.split(as_shell(words).replace("\\\n", "")) == words


# --- sizes ---------------------------------------------------------------------------------------------------------


def measured(file: str, name: str) -> float:
    """The newest figure of that name, in its own unit."""
    results = json.loads((RESULTS / f"{file}.json").read_text())
    return next(float(each["value"]) for each in results["figures"] if each["name"] == name)


def test_sizes_are_what_was_measured_or_more() -> None:
    """They are texts in the code with their sources: a benchmark that finds more must change them."""
    grown = measured("fleet", "1,800 idle topics at 10 s: memory of all processes") - measured(
        "fleet", "300 idle topics at 10 s: memory of all processes"
    )
    assert grown * 1024 / 1500 <= sizing.HEAP_MIB_PER_TOPIC
    assert measured("ingest", "memory over 14,000,000 events: driver and executor's JVM") <= sizing.HEAP_MIB
    sealing = measured("seal", "4,000,000 rows, 30% duplicates: peak memory of all Python processes")
    assert sealing <= sizing.PYTHON_MIB
    of_topic = measured("store", "memory of the topic's tables in the driver, at 400 days")
    assert of_topic <= sizing.PYTHON_MIB_PER_TOPIC


def test_a_driver_grows_with_its_topics_and_a_person_has_the_last_word() -> None:
    assert driver_properties(1, {}) == {"spark.driver.memory": "1024m", "spark.driver.memoryOverhead": "2816m"}
    assert driver_properties(300, {}) == {"spark.driver.memory": "1280m", "spark.driver.memoryOverhead": "3840m"}
    assert driver_properties(300, {}, Size(driver_memory="4g"))["spark.driver.memory"] == "4g"


@pytest.mark.parametrize(
    ("size", "spark", "mib"),
    [
        ({}, {}, 1024 + 2816),
        ({"driver_memory": "40g"}, {}, 40 * 1024 + 2816),
        ({}, {"spark.driver.memory": "2G"}, 2048 + 2816),
        ({}, {"spark.driver.memory": "2048"}, 2048 + 2816),
        ({"driver_memory": "3gb"}, {"spark.driver.memory": "2g"}, 3072 + 2816),
        ({"driver_memory": "3g", "spark": {"spark.driver.memory": "4g"}}, {"spark.driver.memory": "2g"}, 4096 + 2816),
        ({"spark": {"spark.driver.memoryOverhead": "1t"}}, {"spark.driver.memoryOverhead": "1g"}, 1024 + 1024**2),
        ({"driver_memory": "1500000k"}, {}, 1465 + 2816),
    ],
)
def test_yarn_is_asked_for_what_is_configured(size: dict[str, Any], spark: dict[str, str], mib: int) -> None:
    """Machines that are counted by the number of topics alone have no room for such a driver."""
    assert driver_mib(driver_properties(1, spark, Size(**size))) == mib


@pytest.mark.parametrize("text", ["", "much", "-1g", "1.5g", "4 g", "4gib"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"spark\.driver\.memoryOverhead: found .*such as 512m or 4g"):
        driver_mib({"spark.driver.memory": "1g", "spark.driver.memoryOverhead": text})


@pytest.mark.parametrize(
    ("spark", "found"),
    [
        ({}, {}),
        ({"spark.executor.cores": "4"}, {"spark.executor.memoryOverhead": "2048m"}),
        ({"spark.executor.cores": "4", "spark.executor.memoryOverheadFactor": "0.4"}, {}),
        ({"spark.executor.cores": "4", "spark.executor.memoryOverhead": "1g"}, {}),
        ({"spark.executor.cores": "many"}, {}),
    ],
)
def test_an_executor_has_room_for_a_slot_of_each_core(spark: dict[str, str], found: dict[str, str]) -> None:
    assert executor_properties(spark, 128 * 1024**2) == found


# --- the command ---------------------------------------------------------------------------------------------------


def test_what_is_printed_is_a_script_of_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    applications = {"ads": {"topics": ["ad_*"]}, "far": {"topics": ["far_*"], "size": "far"}}
    conf = write_fleet(
        tmp_path, applications, ["ad_shown", "far_shown"], sizes={"far": {"cluster": "far"}},
        dataproc=SECTION.model_dump(mode="json"),
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        app.main(["dataproc", "create-command", "--conf", str(conf)])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    words = shlex.split(out.replace("\\\n", ""), comments=True)
    assert words[:5] == ["gcloud", "dataproc", "clusters", "create", "lake"]
    assert words.count("gcloud") == 1
    assert "roles/pubsub.viewer on the subscriptions" in out
    assert "roles/bigquery" not in out, "no mirror is there"
    with pytest.raises(SystemExit):
        app.main(["dataproc", "create-command", "--conf", str(conf), "--cluster", "far", "--json"])
    assert json.loads(capsys.readouterr().out)["command"][4] == "far"


def test_without_a_fleets_file_it_is_for_one_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = write_fleet(tmp_path, {"ads": {"topics": ["*"]}}, ["ad_shown"])
    (conf.parent / "fleet.yaml").unlink()
    with pytest.raises(SystemExit) as ended:
        app.main(["dataproc", "create-command", "--conf", str(conf)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "dataproc.project: found nothing" in err
    names = ["--project", "example-project", "--region", "europe-north1", "--cluster", "lake"]
    with pytest.raises(SystemExit) as ended:
        app.main(["dataproc", "create-command", "--conf", str(conf), *names])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    "size", [{"driver_memory": "40g"}, {"spark": {"spark.driver.memory": "40g"}},
             {"spark": {"spark.driver.memoryOverhead": "40g"}}]
)  # fmt: skip
def test_a_driver_of_any_size_has_a_worker_that_it_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: dict[str, Any]
) -> None:
    conf = write_fleet(
        tmp_path, {"ads": {"topics": ["*"], "size": "large"}}, ["ad_shown"], sizes={"large": size},
        dataproc=SECTION.model_dump(mode="json"),
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        app.main(["dataproc", "create-command", "--conf", str(conf)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.search(r"found n2-standard-8, .*expected a machine for a driver of 4[0-9],[0-9]{3} MiB", err)
    with pytest.raises(SystemExit):
        app.main(["dataproc", "create-command", "--conf", str(conf), "--worker-machine-type", "n2-standard-16"])
    words = shlex.split(capsys.readouterr().out.replace("\\\n", ""), comments=True)
    assert flags(words[5:])["--num-workers"] == "4", "52,428 MiB hold one of them, and it runs twice"
