/* Two unwinders. Panics of the Rust code are unwound by the library's own (-static-libgcc). A thread that is cancelled is
 * unwound by libgcc_s.so.1, which the C library opens for it; what that says of a frame (struct _Unwind_Context) only
 * the functions beside it can read, as other versions of libgcc lay it out otherwise. The C functions here, which such a
 * thread may be in, therefore use those. The linker directs their calls here (--wrap). */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unwind.h>

/* What the Rust code throws, "MOZ\0RUST": it is caught before it comes to any frame of C. */
#define PANIC 0x4d4f5a0052555354u

typedef _Unwind_Reason_Code personality(int, _Unwind_Action, _Unwind_Exception_Class, struct _Unwind_Exception *,
                                        struct _Unwind_Context *);
typedef void resume(struct _Unwind_Exception *);

personality __real___gcc_personality_v0, __wrap___gcc_personality_v0;
resume __real__Unwind_Resume, __wrap__Unwind_Resume;

/* A function of libgcc_s.so.1, if that is loaded: without it nobody can be unwinding but ourselves. */
static void *of_shared(const char *name)
{
    void *library = dlopen("libgcc_s.so.1", RTLD_LAZY | RTLD_NOLOAD);
    void *found = library != NULL ? dlsym(library, name) : NULL;

    if (library != NULL)
        dlclose(library);
    return found;
}

_Unwind_Reason_Code __wrap___gcc_personality_v0(int version, _Unwind_Action actions, _Unwind_Exception_Class class,
                                                struct _Unwind_Exception *exception, struct _Unwind_Context *context)
{
    static personality *_Atomic kept;
    personality *shared = atomic_load_explicit(&kept, memory_order_relaxed);

    if (shared == NULL) {
        shared = (personality *)of_shared("__gcc_personality_v0");
        atomic_store_explicit(&kept, shared, memory_order_relaxed);
    }
    if (shared == NULL)
        shared = __real___gcc_personality_v0;
    return shared(version, actions, class, exception, context);
}

/* The end of a frame's clean-up, in C as in Rust. */
void __wrap__Unwind_Resume(struct _Unwind_Exception *exception)
{
    resume *shared = exception->exception_class == PANIC ? NULL : (resume *)of_shared("_Unwind_Resume");

    if (shared != NULL)
        shared(exception);
    __real__Unwind_Resume(exception);
}
