/* Asynchronous I/O of the C library: its threads read and write by hidden names, so a request for a TLS
 * socket would go around the keys. It is refused (design rule 2), as are all of a list with one. Where one has been
 * queued, nobody can see when it is over: the number becomes no TLS socket's until it is closed. */
#include <aio.h>

#include "interpose.h"

_Atomic uint8_t uktls_queued[MARKS / 8];

static void note_queued(int fd)
{
    if ((unsigned)fd < MARKS)
        atomic_fetch_or(&uktls_queued[fd / 8], (uint8_t)(1 << fd % 8));
}

bool uktls_is_queued(int fd);
bool uktls_is_queued(int fd)
{
    return is_queued(fd);
}

/* Whoever makes a number a TLS socket's waits until the request is noted. */
#define QUEUEING struct noted call __attribute__((cleanup(uktls_end_note))) = uktls_note_all()

static bool is_refused(int fd)
{
    return UNLIKELY(mark_of(fd) & (SLOW_IN | SLOW_OUT));
}

static int refuse(void)
{
    errno = EOPNOTSUPP;
    return -1;
}

int aio_write(struct aiocb *request)
{
    QUEUEING;

    if (is_refused(request->aio_fildes))
        return refuse();
    note_queued(request->aio_fildes);
    return NEXT(aio_write)(request);
}

int aio_write64(struct aiocb64 *request)
{
    QUEUEING;

    if (is_refused(request->aio_fildes))
        return refuse();
    note_queued(request->aio_fildes);
    return NEXT(aio_write64)(request);
}

int aio_read(struct aiocb *request)
{
    return is_refused(request->aio_fildes) ? refuse() : NEXT(aio_read)(request);
}

int aio_read64(struct aiocb64 *request)
{
    return is_refused(request->aio_fildes) ? refuse() : NEXT(aio_read64)(request);
}

int lio_listio(int mode, struct aiocb *const list[], int n, struct sigevent *event)
{
    QUEUEING;

    for (int i = 0; i < n; i++)
        if (list[i] != NULL && is_refused(list[i]->aio_fildes))
            return refuse();
    for (int i = 0; i < n; i++)
        if (list[i] != NULL)
            note_queued(list[i]->aio_fildes);
    return NEXT(lio_listio)(mode, list, n, event);
}

int lio_listio64(int mode, struct aiocb64 *const list[], int n, struct sigevent *event)
{
    QUEUEING;

    for (int i = 0; i < n; i++)
        if (list[i] != NULL && is_refused(list[i]->aio_fildes))
            return refuse();
    for (int i = 0; i < n; i++)
        if (list[i] != NULL)
            note_queued(list[i]->aio_fildes);
    return NEXT(lio_listio64)(mode, list, n, event);
}
