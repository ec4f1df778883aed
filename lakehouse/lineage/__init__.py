"""Where each hour came from and where it went, told to a lineage server in OpenLineage's terms."""
