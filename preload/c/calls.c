/* Calls under way: the slots of threads, and what a call by a marked number does. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "streams.h"

__thread struct uktls_slot *uktls_slot __attribute__((tls_model("initial-exec")));

struct uktls_slot *uktls_own_slot(void);
struct uktls_slot *uktls_own_slot(void)
{
    return uktls_slot;
}

static pthread_key_t at_end;
static bool has_key;

static void give_slot(void *slot)
{
    uktls_slot = NULL;
    uktls_preload_give_slot(slot);
}

void uktls_give_slots(void)
{
    has_key = pthread_key_create(&at_end, give_slot) == 0;
}

static struct uktls_slot *slot_of_thread(void)
{
    struct uktls_slot *slot = uktls_slot;

    if (slot != NULL || !has_key)
        return slot;
    slot = uktls_preload_take_slot();
    if (slot == NULL)
        return NULL;
    /* A handler of a signal that came before may have been here first: then this one is lost to the thread's end. */
    if (uktls_slot != NULL) {
        uktls_preload_give_slot(slot);
        return uktls_slot;
    }
    uktls_slot = slot;
    pthread_setspecific(at_end, slot);
    return slot;
}

/* Takes the notes of calls off that a siglongjmp has left: on the stack that this call is on, their frames lie deeper
 * than its own. The stack of signal handlers is another one, from which nothing can be said of the thread's. */
static void drop_left_calls(struct uktls_slot *slot, char *frame)
{
    stack_t other = {.ss_flags = SS_DISABLE};
    char *begin, *end;

    sigaltstack(NULL, &other);
    begin = other.ss_flags & SS_DISABLE ? NULL : other.ss_sp;
    end = begin == NULL ? NULL : begin + other.ss_size;
    for (unsigned at = 0; at < CALLS; at++) {
        char *left = atomic_load_explicit(&slot->frames[at], memory_order_relaxed);
        bool was_there = left >= begin && left < end, is_there = frame >= begin && frame < end;

        if (was_there == is_there ? left < frame : was_there)
            atomic_store_explicit(&slot->numbers[at], 0, memory_order_release);
    }
}

static unsigned free_note(struct uktls_slot *slot)
{
    for (unsigned at = 0; at < CALLS; at++)
        if (atomic_load_explicit(&slot->numbers[at], memory_order_relaxed) == 0)
            return at;
    return CALLS;
}

void uktls_note_call(struct noted *call, int fd)
{
    struct uktls_slot *slot = slot_of_thread();
    char *frame = __builtin_frame_address(0);

    *call = (struct noted){.cell = NO_CELL, .way = WAY_PLAIN};
    if (slot != NULL && atomic_load_explicit(&slot->numbers[0], memory_order_relaxed) != 0)
        drop_left_calls(slot, frame);
    call->at = slot == NULL ? CALLS : free_note(slot);
    if (call->at < CALLS) {
        call->slot = slot;
        put_note(slot, call->at, fd);
    } else {
        uktls_preload_unnoted(1);
    }
    /* A slot that has just been taken may not be seen by a thread that finds itself alone, and so makes no barrier. */
    atomic_thread_fence(memory_order_seq_cst);
}

void uktls_end_note(struct noted *call)
{
    if (call->slot != NULL)
        atomic_store_explicit(&call->slot->numbers[call->at], 0, memory_order_release);
    else if (call->at == CALLS)
        uktls_preload_unnoted(-1);
    call->slot = NULL;
    call->at = 0;
}

struct noted uktls_note_all(void)
{
    uktls_preload_unnoted(1);
    atomic_thread_fence(memory_order_seq_cst);
    return (struct noted){.at = CALLS, .cell = NO_CELL};
}

static void end_watched(struct noted *call)
{
    int saved = errno;

    if (call->cell != NO_CELL)
        uktls_preload_unwatch(call->cell);
    errno = saved;
    call->cell = NO_CELL;
}

void uktls_end_call(struct noted *call)
{
    end_watched(call);
    uktls_end_note(call);
}

/* With the call noted if it writes. */
static void find_way(struct noted *call, int fd, bool writes)
{
    int saved = errno;

    for (;;) {
        uint8_t mark = mark_of(fd);
        int way;

        if (!(mark & (writes ? SLOW_OUT : SLOW_IN))) {
            call->way = WAY_PLAIN;
            errno = saved;
            return;
        }
        if (mark & MARK_WATCHED && !(mark & (MARK_BUSY | MARK_TX | MARK_REFUSED))) {
            int cell = uktls_preload_watch(fd);

            if (cell != -1) {
                /* A socket without keys that is one of ours by its ULP only. */
                call->way = !writes && mark & MARK_TLS ? WAY_SERVED : WAY_WATCHED;
                call->cell = cell;
                if (!writes)
                    /* A read that sleeps keeps nobody from setting keys. */
                    end_watched(call);
                errno = saved;
                return;
            }
            continue;
        }
        uktls_end_note(call);
        way = uktls_preload_way(fd, writes);
        if (way == WAY_SERVED && UNLIKELY(uktls_vfork_changed) && !uktls_preload_is_here(fd)) {
            call->way = WAY_PLAIN;
            errno = saved;
            return;
        }
        call->way = way < 0 ? WAY_FAILED : (uint8_t)way;
        if (way == WAY_REFUSED)
            errno = EIO;
        if (way != WAY_PLAIN && way != WAY_WATCHED) {
            if (way == WAY_SERVED)
                errno = saved;
            return;
        }
        if (writes)
            /* The number may be changed again by now. */
            uktls_note_call(call, fd);
    }
}

void uktls_begin_out(struct noted *call, int fd)
{
    uktls_note_call(call, fd);
    find_way(call, fd, true);
}

void uktls_begin_in(struct noted *call, int fd)
{
    *call = (struct noted){.cell = NO_CELL, .way = WAY_PLAIN};
    find_way(call, fd, false);
}

/* For uktls::sys::streams: 0 or an errno. */
int uktls_leave_number(int fd, bool is_tls);
int uktls_leave_number(int fd, bool is_tls)
{
    if (is_tls && fd == STDERR_FILENO)
        /* The C library writes there by itself: assert's, malloc's and the stack protector's messages. */
        return EOPNOTSUPP;
    return uktls_streams_leave(fd) == 0 ? 0 : errno;
}
