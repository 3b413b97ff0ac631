"""Model servers as processes of this machine: found, started, kept by a guardian, watched, ended.

Knows processes, sockets and leases. Does not know models or what is asked of them.
"""
