"""Several simulated brokers with links between them, under one seed: see `world`."""
