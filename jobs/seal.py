"""spark-submit's door to `lakehouse.application.seal`; `--help` lists the arguments."""

from lakehouse.errors import ended_without_extras

with ended_without_extras():
    from lakehouse.application import run_job, seal

if __name__ == "__main__":
    run_job(seal)
