//! A library in Rust that panics and catches it, linked by cc as those of the project are.

struct Dropped<'a>(&'a mut i32);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        *self.0 += 1;
    }
}

/// 2, if a panic passed a frame that had something to drop and was caught.
#[unsafe(no_mangle)]
pub extern "C" fn panic_and_catch() -> i32 {
    std::panic::set_hook(Box::new(|_| {}));
    let mut seen = 0;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _dropped = Dropped(&mut seen);
        panic!("as meant");
    }));
    seen + i32::from(caught.is_err())
}
