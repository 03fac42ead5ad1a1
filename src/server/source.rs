//! Where the configuration comes from, and what can be known of it before anything is bound.

use std::path::Path;
use std::path::PathBuf;

use crate::config;
use crate::config::Diagnostics;
use crate::config::Loaded;
use crate::server::problems::ApplyError;
use crate::tls::TlsError;
use crate::tls::TlsMaterial;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    /// Text made by this process, under a name for its messages.
    Text {
        name: PathBuf,
        text: String,
    },
}

/// A configuration that is valid as far as files go; nothing is bound yet.
#[derive(Debug)]
pub struct Prepared {
    pub loaded: Loaded,
    pub(super) tls: TlsMaterial,
}

impl Source {
    /// The name used in messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Text { name, .. } => name,
        }
    }

    /// Reads and checks everything that can be checked without binding.
    ///
    /// # Errors
    /// All that is wrong with the files.
    pub fn prepare(&self, previous: &TlsMaterial) -> Result<Prepared, ApplyError> {
        let loaded = match self {
            Self::File(path) => config::load(path)?,
            Self::Text { name, text } => config::load_text(name, text)?,
        };
        let tls = TlsMaterial::reload(&loaded.config, previous)
            .map_err(|errors| tls_problems(self.path(), &loaded, &errors))?;
        Ok(Prepared { loaded, tls })
    }
}

/// What is wrong with certificates and keys, each at the key that names the file.
fn tls_problems(source: &Path, loaded: &Loaded, errors: &[TlsError]) -> ApplyError {
    let files: Vec<PathBuf> = errors.iter().filter_map(TlsError::path).collect();
    let problems = errors.iter().map(|error| {
        let path = error.path().unwrap_or_else(|| source.to_owned());
        loaded.problem_with(&path, error.to_string())
    });
    ApplyError::Tls {
        problems: Diagnostics(problems.collect()),
        files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report that was its own source came twice.
    #[test]
    fn what_is_wrong_is_reported_once() {
        let source = Source::Text {
            name: PathBuf::from("wrong.yaml"),
            text: "version: 2\n".to_owned(),
        };
        let wrong = source.prepare(&TlsMaterial::default()).unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(wrong));
        assert_eq!(text.matches("wrong.yaml:1:10").count(), 1, "{text}");
    }
}
