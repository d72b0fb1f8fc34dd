"""The model server: one engine, Open Inference Protocol v2 over HTTP.

From the outside in: `app` (life of the process) > `connection` (moves bytes) > `service` (routes) > `batcher`
(one batch at a time on one thread) > `backend` (four methods around the engine). `oip` and `signature` hold the
rules of the format and of shapes; they know no socket, no clock and no thread.
"""
