"""A Ray head that takes jobs: protected by a token, started and ended as a user would."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


class JobHead:
    """`ray start --head` of two CPUs; ``address`` is its dashboard, which takes jobs."""

    def __init__(self, folder, **environment):
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4)
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **environment}
        self.environment.pop("RAY_ADDRESS", None)
        gcs, dashboard, client, agent = free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        options = {
            "port": gcs,
            "dashboard-port": dashboard,
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "dashboard-host": "127.0.0.1",
            "num-cpus": 2,
        }
        line = [RAY, "start", "--head", "--block", "--disable-usage-stats", *(f"--{k}={v}" for k, v in options.items())]
        with (folder / "head.log").open("w") as log:
            self.process = subprocess.Popen(line, env=self.environment, stdout=log, stderr=log)
        self.log = folder / "head.log"

    def __enter__(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(self.address, timeout=5)
                return self
            except urllib.error.HTTPError:
                return self  # up, and asks for the token
            except OSError:
                time.sleep(1)
        raise AssertionError("the cluster's dashboard did not come up")

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(60)

    def job(self, command, *arguments, timeout=400, **environment):
        """`ray job submit`, `stop`, `status` or `logs`, finished."""
        line = [RAY, "job", command, "--address", self.address, *arguments]
        return subprocess.run(line, env=self.environment | environment, capture_output=True, text=True, timeout=timeout)


def free_ports(count):
    """Ports that nobody listens on, outside the range from which Ray takes its workers' ports."""
    found = []
    for port in range(26000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free port")
