"""What all protocols read of an HTTP request in the same way, whatever their bodies look like."""
