#!/usr/bin/python3
"""Programs under `uktls run` against the same programs without it: how much more they serve.

  programs.py UKTLS    the command, with its libraries where it was installed

Both run with the same configuration, which asks for kernel TLS, one after the other, in pairs; a figure is the
median of the pairs' ratios. Where the kernel has TLS itself, the other side is the kernel.
"""

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

NGINX = """\
daemon off; worker_processes {workers}; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000000;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl; root {work}/html;
        ssl_certificate {work}/cert.pem; ssl_certificate_key {work}/key.pem;
        ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_conf_command Options KTLS;
    }}
}}
"""

# `sendall` of 1 GiB to each that connects. The constant has a name since Python 3.12.
SENDALL = """\
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
context.options |= getattr(ssl, "OP_ENABLE_KTLS", 1 << 3)
data = memoryview(bytearray(b"x") * (1 << 30))
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1000)
            tls.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
            tls.sendall(data)
    except OSError:
        pass  # somebody has looked whether it is there
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Server:
    """A program that serves while the block runs."""

    def __init__(self, command, port):
        self.command, self.port = command, port

    def __enter__(self):
        self.process = subprocess.Popen(self.command, start_new_session=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"programs.py: {self.command[0]} does not serve")
                time.sleep(0.02)

    def __exit__(self, *_):
        # The command `uktls` becomes the program; its workers are in its group.
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def bytes_per_second(url, times):
    """`times` downloads over one connection by curl, which throws them away."""
    outputs = ["-o", "/dev/null"] * times
    begin = time.perf_counter()
    sizes = run("curl", "-sSk", "-w", "%{size_download}\n", *outputs, *[url] * times)
    return sum(map(int, sizes.split())) / (time.perf_counter() - begin)


def requests_per_second(url, connections, seconds):
    output = run("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url)
    if re.search(r"Socket errors|Non-2xx", output):
        raise SystemExit(f"programs.py: wrk: {output}")
    return float(re.search(r"Requests/sec:\s*([0-9.]+)", output)[1])


def nginx(work, workers=1):
    port = free_port()
    config = os.path.join(work, f"nginx-{port}.conf")
    with open(config, "w") as out:
        out.write(NGINX.format(work=work, port=port, workers=workers))
    return ["nginx", "-c", config, "-e", f"{work}/error.log"], port


def python(work):
    port = free_port()
    program = os.path.join(work, "sendall.py")
    with open(program, "w") as out:
        out.write(SENDALL)
    return [sys.executable, program, str(port), f"{work}/cert.pem", f"{work}/key.pem"], port


def scenarios(seconds):
    url = "https://127.0.0.1:{}/{}".format
    return [
        ("nginx, 64 MiB file, curl", 1.5, nginx, lambda port: bytes_per_second(url(port, "64m"), 16)),
        ("nginx, 64 MiB file, wrk", 1.5, nginx, lambda port: requests_per_second(url(port, "64m"), 1, seconds)),
        ("nginx, 10 KiB file, keep-alive, wrk", 1.0, nginx, lambda port: requests_per_second(url(port, "10k"), 16, seconds)),
        ("python, sendall of 1 GiB, curl", 1.5, python, lambda port: bytes_per_second(url(port, ""), 2)),
    ]


def prepare(work):
    os.mkdir(f"{work}/html")
    os.chmod(work, 0o755)
    for name, size in (("64m", 64 << 20), ("10k", 10 << 10)):
        with open(f"{work}/html/{name}", "wb") as out:
            out.write(os.urandom(size))
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
        "-subj", "/CN=localhost", "-keyout", f"{work}/key.pem", "-out", f"{work}/cert.pem")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("uktls", help="the command `uktls`")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk")
    parser.add_argument("--svg", help="draw the ratios there; needs matplotlib")
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    options = parser.parse_args()
    print(f"{'scenario':38} {'goal':>5} {'ratio':>6}  {'pairs':14} {'without':>12}")
    medians = {}
    with tempfile.TemporaryDirectory() as work:
        prepare(work)
        for name, goal, program, measure in scenarios(options.seconds):
            if options.only not in name:
                continue
            ratios, plain = [], []
            for turn in range(options.pairs):
                found = {}
                # Each is the first of its pair half of the time.
                for under in (False, True) if turn % 2 else (True, False):
                    command, port = program(work)
                    with Server(([options.uktls, "run", "--"] if under else []) + command, port):
                        found[under] = measure(port)
                ratios.append(found[True] / found[False])
                plain.append(found[False])
            medians[name] = statistics.median(ratios)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{name:38} {goal:5.2f} {medians[name]:6.2f}  {spread:14} {statistics.median(plain):12.4g}", flush=True)
    if options.svg:
        draw(medians, options.svg)


def draw(medians, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "uktls"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.9 + 0.5 * len(medians)))
    bars = axes.barh(list(medians), list(medians.values()), color="#2a6f97", height=0.6)
    axes.bar_label(bars, fmt="%.2fx", padding=4)
    axes.axvline(1, color="#555555", linewidth=1)
    axes.text(1, -0.75, "the same without uktls", ha="center", fontsize="small", color="#555555")
    axes.set_xlim(0, max(medians.values()) * 1.15)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
