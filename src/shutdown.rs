//! How far the process is: starting, serving or draining.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

/// What the whole process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The first table is not published yet.
    Starting,
    Serving,
    /// A signal asked for the end; old sessions may finish.
    Draining,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// The stage as everyone sees it. Cheap to clone; starts at `Starting`.
#[derive(Debug, Clone, Default)]
pub struct SharedStage(Arc<AtomicU8>);

impl SharedStage {
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Release);
    }

    pub fn get(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            _ => Stage::Draining,
        }
    }
}
