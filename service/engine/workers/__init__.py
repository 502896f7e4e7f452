"""What needs torch: in a worker process, or in the caller's own if it asks for that. The front imports nothing here."""
