"""A client of a Redis or Valkey server, or of a cluster of them: commands in, replies in order out. It knows no job."""
