"""The native API under ``/api/v1``: routes, the reading of requests, the wording of answers."""
