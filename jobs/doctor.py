"""spark-submit's door to `lakehouse.application.doctor`; `--help` lists the arguments."""

from lakehouse.errors import ended_without_extras

with ended_without_extras():
    from lakehouse.application import doctor, run_job

if __name__ == "__main__":
    run_job(doctor)
