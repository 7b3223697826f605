//! `HOST`, `HOST:PORT`, `[IPv6]`, `[IPv6]:PORT`: where a server is, read and written. Pure.

/// Host (IPv6 without brackets) and port; `None` if the text is no such thing.
#[must_use]
pub fn parse(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => match text.find(':') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        },
    };
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None if port.is_empty() => None,
        None => return None,
    };
    let sound = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '@');
    sound.then_some((host, port))
}

/// As [`parse`] takes it.
#[must_use]
pub fn show(host: &str, port: Option<u16>) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn what_is_shown_is_what_was_read() {
        for (text, host, port) in [
            ("h", "h", None),
            ("h.example:8443", "h.example", Some(8443)),
            ("[fe80::1]", "fe80::1", None),
            ("[::1]:443", "::1", Some(443)),
        ] {
            assert_eq!(parse(text), Some((host, port)));
            assert_eq!(show(host, port), text);
        }
    }

    #[test]
    fn what_is_no_place_of_a_server_is_refused() {
        for text in [
            "", ":1", "[]", "[::1", "[::1]x", "h:", "h:0", "h:x", "h:65536", "h:1:2", "a b", "u@h",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
