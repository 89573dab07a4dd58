//! Ways around the interposed functions.

use std::sync::Once;

use uktls::capi::guard::guard_infallible;

/// `dlopen(3)` was asked for `RTLD_DEEPBIND`, with which the library would call the C library's own
/// functions and send in the clear (design rule 2): it has been taken out.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_deepbind() {
    static ONCE: Once = Once::new();
    guard_infallible((), || {
        ONCE.call_once(|| log::info!("dlopen: RTLD_DEEPBIND is taken out of the flags"));
    });
}

/// The program has asked for a sandbox, or for a narrower one.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_forget_sandbox() {
    uktls::sys::sandbox::forget();
}
