"""Evaluations that run for minutes, behind the requests that are answered meanwhile."""
