"""Clients' own test suites, run against a broker; see harness.py."""
