"""Reading from a broker: pulls, leases, acknowledgements. There is one for Pub/Sub."""
