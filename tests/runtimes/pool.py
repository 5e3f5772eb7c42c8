"""Lets a pool of processes work: pipes, and locks in shared memory.

usage: pool.py PORT
"""

import multiprocessing
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

total = multiprocessing.Value("i", 0)
lately = multiprocessing.Array("i", 300_000)


def work(number):
    with total.get_lock():
        total.value += number
    lately[number * 20_000] = number
    return os.getpid(), number * number


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answers = pool.map(work, range(12))
        assert [square for _, square in answers] == [number**2 for number in range(12)]
        assert [lately[number * 20_000] for number in range(12)] == list(range(12))
        pids = sorted({pid for pid, _ in answers})
        body = " ".join(str(number) for number in [total.value, *pids]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def stop(*_):
    pool.terminate()
    pool.join()
    sys.exit(7)


if __name__ == "__main__":
    pool = multiprocessing.Pool(3)
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()
