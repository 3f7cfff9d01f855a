"""Agents: what acts, learns, is evaluated and saved."""
