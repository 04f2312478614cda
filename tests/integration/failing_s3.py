"""A real S3 server behind a door that fails: a share of the requests, or all of them for a while."""

from __future__ import annotations

import random
import threading
import time

REFUSED = [("Content-Type", "application/xml")]
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class FailingS3:
    """Moto's S3 server on a port of its own.

    Args:
        share: Part of the requests that is answered by an error.
        seed: Of which ones they are.
    """

    def __init__(self, share: float = 0.0, seed: int = 0) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *arguments):
                pass

        self.share = share
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.away_until = 0.0
        self.served = self.failed = self.swallowed = 0
        self.application = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def uri(self, bucket: str, folder: str) -> str:
        """The folder as a study's storage."""
        options = f"endpoint_override=127.0.0.1:{self.server.server_port}&scheme=http&region=us-east-1"
        return f"s3://{bucket}/{folder}?{options}&allow_bucket_creation=true"

    def go_away(self, seconds: float) -> None:
        """Answer nothing at all for a while."""
        self.away_until = time.monotonic() + seconds

    def __call__(self, environ, start_response):
        away = False
        # Held, and then dropped, as by a network that lost its way.
        while time.monotonic() < self.away_until:
            away = True
            time.sleep(0.1)
        with self.lock:
            unlucky = self.random.random() < self.share
            self.served += not (away or unlucky)
            self.failed += unlucky and not away
            self.swallowed += away
        if away or unlucky:
            start_response("503 Slow Down", REFUSED)
            return [SLOW_DOWN]
        return self.application(environ, start_response)

    def close(self) -> None:
        """End the server."""
        self.server.shutdown()
