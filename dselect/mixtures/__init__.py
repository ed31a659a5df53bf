"""Weights of domains: searched for, kept in files, applied."""
