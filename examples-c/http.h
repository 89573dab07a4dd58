/* http.h: what https-server.c needs to understand a request. Nothing here concerns TLS. */
#ifndef EXAMPLE_HTTP_H
#define EXAMPLE_HTTP_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <sys/stat.h>

/* The value of a header, up to its CR, or NULL. `head` ends behind the last header's CRLF. */
static inline const char *http_header(const char *head, const char *name)
{
    size_t len = strlen(name);
    const char *line;

    for (line = strstr(head, "\r\n"); line != NULL && line[2] != '\0'; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, len) == 0 && line[len] == ':') {
            line += len + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

static inline bool http_value_is(const char *value, const char *wanted)
{
    size_t len = strlen(wanted);

    return value != NULL && strncasecmp(value, wanted, len) == 0 && strspn(value + len, " \t\r") > 0;
}

/* Undoes %XX in place and cuts the query off. False if the path is not one. */
static inline bool http_decode_path(char *path)
{
    char *out = path;

    if (*path != '/')
        return false;
    path[strcspn(path, "?#")] = '\0';
    for (; *path != '\0'; path++) {
        char hex[3];

        *out = *path;
        if (*path == '%') {
            if (strspn(path + 1, "0123456789abcdefABCDEF") < 2)
                return false;
            hex[0] = *++path;
            hex[1] = *++path;
            hex[2] = '\0';
            *out = (char)strtol(hex, NULL, 16);
            if (*out == '\0')
                return false;
        }
        out++;
    }
    *out = '\0';
    return true;
}

/* Opens a regular file below the directory `root`, or returns -1. Goes down name by name and follows no symbolic link,
 * so nothing outside the root can be reached, whatever others rename meanwhile. */
static inline int http_open_below(int root, char *path, struct stat *status)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int dir = root, fd = -1;
    char *save = NULL, *name = strtok_r(path, "/", &save), *following;

    if (name == NULL)
        name = "index.html";
    for (; name != NULL; name = following) {
        following = strtok_r(NULL, "/", &save);
        fd = -1;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
            fd = openat(dir, name, flags | (following != NULL ? O_DIRECTORY : 0));
        if (dir != root)
            close(dir);
        if (fd < 0)
            return -1;
        dir = fd;
    }
    if (fstat(fd, status) == 0 && S_ISREG(status->st_mode))
        return fd;
    close(fd);
    return -1;
}

/* 0: serve the whole file; 1: *first to *last; -1: none of the file is in the range. */
static inline int http_parse_range(const char *value, off_t size, off_t *first, off_t *last)
{
    const char *digits = "0123456789";
    size_t before, after;
    const char *dash;

    if (value == NULL || strncasecmp(value, "bytes=", 6) != 0)
        return 0;
    value += 6;
    before = strspn(value, digits);
    dash = value + before;
    if (*dash != '-' || before > 18)
        return 0;
    after = strspn(dash + 1, digits);
    /* Several ranges would need a multipart answer; a server may ignore them. */
    if (dash[1 + after] != '\r' || after > 18 || before + after == 0)
        return 0;

    *first = (off_t)strtoll(value, NULL, 10);
    *last = after ? (off_t)strtoll(dash + 1, NULL, 10) : size - 1;
    if (before == 0) {
        if (*last == 0 || size == 0)
            return -1;
        *first = *last < size ? size - *last : 0;
        *last = size - 1;
    } else if (after && *last < *first) {
        return 0;
    }
    if (*first >= size)
        return -1;
    if (*last >= size)
        *last = size - 1;
    return 1;
}

#endif
