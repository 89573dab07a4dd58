/* Asynchronous I/O of the C library: its threads read and write by hidden names, so a request for a TLS
 * socket would go around the keys. It is refused (design rule 2), as are all of a list with one. */
#include <aio.h>

#include "interpose.h"

static int refuse(void)
{
    errno = EOPNOTSUPP;
    return -1;
}

int aio_write(struct aiocb *request)
{
    return is_tls(request->aio_fildes) ? refuse() : NEXT(aio_write)(request);
}

int aio_write64(struct aiocb64 *request)
{
    return is_tls(request->aio_fildes) ? refuse() : NEXT(aio_write64)(request);
}

int aio_read(struct aiocb *request)
{
    return is_tls(request->aio_fildes) ? refuse() : NEXT(aio_read)(request);
}

int aio_read64(struct aiocb64 *request)
{
    return is_tls(request->aio_fildes) ? refuse() : NEXT(aio_read64)(request);
}

int lio_listio(int mode, struct aiocb *const list[], int n, struct sigevent *event)
{
    for (int i = 0; i < n; i++)
        if (list[i] != NULL && is_tls(list[i]->aio_fildes))
            return refuse();
    return NEXT(lio_listio)(mode, list, n, event);
}

int lio_listio64(int mode, struct aiocb64 *const list[], int n, struct sigevent *event)
{
    for (int i = 0; i < n; i++)
        if (list[i] != NULL && is_tls(list[i]->aio_fildes))
            return refuse();
    return NEXT(lio_listio64)(mode, list, n, event);
}
