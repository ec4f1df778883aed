"""spark-submit's door to `lakehouse.application.run`; `--help` lists the arguments."""

from lakehouse.application import run, run_job

if __name__ == "__main__":
    run_job(run)
