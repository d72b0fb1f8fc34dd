"""The smallest model server: it is ready, and nothing else. For `python -c` in a pod."""

READY = """
import http.server
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v2/health/ready" else 404)
        self.end_headers()


where = {name: sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port")}
http.server.ThreadingHTTPServer((where["--host"], int(where["--port"])), Answer).serve_forever()
"""
