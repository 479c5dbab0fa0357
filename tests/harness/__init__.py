"""What tests of several kinds need: a service in this process or another, raw HTTP, tokens."""
