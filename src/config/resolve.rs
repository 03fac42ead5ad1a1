//! The mirror to a [`Config`]: defaults, references, limits.

use std::path::Path;

use crate::config::Diagnostics;
use crate::config::Loaded;

pub(super) fn load(_path: &Path) -> Result<Loaded, Diagnostics> {
    todo!()
}
