"""Benchmarks: each module measures one stage against baselines in the same run, since machines differ and are noisy."""
