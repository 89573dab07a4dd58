/* upload.h: what https-server.c needs to take a file. Nothing here concerns TLS. */
#ifndef EXAMPLE_UPLOAD_H
#define EXAMPLE_UPLOAD_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>

/* A file on its way: under a name of its own until it is whole. */
struct upload {
    int file; /* -1: none */
    off_t left;
    char name[128], part[160];
};

/* The length that a Content-Length header announces, or -1. */
static inline off_t upload_length(const char *value)
{
    size_t digits = value != NULL ? strspn(value, "0123456789") : 0;

    return digits > 0 && digits <= 18 && value[digits] == '\r' ? (off_t)strtoll(value, NULL, 10) : -1;
}

/* Opens a new file for `path`, one name below `root`. False with errno. */
static inline bool upload_open(struct upload *u, int root, const char *path, off_t len)
{
    static unsigned count;

    path += *path == '/';
    if (*path == '\0' || *path == '.' || strchr(path, '/') != NULL || strlen(path) >= sizeof(u->name)) {
        errno = EINVAL;
        return false;
    }
    snprintf(u->name, sizeof(u->name), "%s", path);
    snprintf(u->part, sizeof(u->part), ".upload-%ld-%u", (long)getpid(), count++);
    u->left = len;
    u->file = openat(root, u->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return u->file >= 0;
}

/* Takes what belongs to the file of `len` bytes; returns how many, or -1. */
static inline ssize_t upload_write(struct upload *u, const char *data, size_t len)
{
    size_t done = 0;

    if ((off_t)len > u->left)
        len = (size_t)u->left;
    while (done < len) {
        ssize_t n = write(u->file, data + done, len - done);

        if (n < 0 && errno != EINTR)
            return -1;
        done += n > 0 ? (size_t)n : 0;
    }
    u->left -= (off_t)len;
    return (ssize_t)len;
}

/* Ends an upload: a whole file gets its name, any other is removed. */
static inline bool upload_close(struct upload *u, int root)
{
    bool whole = u->left == 0;

    if (u->file < 0)
        return false;
    whole = close(u->file) == 0 && whole && renameat(root, u->part, root, u->name) == 0;
    if (!whole)
        unlinkat(root, u->part, 0);
    u->file = -1;
    return whole;
}

#endif
