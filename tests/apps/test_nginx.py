# SPDX-License-Identifier: BSD-3-Clause
"""nginx as it is run: a master that listens and never accepts, workers that have given up root and accept."""
import hashlib
import os
import random
import signal
import subprocess

import pytest

from lab import ENGINE, wait_until

CONFIG = """
daemon {daemon}; worker_processes 3; user www-data; pid {dir}/nginx.pid; error_log {dir}/error.log notice;
events {{ worker_connections 512; accept_mutex {mutex}; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    server {{
        listen {listen}; root {dir}/www;
        location /pid {{ return 200 "$pid\\n"; }}
    }}
}}
"""


class Nginx:
    def __init__(self, lab, ns, engine, listen=f"{ENGINE}:80", daemon="off", mutex="off"):
        self.ns, self.dir = ns, lab.dir
        os.chmod(lab.dir, 0o755)
        www = lab.dir / "www"
        www.mkdir()
        self.big = random.Random(5).randbytes(20_000_000)
        (www / "small").write_bytes(b"x" * 612)
        (www / "big").write_bytes(self.big)
        config = lab.dir / "nginx.conf"
        config.write_text(CONFIG.format(dir=lab.dir, listen=listen, daemon=daemon, mutex=mutex))
        self.log = lab.dir / "error.log"
        self.process = engine.run("/usr/sbin/nginx", "-c", config, stdout=subprocess.DEVNULL)
        wait_until("nginx has written its pid", lambda: self.pid_file().exists() and self.pid_file().read_text().strip())
        self.master = int(self.pid_file().read_text())
        wait_until("nginx answers", self.pids)

    def pid_file(self):
        return self.dir / "nginx.pid"

    def there(self, *words, seconds=20):
        p = subprocess.run(["ip", "netns", "exec", self.ns, *words], capture_output=True, timeout=seconds, check=False)
        assert p.returncode == 0, (p.stderr.decode()[-1000:], self.log.read_text()[-2000:])
        return p.stdout

    def pids(self, count=1):
        """The workers that answer `count` connections at once."""
        one = f"curl -s --retry 0 -m 8 http://{ENGINE}/pid"
        out = self.there("bash", "-c", f"for i in $(seq {count}); do {one} & done; wait").split()
        assert len(out) in (0, count) or count > 1, out
        return {int(pid) for pid in out} if len(out) == count else set()

    def quit(self):
        os.kill(self.master, signal.SIGQUIT)
        wait_until("nginx has ended", lambda: not self.pid_file().exists())


@pytest.mark.seconds(60)
@pytest.mark.parametrize("options", [
    {}, {"listen": "80"}, {"listen": f"{ENGINE}:80 reuseport"}, {"mutex": "on"}, {"daemon": "on"},
], ids=["address", "any-address", "reuseport", "accept-mutex", "daemon"])
def test_nginx(lab, ns, engine, options):
    nginx = Nginx(lab, ns, engine, **options)
    before = nginx.pids(30)
    assert before and nginx.master not in before
    body = nginx.there("curl", "-s", "-m", "15", f"http://{ENGINE}/big")
    assert hashlib.sha256(body).digest() == hashlib.sha256(nginx.big).digest()
    for words in (["-n", "1500"], ["-k", "-n", "5000"]):
        report = nginx.there("ab", "-q", "-s", "8", "-c", "16", *words, f"http://{ENGINE}/small").decode()
        assert f"Complete requests:      {words[-1]}" in report and "Failed requests:        0" in report, report
    os.kill(nginx.master, signal.SIGHUP)
    wait_until("other workers answer", lambda: nginx.pids(1) and not nginx.pids(8) & before, 8, 0.2)
    nginx.quit()
    assert engine.stat()["passive_opens"] > 1500
    wait_until("nothing listens", lambda: not [c for c in engine.connections() if c["state"] == "LISTEN"])
