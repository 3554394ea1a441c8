//! How long a test waits.

/// The longest wait for one condition. A busy machine does not reach it.
pub const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);
