"""The only code that reads and writes durable state: files, Delta tables, the ledger, heartbeats."""
