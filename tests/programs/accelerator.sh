#!/usr/bin/env bash
# nginx whose records are sealed by an accelerator behind OpenSSL, which nginx itself uses for its handshakes.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

make --no-print-directory -s -C c-tests/accelerator "BUILD=$work/accelerator"
provider=$work/accelerator/uktls-accelerator.so
www=$work/www
mkdir -p "$www" "$work/tmp"
chmod 777 "$work/tmp"
new_file "$www/large" 33554443
sent=0

configure() {
    cat >"$work/nginx.conf" <<CONF
daemon off;
worker_processes 2;
pid $work/nginx.pid;
error_log $work/error.log info;
# The accelerator's own; nginx keeps no other variable for its workers.
env UKTLS_ACCELERATOR;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path $work/tmp/body;
    proxy_temp_path $work/tmp/proxy;
    fastcgi_temp_path $work/tmp/fastcgi;
    uwsgi_temp_path $work/tmp/uwsgi;
    scgi_temp_path $work/tmp/scgi;
    ssl_certificate $work/localhost.pem;
    ssl_certificate_key $work/localhost.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_conf_command Options KTLS;
    root $www;
    server {
        listen 127.0.0.1:$port ssl;
        sendfile on;
    }
}
CONF
}

# run MOOD SETTINGS
run() {
    local mood=$1 version
    free_port
    configure
    forget
    sent=0
    with_uktls+=("UKTLS_ENGINE=openssl:$provider" "UKTLS_ACCELERATOR=$2")
    start nginx -p "$work" -e "$work/error.log" -c "$work/nginx.conf"
    wait_for_port
    for version in 1.2 1.3; do
        same "$mood: $version" "$www/large" "${get[@]}" "https://localhost:$port/large" "--tlsv$version" --tls-max "$version"
        sent=$((sent + $(stat -c %s "$www/large")))
    done
    check "$mood: ends" stop QUIT
    went_through "$mood: all by uktls" tx_bytes "$sent"
    check "$mood: nothing broke" [ "$(total errors)" -eq 0 ]
    # The head of an answer is shorter than what an accelerator gets.
    check "$mood: by the accelerator" [ "$(total sealed_accelerator)" -gt 3000 ]
}

run 'out of order' latency_us=100,lanes=16,jitter_us=80
run 'by descriptor' latency_us=50,lanes=8,jitter_us=20,notify=fd
run 'a tenth fails' latency_us=50,lanes=8,jitter_us=20,fail=100000
check 'what failed was noticed' [ "$(total accelerator_failed)" -gt 100 ]
summary
