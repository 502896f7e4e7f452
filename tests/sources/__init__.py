"""Sources whose libraries are extras. ``scripts/test-sources`` runs these tests where they are installed."""
