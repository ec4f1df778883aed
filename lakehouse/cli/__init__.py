"""The command `lakehouse`: arguments in, tables or JSON out."""
