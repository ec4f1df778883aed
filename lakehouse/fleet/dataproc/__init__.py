"""What applications on Dataproc are made of: packages, code, jobs, and the cluster that they need."""
