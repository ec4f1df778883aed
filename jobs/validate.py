"""spark-submit's door to `lakehouse.application.validate`; `--help` lists the arguments."""

from lakehouse.application import run_job, validate

if __name__ == "__main__":
    run_job(validate)
