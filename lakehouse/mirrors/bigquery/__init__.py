"""The mirror of kind `bigquery`."""
