"""Reliable events between applications: ports and policies, without a third party."""
