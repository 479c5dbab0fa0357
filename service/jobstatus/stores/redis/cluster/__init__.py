"""A client of a Redis or Valkey server or cluster: commands in, replies in order out. It knows no job.

It raises and returns its own errors (`errors`), which its user translates.
"""
