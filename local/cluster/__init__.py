"""A small Kubernetes API whose pods are processes: the one-machine stand-in for a cluster.

Problem: no real API server can be installed from PyPI or Debian, yet the DAGs, the controller and the
unmodified KubernetesPodOperator must run on one machine. Invariant: what is served behaves like Kubernetes,
and what is not served says so (501, or 422 for a wrong value); nothing is accepted and then ignored.
README.md lists both sides.
"""
