#!/usr/bin/env bash
# lighttpd, downloads and uploads; stunnel in front of a plain server.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

export OPENSSL_CONF=$work/openssl.cnf
mkdir "$work/www"
new_file "$work/www/file" 67108861
new_file "$work/file" 20000003
cat "$work/localhost.key" "$work/localhost.pem" >"$work/both.pem"

# --- lighttpd -------------------------------------------------------------------------------------

cat >"$work/lighttpd.conf" <<'CONF'
server.modules = ("mod_openssl", "mod_webdav")
server.document-root = var.work + "/www"
server.bind = "127.0.0.1"
server.port = env.PORT
server.network-backend = "sendfile"
server.errorlog = var.work + "/lighttpd.log"
server.upload-dirs = (var.work)
webdav.activate = "enable"
ssl.engine = "enable"
ssl.pemfile = var.work + "/both.pem"
ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.2", "Options" => "KTLS")
CONF
free_port
sed -i "1i var.work = \"$work\"" "$work/lighttpd.conf"
sed -i "s/env.PORT/$port/" "$work/lighttpd.conf"
start lighttpd -D -f "$work/lighttpd.conf"
wait_for_port
for version in 1.2 1.3; do
    tls=("--tlsv$version" --tls-max "$version")
    same "lighttpd, TLS $version" "$work/www/file" "${get[@]}" "https://localhost:$port/file" "${tls[@]}"
    check "lighttpd, TLS $version, upload" "${get[@]}" -T "$work/file" "https://localhost:$port/put-$version" "${tls[@]}"
    same "lighttpd, TLS $version, what came" "$work/file" cat "$work/www/put-$version"
done
check 'lighttpd ends' stop INT
went_through 'lighttpd: sealed by uktls' tx_bytes $((2 * 67108861))
went_through 'lighttpd: opened by uktls' rx_bytes 20000003

# --- stunnel, in front of a plain server --------------------------------------------------------------

for version in TLSv1.2 TLSv1.3; do
    forget
    free_port
    plain=$port
    python3 tests/programs/plain.py "$plain" "$work/file" >"$work/plain.log" 2>&1 &
    pids+=($!)
    free_port
    cat >"$work/stunnel.conf" <<CONF
foreground = yes
pid =
[test]
accept = 127.0.0.1:$port
connect = 127.0.0.1:$plain
cert = $work/both.pem
sslVersion = $version
CONF
    start "$(command -v stunnel4 || command -v stunnel)" "$work/stunnel.conf"
    wait_for_port
    same "stunnel, $version" "$work/file" "${get[@]}" "https://localhost:$port/"
    check "stunnel, $version: ends" stop TERM
    went_through "stunnel, $version: sealed by uktls" tx_bytes 20000003
done

# --- mosquitto: a broker, a publisher and a subscriber, all with uktls ------------------------------------

forget
free_port
cat >"$work/mosquitto.conf" <<CONF
listener $port 127.0.0.1
allow_anonymous true
cafile $work/ca.pem
certfile $work/localhost.pem
keyfile $work/localhost.key
CONF
# Does not run as root, and goes over to another user.
[ "$(id -u)" != 0 ] || chmod 644 "$work/localhost.key"
touch "$work/stats" "$work/log"
chmod 666 "$work/stats" "$work/log"
start mosquitto -c "$work/mosquitto.conf"
wait_for_port
to=(-h localhost -p "$port" --cafile "$work/ca.pem" -q 1 -t test)
for version in tlsv1.2 tlsv1.3; do
    "${with_uktls[@]}" mosquitto_sub "${to[@]}" --tls-version "$version" -C 1 -N -W 30 >"$work/came" &
    subscriber=$!
    # Not kept by the broker, so the subscriber has to be there first.
    for i in $(seq 50); do
        sleep 0.1
        "${with_uktls[@]}" mosquitto_pub "${to[@]}" --tls-version "$version" -f "$work/file" || true
        [ ! -s "$work/came" ] || break
    done
    check "mosquitto, $version" wait "$subscriber"
    same "mosquitto, $version: what came" "$work/file" cat "$work/came"
done
stop TERM || true
went_through 'mosquitto: sealed by uktls' tx_bytes $((4 * 20000003))

summary
