//! Which threads count as a server's: all that start after [`begin`], unless they call [`set_server`].
//! Earlier threads belong to libtest, and allocate when they start to wait.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Constant and without a destructor: reading it allocates nothing.
    static IS_SERVER: Cell<Option<bool>> = const { Cell::new(None) };
}

/// From now on, a thread counts as a server's at its first allocation. The calling thread does not count.
pub fn begin() {
    HAS_BEGUN.store(true, Ordering::SeqCst);
    set_server(false);
}

/// Sets whether the calling thread counts as a server's from now on.
pub fn set_server(is_server: bool) {
    IS_SERVER.set(Some(is_server));
}

/// True if the calling thread counts as a server's. Allocates nothing, so an allocator can call it.
pub fn is_server() -> bool {
    IS_SERVER.get().unwrap_or_else(|| {
        let is_server = HAS_BEGUN.load(Ordering::SeqCst);
        set_server(is_server);
        is_server
    })
}
