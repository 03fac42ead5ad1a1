//! Why a configuration is not in force, and how that is told.

use std::io;
use std::path::PathBuf;

use crate::config::Diagnostic;
use crate::config::Diagnostics;
use crate::config::Place;
use crate::config::Severity;
use crate::control::CommandError;
use crate::control::StateError;
use crate::proxy::BindError;

/// Why a configuration is not in force. Displays as the full report.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Config(#[from] Diagnostics),
    #[error("{problems}")]
    Tls {
        problems: Diagnostics,
        files: Vec<PathBuf>,
    },
    #[error("{}", lines(.0))]
    Bind(Vec<BindError>),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Control(#[from] CommandError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ApplyError {
    /// The files to mend: whoever watches must look at them too, new as they may be.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Config(problems) => {
                let places = problems.0.iter().map(|problem| &problem.place);
                places.map(|place| place.file.clone()).collect()
            }
            Self::Tls { files, .. } => files.clone(),
            Self::Bind(_) | Self::State(_) | Self::Control(_) | Self::Io(_) => Vec::new(),
        }
    }
}

/// One line of the log for each thing that is wrong; returns how many errors that are.
pub fn log_causes(error: &ApplyError) -> usize {
    match error {
        ApplyError::Config(problems) => {
            problems.0.iter().for_each(log_problem);
            problems.errors()
        }
        ApplyError::Tls { problems, .. } => {
            problems.0.iter().for_each(log_problem);
            problems.errors()
        }
        ApplyError::Bind(errors) => {
            for BindError {
                listener,
                address,
                error,
            } in errors
            {
                tracing::error!(%listener, bind = %address, %error, "listener cannot bind");
            }
            errors.len()
        }
        ApplyError::State(_) | ApplyError::Control(_) | ApplyError::Io(_) => {
            tracing::error!("{error}");
            1
        }
    }
}

/// One problem of a file as one line, with its place in fields; `evergate check` draws it.
pub fn log_problem(problem: &Diagnostic) {
    let Place {
        file, line, column, ..
    } = &problem.place;
    let file = file.display();
    // Without a place in the file there is no number to show.
    let (line, column) = (
        (*line > 0).then_some(*line),
        (*column > 0).then_some(*column),
    );
    let help = problem.help.as_deref();
    let related = problem.related.as_ref().map(|(label, place)| {
        let (file, line, column) = (place.file.display(), place.line, place.column);
        format!("{label}: {file}:{line}:{column}")
    });
    let message = &problem.message;
    match problem.severity {
        Severity::Error => tracing::error!(%file, line, column, help, related, "{message}"),
        Severity::Warning => tracing::warn!(%file, line, column, help, related, "{message}"),
    }
}

fn lines<T: std::fmt::Display>(errors: &[T]) -> String {
    let lines: Vec<_> = errors
        .iter()
        .map(|error| format!("error: {error}"))
        .collect();
    lines.join("\n")
}
