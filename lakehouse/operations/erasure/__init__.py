"""The steps of an erasure, and what may still hold the erased."""
