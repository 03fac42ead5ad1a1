//! The operator's decision who is primary.

use tracing::info;

use crate::cluster::Cause;
use crate::cluster::Role;
use crate::control::CommandError;
use crate::control::backend::Moment;
use crate::control::core::Core;

impl Core {
    /// Decides for this backend, whatever speaks against it. It has to say that it is a primary
    /// already: nothing here promotes anybody.
    ///
    /// # Errors
    /// There is no such cluster or backend, it cannot be the primary, or somebody who knows
    /// better names another.
    pub fn appoint(
        &mut self,
        cluster: &str,
        backend: &str,
        now: Moment,
    ) -> Result<(), CommandError> {
        let (state, position) = self.named(cluster, backend)?;
        if !state.tells_roles() {
            let kind = "the health check of this cluster tells no roles: nobody is its primary";
            return Err(CommandError::Refused(kind.to_owned()));
        }
        let appointed = state.appoint(backend, now.instant);
        appointed.map_err(|error| CommandError::Refused(error.to_string()))?;
        let id = state.backends[position].handle.id;
        info!(cluster, backend, cause = %Cause::AdminCommand, "primary appointed");
        self.decide(id, now);
        let Some(found) = self.find(id).filter(|it| it.role != Role::Primary) else {
            return Ok(());
        };
        let (role, cause) = (found.role.as_str(), found.role_cause);
        Err(CommandError::Refused(format!(
            "the decision is noted, but it does not suffice yet: it is {role} ({cause})"
        )))
    }
}
