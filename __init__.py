"""Agents that finish the job, and can prove it."""
