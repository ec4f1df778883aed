"""spark-submit's door to `lakehouse.application.audit`; `--help` lists the arguments."""

from lakehouse.application import audit, run_job

if __name__ == "__main__":
    run_job(audit)
