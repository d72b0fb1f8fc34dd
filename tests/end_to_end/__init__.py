"""The real DAG through the real gateway: everything started once, one service, one story."""
