"""The console of live jobs, which the admin port serves under /console/.

It has two halves. `handler`, `stream` and `pulse` speak HTTP in the process that has the admin port. `reader` and
`census` answer their questions in a process that has the store: in the same one, or, under a supervisor, in any child.
"""
