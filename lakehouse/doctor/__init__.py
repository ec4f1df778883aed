"""Whether what an application needs is there, asked where it runs: packages, rights, stores, brokers and targets."""
