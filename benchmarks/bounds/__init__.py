"""What strangers and callers may make the service and its Redis hold, measured against what is promised."""
