#!/usr/bin/env python3
"""The HTTPS server of vcycled beside nginx and Apache with vcycle-cgi, in one run on one tree.

    cargo build --release && benches/http/run.py [--rounds 3] [--seconds 5] [--idle 10000]

Needs root (each server runs as it would at a site), nginx, apache2, ab, wrk, openssl and curl:
    apt-get install nginx-light apache2-bin apache2-utils wrk
It prints, for each load, the median of the rounds for each server: requests a second, and processor
time of the server and its children for each request, which counts on a machine that the clients
share with the server. `failed` has to be 0. At the end: full and resumed handshakes, memory of idle
connections, the bounds that have to hold, and how close a handshake is to its signature alone
(`openssl speed`).
"""

import argparse
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MACHINES = 1000
SUBJECT = "/DC=org/DC=example/OU=pilots/CN=pilot"
TICKS = os.sysconf("SC_CLK_TCK")


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def machine(number):
    return f"vcycle-bench-{number:010d}"


class Site:
    """Keys, certificates and machines in a temporary directory."""

    def __init__(self, directory):
        self.dir = directory
        self.pki = directory / "pki"
        self.ca_path = directory / "certificates"
        for path in (self.pki, self.ca_path):
            path.mkdir()
        self.make_certificates()
        self.make_machines()
        (directory / "heartbeat").write_text("x" * 100)

    def make_certificates(self):
        pki = self.pki
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 30, "-keyout",
            pki / "ca.key", "-out", pki / "ca.pem", "-subj", "/DC=org/DC=example/CN=Bench CA",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        for name, subject, extensions in (
            ("host", "/CN=localhost", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth"),
            ("user", SUBJECT, "extendedKeyUsage=clientAuth"),
        ):
            (pki / "ext").write_text(extensions + "\nbasicConstraints=critical,CA:FALSE\n")
            run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout",
                pki / f"{name}.key", "-out", pki / "csr", "-subj", subject)
            run("openssl", "x509", "-req", "-in", pki / "csr", "-CA", pki / "ca.pem", "-CAkey",
                pki / "ca.key", "-days", 30, "-extfile", pki / "ext", "-out", pki / f"{name}.pem")
            both = (pki / f"{name}.pem").read_text() + (pki / f"{name}.key").read_text()
            (pki / f"{name}.both").write_text(both)
        hashed = run("openssl", "x509", "-noout", "-hash", "-in", pki / "ca.pem").strip()
        shutil.copy(pki / "ca.pem", self.ca_path / f"{hashed}.0")

    def make_machines(self):
        now = str(int(time.time()))
        files = {
            "created": now, "machinetype_name": "bench", "space_name": "bench.example.org",
            "manager": "localhost", "https_x509dn": SUBJECT, "uuid": "u", "started": now,
            "machinefeatures/total_cpu": "8", "machinefeatures/hs06": "80.0",
            "machinefeatures/shutdowntime": now, "jobfeatures/allocated_cpu": "8",
            "jobfeatures/wall_limit_secs": "86400", "jobfeatures/hs06_job": "80.0",
        }
        for number in range(MACHINES):
            place = self.dir / "state/machines" / machine(number)
            for directory in ("machinefeatures", "jobfeatures", "joboutputs"):
                (place / directory).mkdir(parents=True)
            (place / "joboutputs").chmod(0o777)
            for name, text in files.items():
                (place / name).write_text(text)


class Server:
    """A server that is started, measured and stopped."""

    def __init__(self, name, site, port, command):
        self.name, self.port = name, port
        log = open(site.dir / f"{name}.log", "w")
        # Apache ends the whole group of processes that it is in.
        self.process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log,
                                        start_new_session=True)
        for _ in range(200):
            if self.process.poll() is not None:
                sys.exit(f"{name} ended: {(site.dir / f'{name}.log').read_text()}")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} does not listen")

    def tree(self):
        children = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            times = sum(int(field) for field in fields[11:15]) / TICKS
            children.setdefault(int(fields[1]), []).append((int(entry), times))
            if int(entry) == self.process.pid:
                yield int(entry), times
        todo = [self.process.pid]
        while todo:
            for pid, times in children.get(todo.pop(), []):
                todo.append(pid)
                yield pid, times

    def cpu(self):
        return sum(times for _, times in self.tree())

    def memory(self):
        total = 0
        for pid, _ in self.tree():
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss: +(\d+)", text, re.M)[1])
        return total / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def vcycled(site, program):
    conf = site.dir / "vcycle.conf"
    # A space on a cloud that does not answer: nothing happens to the machines.
    conf.write_text(
        f"[server]\nlisten = 127.0.0.1:18443\nadmin_listen = none\ncert = {site.pki}/host.pem\n"
        f"key = {site.pki}/host.key\nca_path = {site.ca_path}\n"
        "[space bench.example.org]\napi = openstack\nurl = http://127.0.0.1:1/v3\n"
        "tenancy_name = t\nusername = u\npassword_base64 = eA==\nmax_machines = 1\n"
        "[machinetype bench.example.org bench]\ntarget_share = 1\nflavor_name = f\n"
        "root_image = image:i\nuser_data = /dev/null\nbackoff_seconds = 600\n"
        "fizzle_seconds = 600\n")
    (site.dir / "vcycle.d").mkdir(exist_ok=True)
    return Server("vcycled", site, 18443, [
        program, "run", "--config", conf, "--config-dir", site.dir / "vcycle.d", "--state-dir",
        site.dir / "state", "--factory", "localhost"])


