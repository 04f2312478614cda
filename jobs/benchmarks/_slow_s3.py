"""An S3 server in a process of its own that takes its time for every request, and counts them."""

import collections
import json
import multiprocessing
import os
import threading
import time
import urllib.request

LATENCY = 0.02
"""Seconds a request."""
COUNTS = "/-counts"


class SlowS3:
    """The port of the server, while the body runs."""

    def __enter__(self):
        os.environ.update(AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none", AWS_EC2_METADATA_DISABLED="true")
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        return mine.recv()

    def __exit__(self, *error):
        self.process.terminate()
        self.process.join()


def serve(pipe):
    """The server's process."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        """Logs nothing."""

        protocol_version = "HTTP/1.1"

        def log(self, *arguments):
            """Nothing."""

    application, seen, lock = DomainDispatcherApplication(create_backend_app), collections.Counter(), threading.Lock()

    def answer(environ, start_response):
        if environ["PATH_INFO"] == COUNTS:
            with lock:
                found = json.dumps(seen).encode()
                seen.clear()
            start_response("200 OK", [("Content-Length", str(len(found)))])
            return [found]
        listing = "list-type" in environ.get("QUERY_STRING", "")
        with lock:
            seen["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        time.sleep(LATENCY)
        return application(environ, start_response)

    made = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    pipe.send(made.server_port)
    made.serve_forever()


def counts(port):
    """Requests by method since this was last asked."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{COUNTS}") as answer:
        return collections.Counter(json.load(answer))
