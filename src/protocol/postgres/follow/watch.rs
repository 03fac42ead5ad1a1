//! Finds the SQLSTATE in an ErrorResponse, byte by byte.

use std::ops::ControlFlow;

use crate::protocol::postgres::Severity;
use crate::protocol::postgres::follow::MAX_ERROR_SCAN_BYTES;
use crate::protocol::postgres::sqlstate::SqlState;

/// `57P03`, `FATAL` and `PANIC`: all that is compared has five bytes.
const MAX_VALUE_BYTES: usize = 5;

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
}

impl ErrorScan {
    pub(super) fn new() -> Self {
        Self {
            scanned_bytes: 0,
            field: 0,
            value: [0; MAX_VALUE_BYTES],
            value_bytes: 0,
            severity: Severity::Error,
        }
    }

    /// As far as it was seen.
    pub(super) fn severity(&self) -> Severity {
        self.severity
    }

    /// Breaks with what there is, once the SQLSTATE was found or is not worth looking for.
    pub(super) fn read(&mut self, part: &[u8]) -> ControlFlow<Option<SqlState>> {
        for byte in part {
            self.read_byte(*byte)?;
            self.scanned_bytes += 1;
            if self.scanned_bytes == MAX_ERROR_SCAN_BYTES {
                return ControlFlow::Break(None);
            }
        }
        ControlFlow::Continue(())
    }

    fn read_byte(&mut self, byte: u8) -> ControlFlow<Option<SqlState>> {
        match (self.field, byte) {
            // In place of a field's type: the end of the list.
            (0, 0) => return ControlFlow::Break(None),
            (0, field) => {
                self.field = field;
                self.value_bytes = 0;
            }
            (field, 0) => {
                let value = self.value.get(..usize::from(self.value_bytes));
                match field {
                    b'C' => return ControlFlow::Break(value.and_then(SqlState::new)),
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