NGINX = """daemon off; worker_processes auto; user www-data; pid {d}/nginx.pid;
error_log {d}/nginx-error.log warn; events {{ worker_connections 20000; }} worker_rlimit_nofile 20000;
http {{ access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path {d}/body;
  proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
  server {{ listen 127.0.0.1:18444 ssl backlog=1024; ssl_certificate {d}/pki/host.pem;
    ssl_certificate_key {d}/pki/host.key; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_client_certificate {d}/pki/ca.pem; ssl_verify_client optional; root {d}/state;
    location ~ ^/machines/[^/]+/(machinefeatures|jobfeatures)/ {{ autoindex on; }}
    location ~ ^/machines/[^/]+/joboutputs/[^/]+$ {{
      if ($ssl_client_verify != SUCCESS) {{ return 403; }} dav_methods PUT; }} }} }}
"""


def nginx(site):
    conf = site.dir / "nginx.conf"
    conf.write_text(NGINX.format(d=site.dir))
    return Server("nginx", site, 18444, ["nginx", "-c", conf])


def apache(site, program):
    place = site.dir / "apache"
    (place / "cgi").mkdir(parents=True, exist_ok=True)
    shutil.copy(program, place / "cgi/vcycle-cgi")
    modules = "/usr/lib/apache2/modules"
    names = ["mpm_prefork", "authz_core", "socache_shmcb", "alias", "autoindex", "dir", "env",
             "headers", "allowmethods", "reqtimeout", "cgi", "ssl"]
    text = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in names)
    text += (f"ServerRoot {place}\nServerName localhost\nPidFile {place}/pid\n"
             f"DefaultRuntimeDir {place}\nErrorLog {place}/error.log\nDocumentRoot {place}\n"
             "User www-data\nGroup www-data\nListen 127.0.0.1:18445\nMaxKeepAliveRequests 0\n")
    for name, value in (("STATE_DIR", site.dir / "state"), ("CGI_DIR", place / "cgi"),
                        ("PORT", 18445), ("CERT", site.pki / "host.pem"),
                        ("KEY", site.pki / "host.key"), ("CA_PATH", site.ca_path)):
        text += f"Define VCYCLE_{name} {value}\n"
    conf = place / "httpd.conf"
    conf.write_text(text + f"Include {ROOT}/apache/vcycle.conf\n")
    return Server("apache", site, 18445, ["apache2", "-D", "FOREGROUND", "-f", conf])


WRK = """local keys = {"machinefeatures/total_cpu", "machinefeatures/hs06", "machinefeatures/shutdowntime",
  "jobfeatures/allocated_cpu", "jobfeatures/wall_limit_secs", "jobfeatures/hs06_job"}
function request()
  local name = string.format("vcycle-bench-%%010d", math.random(0, %d))
  return wrk.format("GET", "/machines/" .. name .. "/" .. keys[math.random(#keys)])
end
function done(all)
  local e = all.errors
  io.write(string.format("DONE %%d %%d %%f\\n", all.requests,
    e.connect + e.read + e.write + e.timeout + e.status, all.duration / 1e6))
end
""" % (MACHINES - 1)


def with_wrk(site, server, seconds):
    script = site.dir / "load.lua"
    script.write_text(WRK)
    before = server.cpu()
    said = run("wrk", "-t", 2, "-c", 32, "-d", f"{seconds}s", "-s", script,
               f"https://localhost:{server.port}")
    spent = server.cpu() - before
    count, failed, took = re.search(r"^DONE (\d+) (\d+) (\S+)", said, re.M).groups()
    return int(count) / float(took), spent / int(count) * 1e6, int(failed)


def with_ab(site, server, count, *options):
    put = "-u" in options
    path = "joboutputs/heartbeat" if put else "machinefeatures/total_cpu"
    before = server.cpu()
    said = run("ab", "-q", "-n", count, "-c", 8, *options,
               f"https://localhost:{server.port}/machines/{machine(7)}/{path}")
    spent = server.cpu() - before
    rate = float(re.search(r"^Requests per second: +(\S+)", said, re.M)[1])
    bad = re.search(r"^Non-2xx responses: +(\d+)", said, re.M)
    return rate, spent / count * 1e6, int(bad[1]) if bad else 0


