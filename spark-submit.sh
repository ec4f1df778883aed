#!/usr/bin/env bash
# Runs one of jobs/ by spark-submit: on this machine, or with --dataproc on a cluster.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'END'
usage: spark-submit.sh [--dataproc CLUSTER [--region R] [--project P] [--bucket B]] [--dry-run] JOB [ARGUMENTS...]

  JOB           a file of jobs/: its arguments are its own (JOB --help)
  --dataproc    submit to this Dataproc cluster, with this tree's code, conf/ and expectations/; what is not
                given is of the section `dataproc` of conf/fleet.yaml
  --bucket      where code, packages and configuration are, in its folder lakehouse/; run `lakehouse dataproc
                package` before the first job, and after each change of constraints.txt
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

# Packages, properties and the submission are `lakehouse dataproc`'s: gcloud is not needed.
on_dataproc() {
    if [ -z "$dry_run" ]; then "$here/set-up.sh"; fi
    local options=(--conf "${LAKEHOUSE_CONF:-$here/conf/dataproc.yaml}" --cluster "$cluster")
    [ -z "$region" ] || options+=(--region "$region")
    [ -z "$project" ] || options+=(--project "$project")
    [ -z "$bucket" ] || options+=(--folder "gs://${bucket#gs://}/lakehouse")
    run "$here/.venv/bin/python" -m lakehouse.cli dataproc submit "${options[@]}" -- "$job" "$@"
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
