#!/usr/bin/env bash
# Clients of a server on OpenSSL and uktls, with and without the library themselves.
# shellcheck source=tests/programs/lib.sh
. "$(dirname "$0")/lib.sh"

export OPENSSL_CONF=$work/openssl.cnf
new_file "$work/file" 20000003
free_port
start python3 tests/programs/server.py ThreadingTCPServer "$port" "$work"
wait_for_port
url=https://localhost:$port/
if command -v javac >/dev/null; then
    cat >"$work/Download.java" <<'JAVA'
public class Download {
    public static void main(String[] arguments) throws Exception {
        try (var in = new java.net.URL(arguments[0]).openStream()) {
            in.transferTo(System.out);
            System.out.flush();
        }
    }
}
JAVA
    keytool -importcert -noprompt -alias ca -file "$work/ca.pem" -keystore "$work/trust.p12" -storepass changeit 2>"$work/keytool.log"
fi

for library in '' with; do
    under=()
    [ -z "$library" ] || under=("${with_uktls[@]}")
    same "wget (GnuTLS) $library" "$work/file" "${under[@]}" wget -q --no-proxy --ca-certificate="$work/ca.pem" -O - "$url"
    if command -v javac >/dev/null; then
        same "Java $library" "$work/file" "${under[@]}" java -Djavax.net.ssl.trustStore="$work/trust.p12" \
            -Djavax.net.ssl.trustStorePassword=changeit "$work/Download.java" "$url"
    fi
    same "curl $library" "$work/file" "${under[@]}" "${get[@]}" "$url"
done

stop INT || true
summary
