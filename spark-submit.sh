#!/usr/bin/env bash
# Runs one of jobs/ by spark-submit: on this machine, or with --dataproc on a cluster.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'END'
usage: spark-submit.sh [--dataproc CLUSTER [--region R] [--project P] [--bucket B]] [--dry-run] JOB [ARGUMENTS...]

  JOB           a file of jobs/: its arguments are its own (JOB --help)
  --dataproc    submit to this Dataproc cluster, with this tree's code, conf/ and expectations/
  --bucket      where gcloud puts the files it uploads; else the cluster's own bucket
  --dry-run     print the command instead of running it

On this machine SPARK_MASTER (local[*]), DRIVER_MEMORY (2g) and SPARK_LOG_LEVEL (WARN) can be set in the environment.
END
}

main() {
    cluster= region= project= bucket= dry_run=
    while [ $# -gt 0 ]; do
        case $1 in
            --dataproc | --region | --project | --bucket)
                [ $# -ge 2 ] || die "$1 needs a value."
                case $1 in --dataproc) cluster=$2 ;; --region) region=$2 ;; --project) project=$2 ;; --bucket) bucket=$2 ;; esac
                shift 2 ;;
            --dry-run) dry_run=yes; shift ;;
            --help | -h) usage; exit ;;
            -*) die "there is no option $1. Put a job's own arguments after its name." ;;
            *) break ;;
        esac
    done
    [ $# -ge 1 ] || { usage >&2; exit 2; }
    job=$1
    shift
    [ -f "$here/jobs/$job.py" ] || die "there is no job '$job'; there are: $(jobs)."

    if [ -n "$cluster" ]; then on_dataproc "$@"; else on_this_machine "$@"; fi
}

# What a job's code cannot set any more once its JVM runs is here; everything else is in conf/local.yaml.
on_this_machine() {
    if [ -z "$dry_run" ]; then "$here/set-up.sh"; fi
    local spark_home
    spark_home=$(echo "$here"/.venv/lib/python3.*/site-packages/pyspark)
    # Another Spark or Java of the shell would come without our jars; another Python without our packages.
    export SPARK_HOME=$spark_home PYSPARK_PYTHON=$here/.venv/bin/python
    if [ -f "$here/.venv/java-home" ]; then JAVA_HOME=$(cat "$here/.venv/java-home") && export JAVA_HOME; fi
    run "$SPARK_HOME/bin/spark-submit" \
        --master "${SPARK_MASTER:-local[*]}" \
        --driver-memory "${DRIVER_MEMORY:-2g}" \
        --conf "spark.log.level=${SPARK_LOG_LEVEL:-WARN}" \
        "$here/jobs/$job.py" "$@"
}

on_dataproc() {
    local dist=build/dist version code settings options properties
    cd -- "$here"
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
    code=$dist/lakehouse-$version.zip
    settings=$dist/lakehouse-$version-settings.zip
    pack "$code" lakehouse
    pack "$settings" conf expectations

    # The driver runs in YARN, not on the master node, so that many topics do not share one machine. Archives are
    # unpacked for the driver only there, in a folder that has the archive's name.
    # No jar and no Delta setting: the cluster's DELTA component brings both, and a second Delta jar would clash with it.
    properties=(
        "spark.submit.deployMode=cluster"
        "spark.yarn.appMasterEnv.LAKEHOUSE_RELEASE=$(release "$version")"
    )
    options=(--cluster "$cluster")
    [ -z "$region" ] || options+=(--region "$region")
    [ -z "$project" ] || options+=(--project "$project")
    [ -z "$bucket" ] || options+=(--bucket "$bucket")
    case $job in
        # These have no end of their own: Dataproc starts them again when they die, and gives up only if they keep dying.
        ingest | run) options+=(--max-failures-per-hour 5) ;;
    esac
    run gcloud dataproc jobs submit pyspark "jobs/$job.py" \
        "${options[@]}" \
        --py-files "$code" \
        --archives "$settings" \
        --properties "$(IFS=,; echo "${properties[*]}")" \
        -- --conf "$(basename "$settings")/conf/dataproc.yaml" "$@"
}

# A zip of folders of the tree. Left out are Python's caches, and the crash kit and sandbox, which no cluster runs.
pack() {
    python3 - "$@" <<'END'
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

STAYS_HERE = {Path("lakehouse/crash"), Path("lakehouse/sandbox")}
target, *folders = map(Path, sys.argv[1:])
target.parent.mkdir(parents=True, exist_ok=True)
with ZipFile(target, "w", ZIP_DEFLATED) as archive:
    for file in sorted(file for folder in folders for file in folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and not STAYS_HERE & set(file.parents):
            archive.write(file)
END
}

# What the ledger will name as having written an hour: the version and, in a git tree, the commit.
release() {
    local commit
    commit=$(git describe --always --dirty --exclude '*' 2> /dev/null) || { echo "$1"; return; }
    echo "$1+$commit"
}

jobs() {
    local names
    names=$(cd "$here/jobs" && printf '%s, ' [a-z]*.py)
    names=${names//.py/}
    echo "${names%, }"
}

run() {
    if [ -z "$dry_run" ]; then exec "$@"; fi
    printf '%q ' "$@"
    echo
}

die() {
    echo "spark-submit.sh: $*" >&2
    exit 2
}

main "$@"
