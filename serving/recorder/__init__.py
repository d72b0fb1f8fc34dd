"""The recorder: keeps a fair, small sample of what clients send, to calibrate INT8 on. See README.md beside this file.

From the outside in: `app` (life of the process) > `service` (routes) > `intake` (one request into samples) > `days`
(one service's reservoirs and files). Connections are the model server's own.
"""
