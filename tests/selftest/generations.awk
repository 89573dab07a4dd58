# Debian's 6.1 has tests of the rekeying that came with 6.14, which call tls_crypto_info_init() with a fourth
# argument that the function there does not have: the generation of the keys. This gives it one. The keys of
# generation 0 are what the function makes; those of another one differ from them.
/^static void tls_crypto_info_init\(/ { inside = 1 }
{ print }
inside && /^}/ {
    inside = 0
    print "static void uktls_crypto_info_init(uint16_t version, uint16_t cipher,"
    print "        struct tls_crypto_info_keys *keys, int generation)"
    print "{"
    print "    tls_crypto_info_init(version, cipher, keys);"
    print "    /* Behind the head, and before the record number. */"
    print "    for (size_t i = 4; i < keys->len - 8; i++)"
    print "        ((unsigned char *)keys)[i] ^= (unsigned char)generation;"
    print "}"
    print "#define tls_crypto_info_init(version, cipher, keys, ...) \\"
    print "    uktls_crypto_info_init(version, cipher, keys, (0, ##__VA_ARGS__))"
}
