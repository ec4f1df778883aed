#!/usr/bin/env bash
# Makes .venv: a Python environment with the project's packages, Delta's jars inside its Spark, and the Java they run on.
# May be stopped at any moment and run again: the stamp, written last, is the only thing that says "done".
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# Jars for every Spark session; what they depend on comes with them. Separated by commas: group:artifact:version.
jars=io.delta:delta-spark_4.1_2.13:4.4.0
# What Spark brings itself; without this Ivy would fetch 60 MB of it to be thrown away.
jars_of_spark='org.apache.hadoop:*,org.apache.parquet:*,org.apache.logging.log4j:*,org.roaringbitmap:*,org.slf4j:*'
# Where a distribution puts its Javas.
jvms=${JVMS:-/usr/lib/jvm}

# The tree's place counts too: scripts and the editable install hold it, so a copied tree is set up again.
stamp=.venv/.set-up-$({ pwd; cat pyproject.toml constraints.txt set-up.sh; } | cksum | cut -d ' ' -f 1)

main() {
    is_done && return
    lock
    is_done && return
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT

    # What may be missing on the machine comes first: if it cannot be had, nothing has been written.
    need_java
    need_python
    make_environment
    say "installs the packages (a minute or two the first time)"
    install_packages
    if ! has_jars; then
        say "fetches the jars for Spark"
        install_jars
    fi

    printf '%s\n' "$java_home" > .venv/java-home
    rm -f .venv/.set-up-*
    touch "$stamp"
    say "done"
}

is_done() {
    [ -e "$stamp" ] && [ -x .venv/bin/python ] && [ -x "$(cat .venv/java-home)/bin/java" ]
}

# Two runs at once would write the same environment. (Where there is no flock, that is for the user to avoid.)
lock() {
    ! command -v flock > /dev/null || { exec 9< set-up.sh && flock 9; }
}

# --- Java ---------------------------------------------------------------------------------------------------------

need_java() {
    find_java || { install_first openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless && find_java; } ||
        die "Java 17 to 23 is needed (${java_seen:-there is none}): install one, for example with" \
            "'apt-get install openjdk-17-jre-headless', or set JAVA_HOME to one, and run this again."
}

find_java() {
    local java
    java_seen=
    for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java)" "$jvms"/*/bin/java; do
        if [ -x "$java" ] && is_fit_java "$java"; then return; fi
    done
    return 1
}

# Spark 4.1 needs 17; from 24 on Java has no security manager, which its Hadoop still asks for.
is_fit_java() {
    local facts version
    facts=$("$1" -XshowSettings:properties -version 2>&1) || return 1
    version=$(sed -n 's/^ *java\.specification\.version = //p' <<< "$facts")
    java_home=$(sed -n 's/^ *java\.home = //p' <<< "$facts")
    java_seen="${java_seen:-found} Java ${version:-of no known version} at $1"
    [ "${version%%.*}" -ge 17 ] 2> /dev/null && [ "${version%%.*}" -lt 24 ]
}

# --- Python -------------------------------------------------------------------------------------------------------

need_python() {
    find_python 'sys, venv, ensurepip' && return
    find_python sys || die "Python 3.11, 3.12 or 3.13 is needed: install one and run this again."
    install_first "$(basename "$python")-venv" python3-venv && find_python 'sys, venv, ensurepip' ||
        die "$(command -v "$python") cannot make environments: install its venv, for example with" \
            "'apt-get install python3-venv', and run this again."
}

# The newest Python that fits and has the modules.
find_python() {
    for python in python3.13 python3.12 python3.11 python3; do
        if is_fit_python "$python" "$1"; then return; fi
    done
    return 1
}

is_fit_python() {
    "$1" -c "import $2; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" > /dev/null 2>&1
}

# --- .venv --------------------------------------------------------------------------------------------------------

make_environment() {
    is_fit_python .venv/bin/python 'sys, pip' && return
    say "makes .venv with $("$python" --version)"
    quietly "$python" -m venv --clear .venv
}

# uv takes seconds where pip takes minutes; pip is there for machines whose package index only pip knows.
install_packages() {
    local pip=(.venv/bin/python -m pip --disable-pip-version-check install --constraint constraints.txt)
    local uv=(.venv/bin/python -m uv --system-certs pip install --python .venv/bin/python
        --constraint constraints.txt --build-constraint constraints.txt)
    if quietly "${pip[@]}" uv && quietly "${uv[@]}" --editable '.[dev]'; then return; fi
    say "uv could not, so pip does (some minutes)"
    quietly "${pip[@]}" --editable '.[dev]' || die "the packages could not be installed, see above."
}

# .venv/jars says what was asked for, then the names of the files that came of it.
has_jars() {
    local asked file
    [ -e .venv/jars ] || return 1
    { read -r asked; mapfile -t files; } < .venv/jars
    [ "$asked" = "$jars" ] || return 1
    for file in "${files[@]}"; do
        [ -e "$(spark_home)/jars/$file" ] || return 1
    done
}

install_jars() {
    local home file artifact
    home=$(spark_home)
    echo pass > "$scratch/nothing.py"
    JAVA_HOME=$java_home SPARK_HOME=$PWD/$home PYSPARK_PYTHON=$PWD/.venv/bin/python quietly \
        "$home/bin/spark-submit" --master 'local[1]' --conf "spark.jars.ivy=$scratch/ivy" \
        --packages "$jars" --exclude-packages "$jars_of_spark" "$scratch/nothing.py" ||
        die "the jars could not be fetched, see above."

    if [ -e .venv/jars ]; then
        tail -n +2 .venv/jars | while read -r file; do rm -f "$home/jars/$file"; done
    fi
    echo "$jars" > "$scratch/jars"
    for file in "$scratch"/ivy/jars/*.jar; do
        file=$(basename "$file")                 # <group>_<artifact>-<version>.jar
        artifact=${file#*_}
        artifact=${artifact%-[0-9]*}
        # Spark's own jar wins: two versions of a class on one class path is a lottery.
        if compgen -G "$home/jars/$artifact-[0-9]*.jar" > /dev/null; then continue; fi
        cp "$scratch/ivy/jars/$file" "$home/jars/.$file"
        mv "$home/jars/.$file" "$home/jars/$file"
        echo "$file" >> "$scratch/jars"
    done
    cp "$scratch/jars" .venv/.jars
    mv .venv/.jars .venv/jars
}

spark_home() { echo .venv/lib/python3.*/site-packages/pyspark; }

# --- the machine --------------------------------------------------------------------------------------------------

# Installs the first of the packages that this machine's apt-get has; false when it has none or we may not.
install_first() {
    local package
    command -v apt-get > /dev/null && as_root true 2> /dev/null || return 1
    as_root apt-get update > "$scratch/log" 2>&1 || true        # an old list may still do
    for package; do
        say "installs $package with apt-get"
        if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package" \
            > "$scratch/log" 2>&1; then return; fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Runs a command, and shows what it said only if it fails.
quietly() {
    "$@" > "$scratch/log" 2>&1 || { tail -n 30 "$scratch/log" >&2; return 1; }
}

say() { echo "set-up: $*" >&2; }

die() {
    say "$*"
    exit 1
}

main
