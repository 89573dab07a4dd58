# Sourced. Certificates of a test: a CA and a server's, in the directory $work.

# new_key_and_certificate NAME SUBJECT OPTIONS...
new_key_and_certificate() {
    local name=$1 subject=$2
    shift 2
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$subject" \
        -keyout "$work/$name.key" -out "$work/$name.pem" "$@" 2>"$work/req.log" || { cat "$work/req.log" >&2; exit 1; }
}

# ca.pem, localhost.pem and localhost.key
new_certificates() {
    new_key_and_certificate ca 'uktls test CA'
    new_key_and_certificate localhost localhost -CA "$work/ca.pem" -CAkey "$work/ca.key" \
        -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,IP:127.0.0.1
}
