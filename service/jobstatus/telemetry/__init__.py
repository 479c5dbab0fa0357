"""What the service tells its operators: metrics and the log."""
