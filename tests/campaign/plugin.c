/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A plugin that is opened with RTLD_DEEPBIND: it finds the C library's write before the preload library's. */
#include <unistd.h>

ssize_t campaign_plugin_write(int fd, const void *data, size_t len);
ssize_t campaign_plugin_write(int fd, const void *data, size_t len)
{
    return write(fd, data, len);
}
