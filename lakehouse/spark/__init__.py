"""The Spark session, its Python workers, and an orderly end."""
