//! Finds the SQLSTATE in an ErrorResponse, byte by byte, and in one with 57P01 who says it.

use std::ops::ControlFlow;

use crate::protocol::postgres::Severity;
use crate::protocol::postgres::follow::MAX_ERROR_SCAN_BYTES;
use crate::protocol::postgres::sqlstate::SqlState;

/// `57P03`, `FATAL` and `PANIC`: all that is compared has five bytes.
const MAX_VALUE_BYTES: usize = 5;
/// How `secure_read` and `secure_write` begin: the functions of the server that say 57P01 when
/// the postmaster has died (`be-secure.c`). All others are asked to end their session. The name of
/// the function is never translated, other than the text.
const ORPHANED_FUNCTION: [u8; MAX_VALUE_BYTES] = *b"secur";

/// Where in an error's fields we are.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorScan {
    scanned_bytes: u16,
    /// The type of the current field; 0 between fields.
    field: u8,
    value: [u8; MAX_VALUE_BYTES],
    /// Of the value, even where it is longer than fits.
    value_bytes: u8,
    severity: Severity,
    /// The SQLSTATE was 57P01: who says it comes last.
    is_admin_shutdown: bool,
    is_orphaned: bool,
}

impl ErrorScan {
    pub(super) fn new() -> Self {
        Self {
            scanned_bytes: 0,
            field: 0,
            value: [0; MAX_VALUE_BYTES],
            value_bytes: 0,
            severity: Severity::Error,
            is_admin_shutdown: false,
            is_orphaned: false,
        }
    }

    /// As far as it was seen.
    pub(super) fn severity(&self) -> Severity {
        self.severity
    }

    /// The server process says that its postmaster has died.
    pub(super) fn is_orphaned(&self) -> bool {
        self.is_orphaned
    }

    /// The SQLSTATE when the error ends before anything else was found.
    pub(super) fn sqlstate(&self) -> Option<SqlState> {
        self.is_admin_shutdown.then_some(SqlState::ADMIN_SHUTDOWN)
    }

    /// Breaks with what there is, once the SQLSTATE was found or is not worth looking for.
    pub(super) fn read(&mut self, part: &[u8]) -> ControlFlow<Option<SqlState>> {
        for byte in part {
            self.read_byte(*byte)?;
            self.scanned_bytes += 1;
            if self.scanned_bytes == MAX_ERROR_SCAN_BYTES {
                return ControlFlow::Break(self.sqlstate());
            }
        }
        ControlFlow::Continue(())
    }

    fn read_byte(&mut self, byte: u8) -> ControlFlow<Option<SqlState>> {
        match (self.field, byte) {
            // In place of a field's type: the end of the list.
            (0, 0) => return ControlFlow::Break(self.sqlstate()),
            (0, field) => {
                self.field = field;
                self.value_bytes = 0;
            }
            (field, 0) => {
                let value = self.value.get(..usize::from(self.value_bytes));
                match field {
                    b'C' if !self.is_admin_shutdown => match value.and_then(SqlState::new) {
                        Some(SqlState::ADMIN_SHUTDOWN) => self.is_admin_shutdown = true,
                        other => return ControlFlow::Break(other),
                    },
                    b'R' if self.is_admin_shutdown => {
                        self.is_orphaned = self.value == ORPHANED_FUNCTION;
                        return ControlFlow::Break(self.sqlstate());
                    }
                    b'S' | b'V' => {
                        self.severity = Severity::from_field(value.unwrap_or_default());
                    }
                    _ => {}
                }
                self.field = 0;
            }
            (_, byte) => {
                if let Some(place) = self.value.get_mut(usize::from(self.value_bytes)) {
                    *place = byte;
                }
                self.value_bytes = self.value_bytes.saturating_add(1);
            }
        }
        ControlFlow::Continue(())
    }
}
