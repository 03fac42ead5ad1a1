//! The serde mirror of the YAML. The only file that names the YAML crate.

pub(super) fn schema() -> serde_json::Value {
    todo!()
}
