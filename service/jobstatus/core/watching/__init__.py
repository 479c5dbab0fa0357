"""Who waits for which job: subscriptions in this process, long polls upon them, and the feed that an edge follows."""
