"""Answers with how many it has answered, and with what it draws at random.

usage: server.py PORT plain|flask|aiohttp
"""
import random
import secrets
import ssl
import sys
import uuid

port, kind = int(sys.argv[1]), sys.argv[2]
answered = 0


def answer(path):
    global answered
    if path != "/random":
        answered += 1
        return f"answer {answered}"
    return "\n".join([
        "secure secrets.token_hex " + secrets.token_hex(),
        "secure uuid.uuid4 " + str(uuid.uuid4()),
        "secure ssl.RAND_bytes " + ssl.RAND_bytes(16).hex(),
        f"plain random.random {random.random()}",
    ])


# So that every generator has been seeded before the capture.
answer("/random")

if kind == "flask":
    from flask import Flask

    app = Flask(__name__)
    app.add_url_rule("/", "one", lambda: answer("/"))
    app.add_url_rule("/random", "two", lambda: answer("/random"))
    app.run("127.0.0.1", port)
elif kind == "aiohttp":
    from aiohttp import web

    async def handle(request):
        return web.Response(text=answer(request.path))

    app = web.Application()
    app.add_routes([web.get("/", handle), web.get("/random", handle)])
    web.run_app(app, host="127.0.0.1", port=port, print=None)
else:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = answer(self.path).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
