"""The real Python bindings of TensorRT, imported without TensorRT: what each version offers, and what code asks of it.

Problem: the worker must live with three versions whose names differ, and only the newest libraries could tell what is
gone. The libraries are not on PyPI; their bindings are, and they know every name. Invariants: the bindings' bytes are
never changed; each version is imported in a process of its own; a missing wheel is said, never passed over.
"""
