//! Capability flags of the handshake and status flags of OK and EOF packets.

use std::ops::BitAnd;
use std::ops::BitOr;

/// What one side can do. The upper 32 bits are MariaDB's own flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// MySQL's CLIENT_LONG_PASSWORD; MariaDB calls the bit CLIENT_MYSQL and clears it
    /// where its own flags follow.
    pub const LONG_PASSWORD: Self = Self(1);
    pub const LONG_FLAG: Self = Self(1 << 2);
    pub const CONNECT_WITH_DB: Self = Self(1 << 3);
    pub const COMPRESS: Self = Self(1 << 5);
    pub const LOCAL_FILES: Self = Self(1 << 7);
    pub const PROTOCOL_41: Self = Self(1 << 9);
    pub const SSL: Self = Self(1 << 11);
    pub const TRANSACTIONS: Self = Self(1 << 13);
    pub const SECURE_CONNECTION: Self = Self(1 << 15);
    pub const MULTI_STATEMENTS: Self = Self(1 << 16);
    pub const MULTI_RESULTS: Self = Self(1 << 17);
    pub const PS_MULTI_RESULTS: Self = Self(1 << 18);
    pub const PLUGIN_AUTH: Self = Self(1 << 19);
    pub const CONNECT_ATTRS: Self = Self(1 << 20);
    pub const PLUGIN_AUTH_LENENC_DATA: Self = Self(1 << 21);
    pub const SESSION_TRACK: Self = Self(1 << 23);
    pub const DEPRECATE_EOF: Self = Self(1 << 24);
    pub const OPTIONAL_RESULTSET_METADATA: Self = Self(1 << 25);
    pub const ZSTD_COMPRESSION: Self = Self(1 << 26);
    pub const QUERY_ATTRIBUTES: Self = Self(1 << 27);
    pub const MULTI_FACTOR_AUTHENTICATION: Self = Self(1 << 28);
    pub const MARIADB_PROGRESS: Self = Self(1 << 32);
    pub const MARIADB_CACHE_METADATA: Self = Self(1 << 36);

    /// All of `flags` are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }

    /// MariaDB's flags are sent in bytes that MySQL leaves zero.
    pub(super) const fn has_mariadb_flags(self) -> bool {
        !self.has(Self::LONG_PASSWORD)
    }

    pub(super) const fn mariadb_flags(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn with_mariadb_flags(self, flags: u32) -> Self {
        Self(self.0 | (flags as u64) << 32)
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Capabilities {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Status flags of a session, as the server last told them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    pub const IN_TRANSACTION: Self = Self(1);
    pub const AUTOCOMMIT: Self = Self(1 << 1);
    pub const MORE_RESULTS: Self = Self(1 << 3);
    pub const CURSOR_EXISTS: Self = Self(1 << 6);
    pub const LAST_ROW_SENT: Self = Self(1 << 7);
    pub const IN_READ_ONLY_TRANSACTION: Self = Self(1 << 13);

    /// All of `flags` are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}
