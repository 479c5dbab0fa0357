"""The composition roots: the only places that build the service and the edge out of their parts."""
