"""spark-submit's door to `lakehouse.application.mirror`; `--help` lists the arguments."""

from lakehouse.application import mirror, run_job

if __name__ == "__main__":
    run_job(mirror)
