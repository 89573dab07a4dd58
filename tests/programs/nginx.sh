#!/usr/bin/env bash
# nginx: downloads by SSL_sendfile and by SSL_write, uploads, every cipher, reload and graceful stop under load.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

www=$work/www
mkdir -p "$www/put" "$work/tmp"
chmod 777 "$www/put" "$work/tmp"
new_file "$www/small" 300007
new_file "$www/large" 67108861
new_file "$work/upload" 20000003
sent=0

# configure WORKERS: on `port`
configure() {
    cat >"$work/nginx.conf" <<CONF
daemon off;
worker_processes $1;
pid $work/nginx.pid;
error_log $work/error.log info;
events { worker_connections 512; }
http {
    access_log off;
    default_type application/octet-stream;
    client_max_body_size 0;
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
        listen 127.0.0.1:$port ssl http2;
        sendfile on;
        location /copied/ { alias $www/; sendfile off; }
        location /put/ { dav_methods PUT; }
    }
}
CONF
}

# fetch NAME FILE ARGUMENTS...: of curl
fetch() {
    local name=$1 file=$2
    shift 2
    same "$name" "$www/${file#copied/}" "${get[@]}" "https://localhost:$port/$file" "$@"
    sent=$((sent + $(stat -c %s "$www/${file#copied/}")))
}

# upload NAME ARGUMENTS...
upload() {
    local name=$1
    shift
    "${get[@]}" -T "$work/upload" "https://localhost:$port/put/file" "$@" >/dev/null || { not_ok "$name" 'curl failed'; return; }
    same "$name" "$work/upload" cat "$www/put/file"
    rm -f "$www/put/file"
}

begin() {
    free_port
    configure "$1"
    forget
    sent=0
    start nginx -p "$work" -e "$work/error.log" -c "$work/nginx.conf"
    wait_for_port
}

# end NAME SIGNAL
end() {
    check "$1: ends" stop "$2"
    went_through "$1: all sealed by uktls" tx_bytes "$sent"
    check "$1: nothing broke" [ "$(total errors)" -eq 0 ]
}

# --- every version, cipher and protocol -----------------------------------------------------------

for workers in 1 4; do
    begin "$workers"
    for cipher in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305; do
        fetch "$workers workers, 1.2 $cipher" large --tls-max 1.2 --ciphers "ECDHE-ECDSA-$cipher"
    done
    for cipher in AES_128_GCM_SHA256 AES_256_GCM_SHA384 CHACHA20_POLY1305_SHA256; do
        fetch "$workers workers, 1.3 $cipher" large --tlsv1.3 --tls13-ciphers "TLS_$cipher"
    done
    for version in 1.2 1.3; do
        tls=("--tlsv$version" --tls-max "$version")
        for http in --http1.1 --http2; do
            fetch "$workers workers, $version $http" small "${tls[@]}" "$http"
            fetch "$workers workers, $version $http, copied" copied/large "${tls[@]}" "$http"
            upload "$workers workers, $version $http, upload" "${tls[@]}" "$http"
        done
    done
    end "$workers workers" QUIT
    went_through "$workers workers: 1.2 received by uktls" rx_bytes $((2 * 20000003))
done

# --- readers of every kind, and a reload and a graceful stop meanwhile ------------------------------

# in_background NAME ARGUMENTS...: a download of the large file
in_background() {
    "${get[@]}" "https://localhost:$port/large" -o "$work/$1" "${@:2}" &
    readers+=($!)
}

begin 2
readers=()
in_background slow-1 --limit-rate 12M
in_background slow-2 --limit-rate 12M --http1.1 --tls-max 1.2
sleep 0.5
check 'reload' kill -HUP "$server"
sleep 0.5
fetch 'beside slow readers, after a reload' large
timeout 0.3 curl -sS --cacert "$work/ca.pem" "https://localhost:$port/large" --limit-rate 1M -o /dev/null || true
fetch 'after a reader that vanished' small
in_background slow-3 --limit-rate 20M
sleep 0.5
check 'the graceful stop ends the program' stop QUIT
for reader in "${readers[@]}"; do
    check 'a slow reader is served to its end' wait "$reader"
done
for name in slow-1 slow-2 slow-3; do
    same "$name" "$www/large" cat "$work/$name"
done
went_through 'sealed by uktls' tx_bytes $((4 * 67108861))

summary
