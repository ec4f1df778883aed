"""spark-submit's door to `lakehouse.application.validate`; `--help` lists the arguments."""

from lakehouse.errors import ended_without_extras

with ended_without_extras():
    from lakehouse.application import run_job, validate

if __name__ == "__main__":
    run_job(validate)
