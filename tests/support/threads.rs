//! Which threads may be a server's: all that begin after the test, unless they say that they are not.
//! Those that were there before are the test harness's, and allocate when they begin to wait.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Constant and without a destructor: reading it allocates nothing.
    static IS_SERVER: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Threads whose first allocation is after this are a server's. The caller's own is none yet.
pub fn begin() {
    HAS_BEGUN.store(true, Ordering::SeqCst);
    set_server(false);
}

/// Says whether what this thread does from here on is a server's work.
pub fn set_server(is_server: bool) {
    IS_SERVER.set(Some(is_server));
}

/// Whether what this thread does is. For an allocator: it allocates nothing.
pub fn is_server() -> bool {
    IS_SERVER.get().unwrap_or_else(|| {
        let is_server = HAS_BEGUN.load(Ordering::SeqCst);
        set_server(is_server);
        is_server
    })
}
