"""spark-submit's door to `lakehouse.application.maintain`; `--help` lists the arguments."""

from lakehouse.application import maintain, run_job

if __name__ == "__main__":
    run_job(maintain)
