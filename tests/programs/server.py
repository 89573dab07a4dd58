"""An HTTPS server of Python's standard library: GET sends a file by sendall, PUT answers with the body's SHA-256.

server.py CLASS PORT DIRECTORY: a class of socketserver; ends on SIGINT
"""

import hashlib
import http.server
import signal
import socketserver
import ssl
import sys

server_class, port, directory = getattr(socketserver, sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with open(f"{directory}/file", "rb") as file:
    content = file.read()


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.connection.sendall(body)

    def do_GET(self):
        self.answer(content)

    def do_PUT(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left > 0:
            block = self.rfile.read(min(left, 1 << 16))
            digest.update(block)
            left -= len(block)
        self.answer(digest.hexdigest().encode())

    def log_message(self, *arguments):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{directory}/localhost.pem", f"{directory}/localhost.key")
context.options |= ssl.OP_ENABLE_KTLS if hasattr(ssl, "OP_ENABLE_KTLS") else 8


class Server(server_class):
    allow_reuse_address = True

    # In the thread or process of the connection.
    def finish_request(self, request, client_address):
        try:
            with context.wrap_socket(request, server_side=True) as connection:
                Handler(connection, client_address, self)
        except (ssl.SSLError, ConnectionError):
            pass  # a client that only looked whether the port is open


signal.signal(signal.SIGINT, signal.default_int_handler)
with Server(("127.0.0.1", port), None) as server:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
