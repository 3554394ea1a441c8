//! Where to listen, as a value and as text. Knows no socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen.
///
/// Parses from `127.0.0.1:10248`, `[::1]:10248`, `localhost:10248` and `unix:/run/healthz.sock`. A path that
/// begins with `@` is refused: elsewhere that means an abstract socket (unix(7)), which any process of the
/// network namespace can connect to. `unix:./@x` is a file of that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Both loopback addresses, because a client of `localhost` may use either.
    Localhost(u16),
    /// One address.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
}

impl Address {
    /// The kubelet's health port on both loopback addresses.
    pub const DEFAULT: Address = Address::Localhost(10248);
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() || path.starts_with('@') {
                Err(AddressError)
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return port
                .parse()
                .map(Address::Localhost)
                .map_err(|_| AddressError);
        }
        text.parse().map(Address::Tcp).map_err(|_| AddressError)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Localhost(port) => write!(f, "localhost:{port}"),
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressError;

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an address such as 127.0.0.1:10248, [::1]:10248, localhost:10248 or unix:/run/healthz.sock")
    }
}

impl core::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn each_example_in_the_error_text_is_an_address() {
        let text = AddressError.to_string();
        let examples = text.strip_prefix("expected an address such as ").unwrap();
        let examples = examples.replace(" or ", ", ");
        let kinds: std::vec::Vec<_> = examples.split(", ").map(str::parse::<Address>).collect();
        assert_eq!(kinds.len(), 4);
        assert!(kinds.iter().all(Result::is_ok), "{kinds:?}");
    }

    #[test]
    fn addresses_read_back_as_written() {
        for text in [
            "127.0.0.1:10248",
            "[::1]:10248",
            "localhost:0",
            "unix:/run/h.sock",
            "unix:./@h",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10248",
            "127.0.0.1",
            "localhost",
            "localhost:x",
            "unix:",
            // Regression: it made a file of this name.
            "unix:@h",
            "::1:10248",
            "example.com:80",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }
}
