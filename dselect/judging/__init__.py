"""Pairwise judgments: read, asked for, learnt from."""
