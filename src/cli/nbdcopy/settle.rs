//! Connections, threads and sizes, once both ends are known. Pure; nbdcopy(1) has the rules.

use super::options::Options;

/// Largest request, in bytes, whatever an end prefers.
const MAX_REQUEST_SIZE: u32 = 32 << 20;

/// What counts of one end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// Whether it takes several connections. Local files do; a child server does not.
    pub(super) multi_conn: bool,
    /// The request size that it likes best, in bytes; a power of two.
    pub(super) preferred: u32,
    /// Whether it can only be read or written from its start to its end.
    pub(super) stream: bool,
}

/// How a copy is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Settled {
    /// Connections, and as many threads.
    pub(super) connections: u32,
    /// Bytes of one request.
    pub(super) request_size: u32,
    /// Bytes in flight per connection.
    pub(super) queue_size: u32,
    /// Granularity of zero detection in bytes; 0 detects none.
    pub(super) sparse: u32,
    /// One request at a time.
    pub(super) synchronous: bool,
}

/// How a copy from `source` to `target` is done on a machine with `cores`.
pub(super) fn settle(options: &Options, source: Side, target: Side, cores: u32) -> Settled {
    let synchronous = options.synchronous || source.stream || target.stream;
    let several = source.multi_conn && target.multi_conn && !synchronous;
    let threads = match options.threads {
        0 => cores.max(1),
        threads => threads,
    };
    let request_size = options
        .request_size
        .max(source.preferred)
        .max(target.preferred)
        .min(MAX_REQUEST_SIZE);
    let sparse = match options.sparse {
        0 => 0,
        _ if options.allocated => 0,
        sparse => sparse.max(target.preferred),
    };
    Settled {
        connections: if several {
            options.connections.min(threads)
        } else {
            1
        },
        request_size,
        queue_size: options.queue_size.max(request_size),
        sparse,
        synchronous,
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, Settled, Side, settle};

    const NBD: Side = Side {
        multi_conn: true,
        preferred: 4096,
        stream: false,
    };

    fn default() -> Settled {
        settle(&Options::default(), NBD, NBD, 8)
    }

    #[test]
    fn the_defaults_are_four_connections_where_there_are_cores_for_them() {
        assert_eq!(
            default(),
            Settled {
                connections: 4,
                request_size: 262144,
                queue_size: 16 << 20,
                sparse: 4096,
                synchronous: false,
            }
        );
        let connections = |options: &Options, cores| settle(options, NBD, NBD, cores).connections;
        assert_eq!(connections(&Options::default(), 2), 2);
        let threads = Options {
            threads: 8,
            connections: 6,
            ..Options::default()
        };
        assert_eq!(connections(&threads, 2), 6);
    }

    #[test]
    fn one_connection_where_either_end_takes_only_one_or_only_a_stream() {
        let single = Side {
            multi_conn: false,
            ..NBD
        };
        let stream = Side {
            stream: true,
            ..NBD
        };
        let options = Options::default();
        assert_eq!(settle(&options, single, NBD, 8).connections, 1);
        assert_eq!(settle(&options, NBD, single, 8).connections, 1);
        assert!(!settle(&options, NBD, single, 8).synchronous);
        let piped = settle(&options, NBD, stream, 8);
        assert_eq!((piped.connections, piped.synchronous), (1, true));
    }

    #[test]
    fn sizes_grow_to_what_the_ends_prefer_and_no_further_than_a_request_may() {
        let large = Side {
            preferred: 1 << 20,
            ..NBD
        };
        let options = Options {
            queue_size: 1000,
            ..Options::default()
        };
        let settled = settle(&options, NBD, large, 8);
        assert_eq!((settled.request_size, settled.sparse), (1 << 20, 1 << 20));
        assert_eq!(settled.queue_size, 1 << 20);
        let settled = settle(&options, large, NBD, 8);
        assert_eq!((settled.request_size, settled.sparse), (1 << 20, 4096));
        let huge = Side {
            preferred: 64 << 20,
            ..NBD
        };
        assert_eq!(settle(&options, huge, NBD, 8).request_size, 32 << 20);
    }

    #[test]
    fn zeroes_are_not_looked_for_if_space_is_to_stay_allocated() {
        let options = Options {
            allocated: true,
            ..Options::default()
        };
        assert_eq!(settle(&options, NBD, NBD, 8).sparse, 0);
    }
}
