"""Waiting for changes of jobs: subscriptions in this process, long polls upon them, and the feed that edges follow."""
