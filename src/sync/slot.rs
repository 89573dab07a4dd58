//! A place for a shared value that is read without a lock.
#![forbid(unsafe_code)]

use std::sync::Arc;

/// An `Arc` or nothing; readers take no lock.
#[derive(Debug)]
pub(crate) struct ArcSlot<T>(Place<T>);

#[cfg(not(loom))]
type Place<T> = arc_swap::ArcSwapOption<T>;
/// loom does not see into `arc_swap`: its own contract, that a load gives one of the values that were stored, is
/// taken for granted.
#[cfg(loom)]
type Place<T> = super::Mutex<Option<Arc<T>>>;

/// What a look into an [`ArcSlot`] has found; kept alive by it.
#[cfg(not(loom))]
pub(crate) type Loaded<T> = arc_swap::Guard<Option<Arc<T>>>;
#[cfg(loom)]
pub(crate) type Loaded<T> = Box<Option<Arc<T>>>;

impl<T> ArcSlot<T> {
    /// An empty one.
    #[cfg(not(loom))]
    pub(crate) const fn empty() -> ArcSlot<T> {
        ArcSlot(Place::const_empty())
    }

    /// As above; loom's types are made while a model runs.
    #[cfg(loom)]
    pub(crate) fn empty() -> ArcSlot<T> {
        ArcSlot(super::Mutex::new(None))
    }

    /// What is there now.
    pub(crate) fn load(&self) -> Loaded<T> {
        #[cfg(not(loom))]
        return self.0.load();
        #[cfg(loom)]
        return Box::new(super::lock(&self.0).clone());
    }

    /// Replaces it.
    pub(crate) fn store(&self, value: Option<Arc<T>>) {
        #[cfg(not(loom))]
        self.0.store(value);
        #[cfg(loom)]
        drop(core::mem::replace(&mut *super::lock(&self.0), value));
    }
}
