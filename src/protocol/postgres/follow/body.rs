//! The few bodies that are looked into, as they pass.

use std::ops::ControlFlow;

use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::follow::Activity;
use crate::protocol::postgres::follow::Event;
use crate::protocol::postgres::follow::FollowError;
use crate::protocol::postgres::follow::Position;
use crate::protocol::postgres::follow::ServerFollower;
use crate::protocol::postgres::follow::Watch;

impl ServerFollower {
    /// Reads what there is of a body. Returns how many bytes.
    pub(super) fn read_body(
        &mut self,
        bytes: &mut [u8],
        on_event: &mut impl FnMut(Event),
    ) -> Result<usize, FollowError> {
        let Position::Body { remaining, watch } = self.position else {
            return Ok(0);
        };
        let count = bytes.len().min(remaining as usize);
        let watch = self.look(watch, &mut bytes[..count], on_event)?;
        // At most `remaining`.
        let remaining = remaining - count as u32;
        self.position = Position::Body { remaining, watch };
        if remaining == 0 {
            self.end_body(watch, on_event);
        }
        Ok(count)
    }

    /// Looks at a part of a body; returns what to look for in the rest.
    fn look(
        &mut self,
        watch: Watch,
        part: &mut [u8],
        on_event: &mut impl FnMut(Event),
    ) -> Result<Watch, FollowError> {
        match watch {
            Watch::Nothing => Ok(Watch::Nothing),
            Watch::Ready => {
                for byte in part {
                    self.ready(*byte, on_event)?;
                }
                Ok(Watch::Nothing)
            }
            Watch::Authentication { kind, missing } => {
                let count = part.len().min(usize::from(missing));
                let kind = part[..count]
                    .iter()
                    .fold(kind, |kind, byte| kind << 8 | u32::from(*byte));
                let missing = missing - count as u8;
                if missing > 0 {
                    return Ok(Watch::Authentication { kind, missing });
                }
                if kind == 0 {
                    on_event(Event::AuthenticationOk);
                }
                Ok(Watch::Nothing)
            }
            Watch::Error(mut scan) => Ok(match scan.read(part) {
                ControlFlow::Continue(()) => Watch::Error(scan),
                ControlFlow::Break(sqlstate) => {
                    on_event(Event::Error {
                        severity: scan.severity(),
                        sqlstate,
                        is_orphaned: scan.is_orphaned(),
                    });
                    Watch::Nothing
                }
            }),
            Watch::Key => {
                if let Some(keys) = &mut self.keys {
                    keys.overwrite(part);
                }
                Ok(Watch::Key)
            }
        }
    }

    fn ready(&mut self, status: u8, on_event: &mut impl FnMut(Event)) -> Result<(), FollowError> {
        let Some(status) = TransactionStatus::from_byte(status) else {
            return Err(FollowError::TransactionStatus(status));
        };
        self.status = Some(status);
        self.activity = Activity::Waiting;
        self.keys = None;
        on_event(Event::ReadyForQuery(status));
        Ok(())
    }

    /// The body is over, whatever was still looked for.
    pub(super) fn end_body(&mut self, watch: Watch, on_event: &mut impl FnMut(Event)) {
        self.position = Position::START;
        match watch {
            Watch::Error(scan) => on_event(Event::Error {
                severity: scan.severity(),
                sqlstate: scan.sqlstate(),
                is_orphaned: false,
            }),
            Watch::Key => {
                if let Some((issued, backend)) = self.keys.as_mut().and_then(|keys| keys.finish()) {
                    on_event(Event::CancelKey { issued, backend });
                }
            }
            Watch::Nothing | Watch::Ready | Watch::Authentication { .. } => {}
        }
    }
}