def loads(site, seconds, short):
    upload = ("-E", site.pki / "user.both", "-u", site.dir / "heartbeat", "-T", "text/plain")
    return {
        "get-keepalive": lambda server: with_wrk(site, server, seconds),
        "get-handshake": lambda server: with_ab(site, server, short),
        "put-keepalive": lambda server: with_ab(
            site, server, 100 if server.name == "apache" else short * 10, "-k", *upload),
        "put-handshake": lambda server: with_ab(
            site, server, 100 if server.name == "apache" else short, *upload),
    }


def handshakes(site, server, seconds, how):
    """Connections with one GET each, with a full handshake or with the session of the one before:
    rate, microseconds of the server for each."""
    before = server.cpu()
    said = run("openssl", "s_time", "-connect", f"localhost:{server.port}", how, "-time", seconds,
               "-CAfile", site.pki / "ca.pem", "-cert", site.pki / "user.both", "-www",
               f"/machines/{machine(7)}/machinefeatures/total_cpu")
    spent = server.cpu() - before
    count, took = re.search(r"^(\d+) connections in (\d+) real seconds", said, re.M).groups()
    return int(count) / int(took), spent / int(count) * 1e6


def compare_handshakes(site, server, rounds, seconds):
    for how, what in (("-new", "full"), ("-reuse", "resumed")):
        columns = zip(*(handshakes(site, server, seconds, how) for _ in range(rounds)))
        rate, spent = (statistics.median(column) for column in columns)
        print(f"{server.name}: {what} handshakes with a certificate, and one GET: {rate:.0f} /s, "
              f"{spent:.0f} us, {1e6 / max(spent, 1):.0f} a second of processor time")


def idle(server, count):
    """MiB that `count` idle connections after a handshake cost, from many addresses."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before, held, begun = server.memory(), [], time.monotonic()
    for number in range(count):
        plain = socket.socket()
        plain.bind((f"127.0.{1 + number // 250 // 250}.{1 + number // 250 % 250}", 0))
        plain.connect(("127.0.0.1", server.port))
        held.append(context.wrap_socket(plain))
    took, after = time.monotonic() - begun, server.memory()
    open_still = sum(1 for one in held if is_open(one))
    for one in held:
        one.close()
    print(f"{server.name}: {open_still} of {count} idle connections open after {took:.0f} s: "
          f"{after:.0f} MiB, {after - before:.0f} more than before")
    return after


def is_open(stream):
    stream.setblocking(False)
    try:
        return stream.recv(1) != b""
    except (ssl.SSLWantReadError, BlockingIOError):
        return True
    except OSError:
        return False


def signature():
    """Microseconds of one RSA 2048 signature on this machine."""
    said = run("openssl", "speed", "-seconds", 2, "rsa2048")
    per_second = float(said.strip().splitlines()[-1].split()[5])
    return 1e6 / per_second


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each load with wrk")
    parser.add_argument("--short", type=int, default=500, help="requests of the loads with ab")
    parser.add_argument("--idle", type=int, default=10000, help="idle connections; 0 for none")
    parser.add_argument("--program", default=ROOT / "target/release/vcycled")
    options = parser.parse_args()
    work = tempfile.TemporaryDirectory()
    os.chmod(work.name, 0o755)
    site = Site(pathlib.Path(work.name))
    starts = (lambda: vcycled(site, options.program), lambda: nginx(site),
              lambda: apache(site, options.program))
    seen = {}
    for number in range(options.rounds):
        print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        for start in starts:
            server = start()
            for load, measure in loads(site, options.seconds, options.short).items():
                result = measure(server)
                seen.setdefault((load, server.name), []).append(result)
                print("  %-14s %-8s %8.0f /s %8.0f us failed=%d" % (load, server.name, *result))
            server.stop()
    medians = {key: [statistics.median(column) for column in zip(*rounds)]
               for key, rounds in seen.items()}
    print("medians:")
    for (load, name), (rate, cpu, failed) in sorted(medians.items()):
        print(f"  {load:14} {name:8} {rate:8.0f} /s {cpu:8.0f} us failed={failed:.0f}")
    good = all(failed == 0 for _, _, failed in medians.values())
    for load, other, least in (("get-keepalive", "nginx", 0.8), ("get-handshake", "nginx", 1),
                               ("put-handshake", "nginx", 1), ("put-keepalive", "nginx", 2),
                               ("put-keepalive", "apache", 50)):
        (rate, cpu, _), (other_rate, other_cpu, _) = medians[load, "vcycled"], medians[load, other]
        by_rate, by_cpu = rate / other_rate, other_cpu / max(cpu, 0.001)
        good &= min(by_rate, by_cpu) >= least
        print(f"{load}: {by_rate:.2f} of {other} by rate, {by_cpu:.2f} by processor time; "
              f"at least {least}")
    one = signature()
    spent = medians["get-handshake", "vcycled"][1]
    print(f"a signature of RSA 2048 takes {one:.0f} us, a request with a handshake {spent:.0f} us")
    for start in starts[:2]:
        server = start()
        compare_handshakes(site, server, options.rounds, options.seconds)
        server.stop()
    if options.idle:
        server = vcycled(site, options.program)
        good &= idle(server, options.idle) <= 400
        server.stop()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
