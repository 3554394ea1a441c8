//! Which threads count as server threads: every thread that first allocates after [`begin`], unless it
//! calls [`set_server`] with false. Older threads belong to libtest, which allocates when it starts to wait.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Constant and without a destructor: reading it allocates nothing.
    static IS_SERVER: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Threads whose first allocation comes after this call count as server threads. The calling thread does
/// not.
pub fn begin() {
    HAS_BEGUN.store(true, Ordering::SeqCst);
    set_server(false);
}

/// Sets whether this thread counts as a server thread from here on.
pub fn set_server(is_server: bool) {
    IS_SERVER.set(Some(is_server));
}

/// True if this thread counts as a server thread. Does not allocate, so that an allocator can call it.
pub fn is_server() -> bool {
    IS_SERVER.get().unwrap_or_else(|| {
        let is_server = HAS_BEGUN.load(Ordering::SeqCst);
        set_server(is_server);
        is_server
    })
}
